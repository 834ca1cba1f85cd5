"""What is asked of a whole pool, and done with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.pool import reports
from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.holding import Holder
from flask_pooled_db.pool.interrupter import Interrupter
from flask_pooled_db.pool.leaks import Leaks
from flask_pooled_db.pool.liveness import Liveness
from flask_pooled_db.pool.probe import Finding, Probe
from flask_pooled_db.pool.state import Change, State, Terms
from flask_pooled_db.pool.supply import Supply
from flask_pooled_db.runtime import crew, guard

T = TypeVar("T")


class Whole:
    """A pool as a whole: its numbers, its errors, its end."""

    terms: Terms
    state: State
    supply: Supply
    replica: Any  # another pool, where its readonly leases go
    leaks: Leaks
    interrupter: Interrupter
    liveness: Liveness
    _tend: Callable[[Any], None]
    _clock: Callable[[], float]
    _returned: Callable[[], None] | None = None
    _refused: Callable[[], BaseException] | None = None

    def invalidate(self) -> None:
        """Have every connection pinged before it is lent again: one was found dead or unusable, and
        the others may be too.
        """
        with self.state.lock:
            for entry in (*self.state.idle, *self.state.in_use_locked()):
                self.liveness.suspect(entry)

    def forget_gone(self) -> None:
        """Forget callers that can't be woken any more, before others look at the numbers."""
        if self.state.waiters and not guard.is_inside():
            self.supply.forget_gone()

    def snapshot(self) -> reports.Snapshot:
        """Return the numbers of this moment."""
        self.forget_gone()
        with self.state.lock:
            return self.state.snapshot_locked(self._clock())

    def holders(self) -> list[Holder]:
        """Return who holds connections, the longest first, as far as it is known."""
        with self.state.lock:
            return self.state.holders_locked(self._clock(), self.terms.bind)

    @property
    def tells_holders(self) -> bool:
        """Whether it is known who holds connections."""
        return self.terms.holders.is_on()

    def trouble(self) -> reports.Trouble | None:
        """Return what is wrong with connecting, if the last connect failed."""
        backoff = self.state.connector.backoff
        with self.state.lock:
            error, since = backoff.error, self._clock() - backoff.failing_since
            refuses = backoff.refusal is not None or backoff.outage > 0
        return None if error is None else reports.Trouble(since, reports.describe(error), refuses)

    def timeout(self, started: float, *, may_wait: bool = True) -> PoolTimeout:
        """Return the error of a caller that waits since `started` and gives up."""
        waited = self._clock() - started
        self.terms.events.timed_out(waited, self.holders)
        backoff = self.state.connector.backoff
        return reports.pool_timeout(
            self.terms.bind,
            self.snapshot(),
            waited,
            backoff.error,
            may_wait=may_wait,
            outage=backoff.outage,
            shortage=self.supply.shortage(),
            holders=self.holders(),
        )

    def when_refused(self, make: Callable[[], BaseException] | None) -> None:
        """Have `make` make the error of a caller who comes when connecting has failed for good, its
        pause is over, and nothing is open: the settings are to be asked for again.
        """
        self._refused = make

    def refuse_locked(self, started: float | None = None) -> None:
        """Raise if the pool is closed, or if connecting fails for good and there is no connection
        that may be returned. The caller came at `started`, or comes now.
        """
        state = self.state
        if state.is_closed:
            was_there = started is not None and started < self.supply.closed_at
            raise self.supply.refusal_of_waiting() if was_there else self.supply.refusal()
        error = state.connector.backoff.refusal
        if error is not None and not state.idle and not state.in_use:
            raise reports.connect_failed(self.terms.bind, error)
        has_failed = state.connector.backoff.is_permanent
        if has_failed and self._refused is not None and self.is_unused and self.is_empty:
            raise self._refused()

    @property
    def patience(self) -> float:
        """How many seconds a caller waits who does not say."""
        return self.terms.config.acquire_timeout

    @property
    def is_closed(self) -> bool:
        """Whether it lends nothing any more."""
        return self.state.is_closed

    @property
    def is_empty(self) -> bool:
        """Whether nothing is open."""
        return not self.state.places.taken

    @property
    def is_unused(self) -> bool:
        """Whether nobody has or wants a connection, of its replica too. Only the lock makes that
        last.
        """
        state = self.state
        return not (state.in_use or state.waiters or len(state.readers))

    @property
    def last_used(self) -> float:
        """When a caller last had or wanted a connection, by the clock, if it is unused now."""
        return self.state.last_used

    def watch_returns(self, told: Callable[[], None] | None) -> None:
        """Have `told` called after each return, or nothing any more."""
        self._returned = told

    def when_emptied(self, told: Callable[[], None] | None) -> None:
        """Have `told` called, with the lock held, once it is closed and nothing is open."""
        self.supply.emptied = told

    def tell_emptied_locked(self) -> None:
        """Tell that it is closed and nothing is open, if that is so."""
        self.supply.tell_emptied_locked()

    def probe(self, seconds: float) -> Finding:
        """Return whether a caller would get a connection that answers. It takes no longer than
        `seconds`, and nothing that a caller needs.
        """
        self._tend(self)  # what is opened for it is looked after
        return Probe(self.supply, self.liveness, self.invalidate, seconds).run()

    def ask_idle(self, question: Callable[[Entry], T], seconds: float) -> T | None:
        """Return what a function makes of an idle connection in `seconds`; None if there is none.
        See `Probe.ask()`.
        """
        return Probe(self.supply, self.liveness, self.invalidate, seconds).ask(question)

    # The end

    def close(self, timeout: float = 0.0, **how: Any) -> bool:
        """Lend nothing more, wait up to `timeout` seconds for leases, close all connections.

        Callers that wait get `PoolClosed`. A lease that is still out goes on; its connection is
        closed when it is returned. See `Supply.close_all` for the rest of the arguments, and for
        what is returned.
        """
        if not self.supply.close_all(**how):
            return False
        if self.replica is not None:  # its callers wait there as well
            self.replica.supply.change(self._refuse_readers_locked)
        self.leaks.reclaim()
        # Who waits releases the lock, amid the change that a signal handler may have interrupted.
        state, deadline = self.state, monotonic() + (0.0 if guard.is_inside() else timeout)
        with state.lock:
            state.returned = state.returned or threading.Condition(state.lock)
            while state.places.taken and (left := deadline - monotonic()) > 0:
                state.returned.wait(left)
        self.terms.driver.close_all()
        crew.dismiss()
        return True

    def _refuse_readers_locked(self, change: Change) -> None:
        if self.replica is not None:
            queue, refusal = self.replica.state.queue, self.supply.refusal_of_waiting
            change.tell(queue.fail_locked(refusal, lambda waiter: waiter.asked_of is self))

    def after_fork(self) -> None:
        """Start afresh in a forked child: what the parent opened is the parent's."""
        self.state = self.supply.start_afresh()
        self.terms.events.forked()
        self.interrupter.after_fork()
        self.terms.driver.after_fork()
