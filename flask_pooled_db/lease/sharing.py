"""MAXSHARED: connections that serve several threads at once, as DBUtils has it.

Only drivers with a thread safety above 1 can do that. A reader who does not need it may skip this
module: nothing but the DBUtils face knows of it.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

from flask_pooled_db.drivers import hazard_of_sharing
from flask_pooled_db.lease.proxy import LeaseConnection, class_for
from flask_pooled_db.lease.state import State as LeaseState
from flask_pooled_db.pool import Engine, Entry
from flask_pooled_db.pool.state import State

logger = logging.getLogger("flask_pooled_db")


class Sharing:
    """The shared connections of one pool. It is the home that their leases go back to."""

    def __init__(self, pool: Engine, most: int) -> None:
        self._pool = pool
        self._most = most
        self._has_warned = False
        self.terms = pool.terms
        self.interrupter = pool.interrupter
        self._start(pool.state)

    def _start(self, state: State) -> None:
        self._state = state  # a forked child has a new one
        self.changed = threading.Condition(state.lock)  # guards the fields below
        self._leases: dict[Entry, int] = {}  # how many leases each shared connection has
        self._joinable: set[Entry] = set()  # those that may get one more
        self._in_transaction: set[Entry] = set()  # those on which begin() was called
        self.count = 0  # how many are joinable, or about to be

    def acquire(self, timeout: float | None = None) -> Entry:
        """Return a connection to share: a new one up to `maxshared`, else the one shared least."""
        if self._state is not self._pool.state:
            self._start(self._pool.state)
        clock = self.terms.clock
        started = clock()
        may_wait = self.terms.config.blocking
        seconds = self.terms.config.acquire_timeout if timeout is None else timeout
        deadline = started + seconds
        while True:
            with self._state.lock:
                entry, has_given_up = self._wait_for_share_locked(
                    started, deadline if may_wait else 0.0
                )
            if has_given_up:
                self._pool.hurry()
                raise self._pool.timeout(started, may_wait=may_wait)
            if entry is None:
                return self._add(max(0.0, deadline - clock()))
            if entry.look() <= 0:
                return entry
            if self.leave(entry, is_valid=False):
                self._pool.evict(entry, "it was found dead")

    def _wait_for_share_locked(self, started: float, deadline: float) -> tuple[Entry | None, bool]:
        """Return a connection that has one more lease now, or None if one is to be added; and
        whether the time is up, or waiting is of no use.
        """
        while True:
            self._pool.refuse_locked()
            limit = self._state.places.limit
            is_full = limit and len(self._state.in_use) >= limit
            if self.count < self._most and not (is_full and self._joinable):
                self.count += 1
                return None, False
            entry = self._least_shared_locked()
            if entry is not None:
                self._leases[entry] += 1
                self._state.checkouts += 1
                return entry, False
            left = deadline - self.terms.clock()
            if left <= 0 or self._state.is_cut_off_locked(started, self.terms.config):
                return None, True
            self.changed.wait(left)

    def _add(self, timeout: float) -> Entry:
        entry = None
        try:
            entry = self._pool.acquire(timeout)
        finally:
            with self._state.lock:
                if entry is None:
                    self.count -= 1
                else:
                    self._leases[entry] = 1
                    self._add_joinable_locked(entry)
                self.changed.notify_all()
        return entry

    def _add_joinable_locked(self, entry: Entry) -> None:
        hazard = hazard_of_sharing(entry.raw)
        if not hazard:
            self._joinable.add(entry)
            return
        self.count -= 1
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "POOLED_DB_MAXSHARED has no effect: these connections can't be shared between "
                "threads (%s), whatever the threadsafety of their creator says",
                hazard,
            )

    def _least_shared_locked(self) -> Entry | None:
        """As in DBUtils, a connection in a transaction is not shared."""
        free = [
            entry
            for entry in self._joinable - self._in_transaction
            if not entry.driver.in_transaction(entry.raw)
        ]
        return min(free, key=self._leases.__getitem__, default=None)

    def leave(self, entry: Entry, *, is_valid: bool = True) -> bool:
        """Take one lease off a connection. Returns whether it was the last. An invalid connection
        gets no further leases, and is not used again.
        """
        with self._state.lock:
            left = self._leases.pop(entry, 1) - 1
            if left:
                self._leases[entry] = left
            if not is_valid:
                entry.expires_at = 0.0
            if entry in self._joinable and not (left and is_valid):
                self._joinable.remove(entry)
                self.count -= 1
            self.changed.notify_all()
            return not left

    def begin(self, entry: Entry) -> None:
        """Give a connection no more leases until its transaction has ended."""
        with self._state.lock:
            self._in_transaction.add(entry)

    def transaction_ended(self, entry: Entry) -> None:
        """Note that a connection may be shared again."""
        with self._state.lock:
            self._in_transaction.discard(entry)
            self.changed.notify_all()

    def close(self) -> None:
        """Wake the callers that wait: the pool is closed."""
        with self._state.lock:
            self.changed.notify_all()

    # The home of its leases

    def release(self, entry: Entry, *, unused: bool = False) -> None:
        """Return a connection to the pool after its last lease."""
        self.transaction_ended(entry)
        self._pool.release(entry, unused=unused)

    def lost(self, entry: Entry) -> None:
        """Note that a lease is garbage; its connection is closed when it has no others."""
        self._pool.lost(entry, functools.partial(self.leave, entry, is_valid=False))

    def invalidate(self) -> None:
        """Have all connections of the pool checked."""
        self._pool.invalidate()


class SharedLease(LeaseConnection):
    """A lease of a connection that has others."""

    __slots__ = ()

    _home: Sharing

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._state = LeaseState.IDLE  # what others do on its connection is not known to it

    def begin(self) -> None:
        super().begin()
        self._home.begin(self.touch())

    def _end_transaction(self) -> None:
        super()._end_transaction()
        if self._entry is not None:
            self._home.transaction_ended(self._entry)

    def _give_back(self, entry: Entry, state: LeaseState) -> None:
        # It is rolled back with its last lease, and not before: others may have work under way.
        if self._home.leave(entry, is_valid=entry.condemned is None):
            super()._give_back(entry, LeaseState.IN_TRANSACTION)


def shared_class(entry: Entry, pool: Engine) -> type[SharedLease]:
    """Return the class for shared leases of a connection."""
    plain = entry.lease_class or class_for(entry, pool.lease_classes)
    if plain not in pool.lease_classes:
        pool.lease_classes[plain] = type("SharedLease", (SharedLease, plain), {"__slots__": ()})
    made: type[SharedLease] = pool.lease_classes[plain]
    return made
