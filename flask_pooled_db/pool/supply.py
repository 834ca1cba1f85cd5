"""The supply of a pool: connections are opened, handed to those who wait, and closed.

Whoever changes the pool's state notes in a `Change` what that asks for, and carries it out when the
lock has been released. A place is taken before a connect begins and given back after a close has
ended, so that the limit holds at every instant.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
from collections.abc import Callable
from typing import TypeVar

from flask_pooled_db.config import shown
from flask_pooled_db.errors import PoolClosed
from flask_pooled_db.pool import evictions, reports
from flask_pooled_db.pool.budget import Budget, is_probed
from flask_pooled_db.pool.connector import Attempt, end_late
from flask_pooled_db.pool.entry import DRAINED_AT, Entry, EntryRef
from flask_pooled_db.pool.liveness import Liveness
from flask_pooled_db.pool.places import Place
from flask_pooled_db.pool.queue import ServerDown, Waiter
from flask_pooled_db.pool.state import Change, Sizes, State, Terms
from flask_pooled_db.runtime import housekeeper, reporter, workers

logger = logging.getLogger("flask_pooled_db")

T = TypeVar("T")

Refusal = Callable[[], PoolClosed]
"""Makes the errors of callers for whom the pool is closed."""

LIFETIME_JITTER = 0.1
"""The part of `max_lifetime` by which lifetimes differ, so that not all expire at once."""


class Supply:
    """Opens connections for one pool, hands them over, and closes them. See `connector.Host`."""

    def __init__(
        self, terms: Terms, sizes: Sizes, liveness: Liveness, budget: Budget | None = None
    ) -> None:
        self.terms = terms
        self.sizes = sizes
        self.budget = budget
        self.is_replica = False
        self._liveness = liveness
        self.refusal: Refusal = functools.partial(reports.pool_closed, terms.bind)  # once closed
        self.refusal_of_waiting: Refusal = self.refusal
        self.closed_at = math.inf
        self.emptied: Callable[[], None] | None = None  # called once closed, with the lock held
        self.state = self._new_state()

    def _new_state(self) -> State:
        return State(self.terms, self.sizes, None if self.budget is None else self.budget.places)

    def start_afresh(self) -> State:
        """Begin with nothing open, as in a forked child. Returns the new state."""
        is_closed = self.state.is_closed
        self.state = self._new_state()
        self.state.is_closed = is_closed
        return self.state

    # Changes: decided under the lock, carried out without it

    def change(self, decide: Callable[[Change], T]) -> T:
        """Call `decide` with the lock held, and then carry out what it asked for.

        Not a `with` block: an interruption between its two halves would leave the lock held.
        """
        change = Change()
        try:
            with self.state.lock:
                return decide(change)
        finally:
            self.carry_out(change)

    def carry_out(self, change: Change) -> None:
        """Wake those, start the openers and close the connections that a change asks for.

        What an exception keeps from being carried out is garbage then, and found as such. A task
        that is not woken looks by itself at its deadline.
        """
        rings = [waiter.bell is None or waiter.bell.ring() for waiter in change.settled]
        for attempt in change.attempts:
            self.state.connector.start(self, attempt)
        for do in change.later:  # first: none of it waits for a server
            do()
        if not all(rings):
            self.forget_gone()
        for entry, reason in change.evictions:
            self.close(entry, reason)

    def forget_gone(self, *, waiting: bool = True) -> None:
        """Have back what was handed to tasks whose event loop is closed, and forget those that are
        still `waiting`. It does not wait.
        """
        state = self.state
        with state.lock:
            callers = [*state.handed.members(), *(state.waiters if waiting else ())]
        gone = [waiter for waiter in callers if waiter.is_gone]
        if gone:
            self.change(functools.partial(self._forget_locked, gone))

    def _forget_locked(self, gone: list[Waiter], change: Change) -> None:
        now = self.terms.clock()
        for entry in self.state.take_back_locked(gone):
            entry.since = now
            if now < entry.expires_at and self.keeps_locked(entry):
                self.state.idle.append(entry)
            else:
                reason = entry.link.reason or "the event loop of its caller was closed"
                change.later.append(functools.partial(self.close_elsewhere, entry, reason))
        self.assign_locked(change)

    def close(self, entry: Entry, reason: str) -> None:
        """Close a connection, with a goodbye unless it is condemned, and free its place."""
        entry.link.reason = entry.link.reason or reason  # if an exception loses it, it is no leak
        try:
            entry.end()
        finally:
            self.closed(entry.ref, reason)

    def close_after_checkpoint(self, entry: Entry, reason: str) -> None:
        """Like `close()`, but first bring into the database what lies beside it."""
        with contextlib.suppress(Exception):  # there may be none, or it is not its time
            entry.driver.checkpoint(entry.raw)
        self.close(entry, reason)

    def close_elsewhere(self, entry: Entry, reason: str, *, after_checkpoint: bool = False) -> None:
        """Like `close()`, in a thread of its own."""
        close = self.close_after_checkpoint if after_checkpoint else self.close
        housekeeper.call_later(0.0, functools.partial(self._start_closing, close, entry, reason))

    def _start_closing(
        self, close: Callable[[Entry, str], None], entry: Entry, reason: str
    ) -> None:
        try:
            workers.start("closer", functools.partial(close, entry, reason))
        except Exception:  # noqa: BLE001  no more threads: terminating takes no time
            entry.condemn("there was no thread to close it")
            self.close(entry, reason)

    def closed(self, ref: EntryRef, reason: str) -> None:
        """Free the place of a connection that was closed, for those who wait.

        If another thread is closing it, that one will. If an exception kept it from being closed,
        it is found as garbage.
        """
        state, link = self.state, ref.link
        if not link.has_ended:
            return
        with state.lock:  # it is told once, and before its place is free
            is_first, link.is_told = ref in state.open and not link.is_told, True
        if is_first:
            self.terms.events.evicted(reason)
        change = Change()
        with state.lock:
            if ref in state.in_use:
                del state.in_use[ref]
                state.never_returned += 1
            self._free_locked(link.place, change)
            state.open.discard(ref)
            self.assign_locked(change)
        self.carry_out(change)

    def _free_locked(self, place: Place | None, change: Change) -> None:
        if place is not None:
            place.give_back()
            if self.state.returned is not None:
                self.state.returned.notify_all()
            if self.budget is not None:
                self.budget.freed_locked(self, place, change)
            self.tell_emptied_locked()

    def tell_emptied_locked(self) -> None:
        """Tell who has closed the pool that nothing is open any more, if that is so."""
        if self.emptied is not None and self.state.is_closed and not self.state.places.taken:
            self.emptied()

    def assign_locked(self, change: Change) -> None:
        """Hand idle connections to waiters, and take places for openers: this is where waiters,
        idle connections and free places meet.
        """
        state = self.state
        while state.waiters and state.idle:
            entry = state.pop_idle_locked(state.waiters[0].session)
            state.check_out_locked(entry, self.terms.clock())
            waiter = state.queue.next_locked()
            waiter.settle(entry)
            if waiter.bell is not None:
                state.handed.add(waiter)
                change.settled.append(waiter)
        budget = self.budget
        if budget is None or budget.serve_locked(self, change):
            wanted = state.wanted_locked(self.sizes, is_replica=self.is_replica)
            if budget is not None and is_probed(self):
                wanted = min(wanted, budget.probes_left_locked())
            self.open_locked(change, wanted)

    def open_locked(self, change: Change, count: int) -> None:
        """Take up to so many places, each for an opener."""
        state = self.state
        for _ in range(count):
            if self.budget is not None:
                self.budget.holds_locked(self)
            place = state.places.take()
            if place is None:
                return
            change.attempts.append(state.connector.begin_locked(place))

    def keeps_locked(self, entry: Entry) -> bool:
        """Return whether a connection may be kept that is neither idle nor in use."""
        budget = self.budget
        return self.state.has_room_locked() and not (budget and budget.takes_locked(self, entry))

    def is_overrun_locked(self) -> bool:
        """Return whether one more caller would wait although it must not."""
        config, state = self.terms.config, self.state
        if config.blocking and not config.max_waiting:
            return False
        allowed = config.max_waiting if config.blocking else 0
        # One that is looked at comes back in a moment, and was idle when others would have had it.
        looked_at = sum(ref in state.in_use for ref in state.looked_at)
        callers = len(state.in_use) - looked_at + len(state.queue)
        return callers - self.limit_locked() >= allowed

    def limit_locked(self) -> float:
        """Return how many connections its callers may have, with what others have and wait for."""
        most = self.state.places.most
        return most if self.budget is None else min(most, self.budget.left_locked(self))

    def note_silence(self) -> None:
        """Have readers avoid a replica that did not answer a ping, until a connect succeeds."""
        state, error = self.state, TimeoutError("the server did not answer a ping")
        change = Change()
        with state.lock:
            is_first = state.connector.backoff.failed_locked(error, is_permanent=False)
            change.tell(state.queue.fail_locked(ServerDown, lambda waiter: waiter.needs_up))
        self.carry_out(change)
        if is_first:
            self.terms.events.went_down(error)
            text = "The database of bind %s does not answer"
            reporter.tell(logger.warning, text, shown(self.terms.bind))

    def hurry(self) -> None:
        """If the server is down, have a connect tried soon: a caller is turned away."""
        if self.state.connector.backoff.is_down:
            self.change(self._hurry_locked)

    def _hurry_locked(self, change: Change) -> None:
        if self.state.connector.backoff.is_due_locked():
            self.state.probe_asked = min(self.state.probe_asked, self.terms.clock())
            self.assign_locked(change)

    def shortage(self) -> reports.Shortage | None:
        """Return what to say to a caller who waited for other pools, or None."""
        return None if self.budget is None else self.budget.shortage(self)

    # The whole pool

    def evict_idle(self, reason: str) -> None:
        """Terminate what is idle: its server may not be listening."""

        def decide(change: Change) -> None:
            idle = self.state.take_idle_locked()
            for entry in idle:
                entry.condemn(reason)
            change.evict(idle, reason)

        self.change(decide)

    def drain(self) -> None:
        """Replace every connection: the idle ones now, those in use when they are returned."""
        self.change(lambda change: self._retire_locked(change, evictions.DRAINED))

    def close_all(
        self,
        only_if: Callable[[], bool] = lambda: True,
        *,
        late: Refusal | None = None,
        waiting: Refusal | None = None,
    ) -> bool:
        """Lend nothing more, and close every connection like `drain()`, if `only_if` says so, which
        is called with the lock held. Returns whether it did.

        `waiting` makes the errors of callers who wait now, and `late` those of callers who come
        later. Otherwise it is PoolClosed.
        """

        def decide(change: Change) -> bool:
            if not only_if():
                return False
            self.state.is_closed = True
            self.closed_at = self.terms.clock()
            self.refusal_of_waiting = waiting or self.refusal
            change.tell(self.state.queue.fail_locked(self.refusal_of_waiting))
            self.refusal = late or self.refusal
            self.state.tell_onlookers_locked(connected=False)
            self._retire_locked(change, evictions.CLOSED)
            return True

        is_closed = self.change(decide)
        if is_closed:
            self.state.connector.end_pauses()
        return is_closed

    def _retire_locked(self, change: Change, reason: str) -> None:
        """Have nothing that is open or being opened used again."""
        self.state.generation += 1
        for entry in self.state.in_use_locked():
            entry.expires_at = DRAINED_AT
        change.evict(self.state.take_idle_locked(), reason)

    def resize(self, sizes: Sizes) -> None:
        """Change the sizes. Leases beyond them go on; their connections are closed afterwards."""
        self.change(functools.partial(self._resize_locked, sizes))

    def _resize_locked(self, sizes: Sizes, change: Change) -> None:
        state = self.state
        if state.is_closed:
            raise self.refusal()
        self.sizes = sizes
        state.places.set_limit(sizes.maxconnections)
        state.most_idle = sizes.maxcached or math.inf
        state.may_lack_room = True
        idle = list(state.idle)
        surplus = max(state.places.taken - state.places.most, len(idle) - state.most_idle, 0)
        oldest = idle[: int(min(surplus, len(idle)))]
        change.evict(state.take_idle_locked(oldest), evictions.SMALLER)
        self.assign_locked(change)

    # For openers

    def generation(self) -> int:
        return self.state.generation

    def next_turn(self, attempt: Attempt) -> float | None:
        return self.change(functools.partial(self._next_turn_locked, attempt))

    def _next_turn_locked(self, attempt: Attempt, change: Change) -> float | None:
        state, budget = self.state, self.budget
        pause = state.connector.backoff.pause_locked()
        is_needed = len(state.queue) > 0 or (pause <= 0 and not workers.is_forking)
        if is_needed and budget is not None and (pause > 0 or not state.is_asked_locked()):
            is_needed = not budget.is_short_locked()  # else another pool has more use for the place
        is_wanted = is_needed and not state.is_closed
        if is_wanted and state.places.taken <= state.places.most:  # else it was made smaller
            return pause
        state.connector.end_locked(attempt)
        self._free_locked(attempt.place, change)
        if budget is not None:
            budget.serve_locked(self, change)
        return None

    def connected(self, attempt: Attempt, entry: Entry) -> Attempt | None:
        state, config = self.state, self.terms.config
        if attempt.place is None:
            end_late(entry)
            self._came_back(attempt)
            return None
        if config.max_lifetime:
            share = 1.0 - LIFETIME_JITTER * random.random()
            entry.expires_at = entry.origin.opened_at + config.max_lifetime * share
        self._liveness.welcome(entry)
        ref = entry.join(state.lost.append)
        self.terms.events.opened(self.terms.clock() - entry.origin.opened_at)
        change = Change()
        with state.lock:
            entry.link.place = attempt.place
            state.connector.end_locked(attempt)
            state.open.add(ref)
            state.drained_at = min(state.drained_at, entry.origin.opened_at)
            has_recovered = state.connector.backoff.succeeded_locked()
            state.probe_asked = math.inf
            state.tell_onlookers_locked(connected=True)
            is_current = attempt.generation == state.generation and not state.is_closed
            if is_current and self.keeps_locked(entry):
                state.idle.append(entry)
            else:
                change.evict([entry], entry.link.reason or evictions.NOT_NEEDED)
            self.assign_locked(change)
            following = change.take_attempt()
        if has_recovered:
            self.terms.events.came_back()
            text = "The database of bind %s is back"
            reporter.tell(logger.warning, text, shown(self.terms.bind))
        self.carry_out(change)
        return following

    def connect_failed(
        self, attempt: Attempt, error: BaseException, *, is_permanent: bool, hangs: bool = False
    ) -> Attempt | None:
        state, bind = self.state, self.terms.bind
        if attempt.place is None:
            self._came_back(attempt)
            return None
        self.terms.events.connect_failed(error)
        change = Change()
        with state.lock:
            connector = state.connector
            place = connector.hang_locked(attempt) if hangs else attempt.place
            if not hangs:
                connector.end_locked(attempt)
            is_first = connector.backoff.failed_locked(error, is_permanent=is_permanent)
            state.probe_asked = math.inf
            state.tell_onlookers_locked(connected=False)
            failed = state.queue.fail_locked(
                lambda: reports.connect_failed(bind, error),
                lambda waiter: is_permanent or waiter.needs_up,
            )
            change.tell(failed)
            self._free_locked(place, change)
            if state.waiters:  # else upkeep makes the next try
                self.assign_locked(change)
            elif self.budget is not None:
                self.budget.serve_locked(self, change)
            following = change.take_attempt()
        if is_first:
            self.terms.events.went_down(error)
            text = "Connecting to the database of bind %s failed: %s"
            reporter.tell(logger.warning, text, shown(bind), reports.describe(error))
        self.carry_out(change)
        return following

    def _came_back(self, attempt: Attempt) -> None:
        """End a connect that hung. What it brought is out of date: that it failed was told, and the
        server may be well by now. Its opener ends with it, since no fork waits for it any more.
        """
        change = Change()
        with self.state.lock:
            self.state.connector.came_back_locked(attempt)
            if self.state.waiters:
                self.assign_locked(change)
        self.carry_out(change)
