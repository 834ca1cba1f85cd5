"""The engine of a pool: who gets a connection, and what becomes of it afterwards.

It knows connections, callers and places, and nothing of leases, transactions or DBUtils.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import monotonic
from typing import Any

from flask_pooled_db.config import DEFAULT_BIND, PingPolicy, PoolConfig
from flask_pooled_db.drivers import FRESH_SESSION, Driver, Session
from flask_pooled_db.pool import evictions, reports
from flask_pooled_db.pool.budget import Budget
from flask_pooled_db.pool.entry import DRAINED_AT, Entry
from flask_pooled_db.pool.events import NoEvents, to_all
from flask_pooled_db.pool.histogram import SHORTEST
from flask_pooled_db.pool.interrupter import Interrupter
from flask_pooled_db.pool.leaks import Leaks
from flask_pooled_db.pool.liveness import PING_GRACE, Liveness, Verdict
from flask_pooled_db.pool.queue import ServerDown, Waiter
from flask_pooled_db.pool.state import Change, Sizes, Terms
from flask_pooled_db.pool.steps import Call, Steps, run
from flask_pooled_db.pool.supply import Supply
from flask_pooled_db.pool.watchers import UNWATCHED, Watchers
from flask_pooled_db.pool.whole import Whole
from flask_pooled_db.runtime import Notices, guard, housekeeper

THREAD_RETRY = 0.1
"""Seconds between two tries of a caller to start the housekeeping, if the system has no threads."""


class Engine(Whole):
    """A pool of connections.

    `acquire()` lends a connection and `release()` takes it back. Nothing is opened before the first
    `acquire()`. All methods may be called by any thread.
    """

    def __init__(
        self,
        config: PoolConfig,
        driver: Driver,
        *,
        bind: str = DEFAULT_BIND,
        clock: Callable[[], float] = monotonic,
        tend: Callable[[Engine], None] = lambda _: None,
        key: object = None,
        budget: Budget | None = None,
        watchers: Watchers = UNWATCHED,
    ) -> None:
        """`tend` is called by a checkout that has to wait or to check: upkeep begins with it.
        `clock` is a monotonic clock, in seconds. Pools of the same database, one after the other,
        have an equal `key`. `budget` is a limit of several pools together.
        """
        self.key = key or object()
        ping = PingPolicy.parse(config.ping)
        notices = Notices(clock)
        events = to_all(watchers.events) if watchers.events else NoEvents()
        _, observer, tags, holders, *_ = watchers
        self.terms = Terms(
            config, ping, driver, bind, events, clock, notices, observer, tags, holders
        )
        self.liveness = Liveness(config, ping, clock)
        sizes = Sizes(config.mincached, config.maxcached, config.maxconnections)
        self.supply = Supply(self.terms, sizes, self.liveness, budget)
        self.state = self.supply.state
        self.leaks = Leaks(self.terms, self.supply)
        self.interrupter = Interrupter(driver, config.connect_timeout)
        usual = Session(False, config.statement_timeout)
        # The very same one, most often: that is compared faster.
        self.usual_session = FRESH_SESSION if usual == FRESH_SESSION else usual
        self._reading_session = Session(True, config.statement_timeout)
        self.replica: Engine | None = None  # where readonly leases of this pool go
        self.lease_classes: dict[Any, Any] = {}  # the lease layer's, by kind
        self._tend = tend
        # What each checkout and each return needs, at hand.
        self._clock = clock
        self._trust = self.liveness.trust
        self._resets_always = config.reset == "session"
        self._resets_changed = config.reset == "changed"

    def open_outside(self) -> Entry:
        """Return a new connection that belongs to no pool."""
        return self.state.connector.open_one()

    def session(self, readonly: bool, statement_timeout: float | None) -> Session:
        """Return the session state for these options; None stands for the configured limit."""
        if statement_timeout is None:
            return self._reading_session if readonly else self.usual_session
        return Session(readonly, statement_timeout)

    # Checkout

    def acquire(self, timeout: float | None = None, session: Session | None = None) -> Entry:
        """Return a live connection for the caller alone, to be given to `release()`.

        Waits up to `timeout` seconds (None: as configured). Raises `PoolTimeout`, `ConnectFailed`
        or `PoolClosed`.
        """
        if guard.is_inside():  # nothing may wait there
            raise self.timeout(self._clock(), may_wait=False) from reports.inside()
        state = self.state
        entry = None
        try:
            now = self._clock()
            with state.lock:
                idle = state.idle
                if idle:  # so nobody waits
                    entry = idle[-1]
                    if entry.session is session:
                        del idle[-1]
                    else:
                        entry = state.pop_idle_locked(session)
                    entry.since = now
                    state.in_use[entry.ref] = None
                    state.checkouts += 1
            if entry is not None and now < entry.valid_until and not entry.look():
                return entry  # most often no more is needed than this
            return run(self._acquiring(entry, now, timeout, Waiter(session)))
        except BaseException:
            self._abandon(entry)
            raise

    def joined(self, began: float) -> None:
        """Note a caller, who came then, and got a connection that others have as well."""

    def _abandon(self, entry: Entry | None) -> None:
        """Close a connection whose checkout or return was interrupted.

        As garbage it would be found anyway, but whoever keeps the error keeps its frames, and with
        them the connection.
        """
        with self.state.lock:
            is_taken = entry is not None and entry not in self.state.idle
        if entry is not None and is_taken:
            self.evict(entry, "its checkout or its return was interrupted")

    def acquiring(self, waiter: Waiter, timeout: float | None) -> Steps[Entry]:
        """Return the steps of `acquire()`, for a waiter of another kind. One that gives up earlier
        gets `ServerDown`.
        """
        if guard.is_inside():
            raise self.timeout(self._clock(), may_wait=False) from reports.inside()
        state, now = self.state, self._clock()
        entry = None
        with state.lock:
            if state.idle and not waiter.needs_up:  # which has to look for that first
                entry = state.pop_idle_locked(waiter.session)
                state.check_out_locked(entry, now)
        return self._acquiring(entry, now, timeout, waiter)

    @property
    def is_down(self) -> bool:
        """Whether the last connect failed, or is under way without an answer."""
        backoff = self.state.connector.backoff
        return backoff.is_down or backoff.silence >= self.liveness.silence

    def _acquiring(
        self, entry: Entry | None, started: float, timeout: float | None, waiter: Waiter
    ) -> Steps[Entry]:
        """Check the connection, if there is one already, or wait for one, until one is valid."""
        deadline = started + (self.terms.config.acquire_timeout if timeout is None else timeout)
        if entry is not None:
            entry.in_check = True
        had_its_turn = False
        try:
            while True:
                if entry is None:
                    at_head = had_its_turn
                    entry = yield from self._waiting_in_line(waiter, started, deadline, at_head)
                    entry.waited_at = entry.since
                asked = self._clock()
                until = min(deadline, asked + waiter.patience)
                if self.liveness.needs_no_ping(entry) or (
                    yield Call(self._is_valid, (entry, until), entry)
                ):
                    self.terms.events.waited(self._clock() - started, self.holders)
                    entry.in_check = False  # last: it counts once at most
                    return entry
                entry = None
                had_its_turn = True  # and got a dead connection
                now = self._clock()
                limit = min(waiter.patience, self.liveness.silence)
                if self.supply.is_replica and now - asked >= limit:
                    self.supply.note_silence()
                elif now >= deadline and now - started >= PING_GRACE:
                    raise self.timeout(started)  # noqa: TRY301
                waiter = waiter.again()
        except BaseException:
            self._abandon(entry)
            raise

    def _waiting_in_line(
        self, waiter: Waiter, started: float, deadline: float, at_head: bool
    ) -> Steps[Entry]:
        if self.state.lost:
            yield Call(self.leaks.reclaim, ())
        config = self.terms.config
        counts_waiting = config.max_waiting > 0 or not config.blocking
        if len(self.state.handed) or (counts_waiting and self.state.waiters):
            self.supply.forget_gone(waiting=counts_waiting)
        self._tend(self)
        try:
            decide = functools.partial(self._queue_locked, waiter, started, at_head)
            may_wait = self.supply.change(decide)
            if not self.state.is_tended:  # any more
                self._tend(self)
            if may_wait:
                if not at_head:
                    self.terms.events.queued()
                yield from self._waiting(waiter, deadline)
            else:
                self.supply.hurry()
        except BaseException:
            entry = self._withdraw(waiter)
            if entry is not None:
                entry.in_check = False
                self.release(entry, unused=True)
            raise
        entry = self._withdraw(waiter)
        if entry is not None:
            return entry
        if waiter.has_given_up:
            raise ServerDown
        raise waiter.error or self.timeout(started, may_wait=may_wait)

    def _queue_locked(self, waiter: Waiter, started: float, at_head: bool, change: Change) -> bool:
        """Have a caller wait in line, unless it must not wait. Returns whether it does."""
        state, waiter.came = self.state, started
        self.refuse_locked()
        state.used_at = started
        if waiter.needs_up and self.is_down and not state.has_trusted_locked():
            waiter.error = ServerDown()
            return False
        if state.is_cut_off_locked(started, self.terms.config):
            return False
        if not at_head and self.supply.is_overrun_locked():
            return False
        state.queue.add_locked(waiter, at_head=at_head)
        self.supply.assign_locked(change)
        return True

    def _waiting(self, waiter: Waiter, deadline: float) -> Steps[None]:
        """Wait until the waiter is settled, or the deadline has come."""
        left = deadline - self._clock()
        # Without a thread for the housekeeping nobody would open a connection.
        while left > 0 and not housekeeper.ensure_runs():
            if (yield from waiter.waiting(min(left, THREAD_RETRY))):
                return
            left = deadline - self._clock()
        yield from waiter.waiting(left)

    def _withdraw(self, waiter: Waiter) -> Entry | None:
        with self.state.lock:
            if waiter.bell is not None:
                self.state.handed.discard(waiter)
            return self.state.queue.withdraw_locked(waiter)

    def _is_valid(self, entry: Entry, deadline: float) -> bool:
        """Check a connection that is about to be lent; evict it if it is dead."""
        try:
            verdict = self.liveness.check(entry, deadline)
        except BaseException:  # the caller was interrupted in the middle of the ping
            self.evict(entry, "its ping was interrupted")
            raise
        if verdict is Verdict.VALID:
            return True
        if verdict is Verdict.SILENT:  # the next caller must not wait for each of them as well
            self.supply.evict_idle(evictions.SILENT)
        self.terms.events.found_dead()
        self.invalidate()
        self.evict(entry, evictions.DEAD)
        return False

    # Return

    def release(self, entry: Entry, unused: bool = False) -> None:
        """Take back a connection that has no transaction open. A condemned one is closed.

        `unused` says that nothing was done with it.
        """
        is_settled = False
        try:
            if (
                not unused
                and entry.condemned is None
                and (self._resets_always or (entry.is_changed and self._resets_changed))
            ):
                self._reset(entry)
            state, now = self.state, self._clock()
            change = None
            with state.lock:
                in_use, ref = state.in_use, entry.ref
                # It was returned before, or opened before a fork. Or a finalizer of its own garbage
                # returns it: it counts as lost by now, and is closed as such.
                if ref() is not entry or in_use.pop(ref, ref) is ref:
                    entry.link.reason = entry.link.reason or evictions.ENDED_AS_GARBAGE
                    return
                seconds = now - entry.since
                state.use_seconds += seconds
                if seconds > SHORTEST:
                    state.longer_uses.add_locked(seconds)
                entry.since = now
                entry.valid_until = 0.0 if entry.is_suspect else now + self._trust
                if now < entry.expires_at and (
                    self.supply.keeps_locked(entry)
                    if state.may_lack_room
                    else len(state.idle) < state.most_idle or state.waiters
                ):
                    state.idle.append(entry)
                    is_settled = True
                    if state.waiters:
                        change = Change()
                        self.supply.assign_locked(change)
                else:
                    state.used_at = now
            if self._returned is not None:
                self._returned()
            if not is_settled:
                self._close_returned(entry, now)
            elif change is not None:
                self.supply.carry_out(change)
        except BaseException:
            self._abandon(None if is_settled else entry)
            raise

    def _close_returned(self, entry: Entry, now: float) -> None:
        reason = entry.condemned or entry.link.reason or self._reason_to_close(entry, now)
        interval = 0.0 if entry.condemned else self.terms.config.drain_interval
        with self.state.lock:
            makes_checkpoint = self.state.owes_checkpoint_locked(now, interval)
        if makes_checkpoint:  # which this thread does not wait for
            self.supply.close_elsewhere(entry, reason, after_checkpoint=True)
        else:
            self.supply.close(entry, reason)

    def _reason_to_close(self, entry: Entry, now: float) -> str:
        if self.state.is_closed:
            return evictions.CLOSED
        if now < entry.expires_at:
            return evictions.NOT_NEEDED
        return evictions.DRAINED if entry.expires_at == DRAINED_AT else evictions.SERVED

    def _reset(self, entry: Entry) -> None:
        try:
            if not entry.reset_session():
                entry.condemn(evictions.NOT_RESET)
            else:
                self.terms.events.was_reset()
        except Exception as error:  # noqa: BLE001  a return never raises
            entry.condemn(f"resetting its session failed ({type(error).__name__})")
        except BaseException:
            self.evict(entry, "resetting its session was interrupted")
            raise

    def evict(self, entry: Entry, reason: str) -> None:
        """Terminate a connection that is in use, and free its place."""
        entry.condemn(reason)
        self.supply.close(entry, reason)
