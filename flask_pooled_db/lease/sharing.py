"""MAXSHARED: connections that serve several threads at once, as DBUtils has it.

Only drivers with a thread safety above 1 can do that. A reader who does not need it may skip this
module: nothing but the DBUtils face knows of it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Generic, Protocol, TypeVar

from flask_pooled_db.drivers import hazard_of_sharing
from flask_pooled_db.pool import Engine, Entry, evictions, reports
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.state import State
from flask_pooled_db.runtime import guard

logger = logging.getLogger("flask_pooled_db")


class Sharer(Protocol):
    """A lease of a shared connection."""

    @property
    def may_be_joined(self) -> bool:
        """Whether the connection may get one more lease, as far as this one is concerned."""


S = TypeVar("S", bound=Sharer)


class Shared(Generic[S]):
    """A shared connection: its leases, and whose turn it is. The pool's lock guards the leases."""

    def __init__(self) -> None:
        self.leases: Census[S] = Census()
        self.joining = 1  # leases that are about to be made
        self.is_joinable = False
        self.has_leftovers = False  # a lease was closed before COMMIT
        # Held by a lease during its call, I/O included: the driver serves one after the other
        # anyway. So nobody sends COMMIT between an answer and what it means for the other leases.
        self.turn = threading.RLock()

    def __len__(self) -> int:
        return len(self.leases) + self.joining

    def may_be_joined(self) -> bool:
        """Return whether it may get one more lease."""
        return self.is_joinable and all(lease.may_be_joined for lease in self.leases)


class Addition:
    """The right to add a connection to those that are shared. It ends with its holder."""

    __slots__ = ("__weakref__",)


class Sharing(Generic[S]):
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
        # Weak, like all that knows of connections in use: what its leases have lost is garbage.
        self._shared: weakref.WeakKeyDictionary[Entry, Shared[S]] = weakref.WeakKeyDictionary()
        self._additions: Census[Addition] = Census()

    @property
    def count(self) -> int:
        """How many are joinable, or about to be."""
        return len(self._additions) + sum(shared.is_joinable for _, shared in self._all_locked())

    def _all_locked(self) -> list[tuple[Entry, Shared[S]]]:
        # By the references, whose list is made in one step: any of them may be garbage meanwhile.
        entries = [reference() for reference in self._shared.keyrefs()]
        found = [(entry, self._shared.get(entry)) for entry in entries if entry is not None]
        return [(entry, shared) for entry, shared in found if shared is not None]

    def acquire(self, timeout: float | None = None) -> Entry:
        """Return a connection to share: a new one up to `maxshared`, else the one shared least.
        Its lease has to `join()`.
        """
        if self._state is not self._pool.state:
            self._start(self._pool.state)
        clock = self.terms.clock
        started = clock()
        if guard.is_inside():  # nothing may wait there
            raise self._pool.timeout(started, may_wait=False) from reports.inside()
        may_wait = self.terms.config.blocking
        seconds = self.terms.config.acquire_timeout if timeout is None else timeout
        deadline = started + seconds
        while True:
            with self._state.lock:
                entry = self._wait_for_share_locked(started, deadline if may_wait else 0.0)
            if entry is None:
                self._pool.supply.hurry()
                raise self._pool.timeout(started, may_wait=may_wait)
            if isinstance(entry, Addition):
                return self._add(entry, max(0.0, deadline - clock()))
            if entry.look() <= 0:
                self._pool.joined(started)
                return entry
            if self.leave(entry, is_valid=False):
                self._pool.evict(entry, evictions.DEAD)

    def join(self, entry: Entry, lease: S) -> Shared[S]:
        """Note a new lease of a connection that `acquire()` returned."""
        with self._state.lock:
            shared = self._shared[entry]
            shared.joining -= 1
            shared.leases.add(lease)
            return shared

    def others(self, shared: Shared[S], lease: S) -> list[S]:
        """Return the other leases of a connection."""
        with self._state.lock:
            return [other for other in shared.leases if other is not lease]

    def _wait_for_share_locked(self, started: float, deadline: float) -> Entry | Addition | None:
        """Return a connection that has one more lease now, or the right to add one, or None when
        the time is up, or waiting is of no use.
        """
        while True:
            self._pool.refuse_locked(started)
            self._retire_expired_locked()
            is_full = len(self._state.in_use) >= self._pool.supply.limit_locked()
            if self.count < self._most and not (is_full and self._has_joinable_locked()):
                addition = Addition()
                self._additions.add(addition)
                return addition
            entry = self._least_shared_locked()
            if entry is not None:
                self._shared[entry].joining += 1
                self._state.checkouts += 1
                return entry
            left = deadline - self.terms.clock()
            if left <= 0 or self._state.is_cut_off_locked(started, self.terms.config):
                return None
            self.changed.wait(left)

    def _retire_expired_locked(self) -> None:
        """Give no more leases to connections that are to be replaced: with ever new ones they would
        never come back.
        """
        now = self.terms.clock()
        for entry, shared in self._all_locked():
            if entry.expires_at <= now:
                shared.is_joinable = False

    def _add(self, addition: Addition, timeout: float) -> Entry:
        entry = None
        try:
            entry = self._pool.acquire(timeout)
        finally:
            with self._state.lock:
                self._additions.discard(addition)
                if entry is not None:
                    self._shared[entry] = Shared()
                    self._add_joinable_locked(entry)
                self.changed.notify_all()
        return entry

    def _add_joinable_locked(self, entry: Entry) -> None:
        hazard = hazard_of_sharing(entry.raw)
        if not hazard:
            self._shared[entry].is_joinable = True
            return
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "POOLED_DB_MAXSHARED has no effect: these connections can't be shared between "
                "threads (%s), whatever the threadsafety of their creator says",
                hazard,
            )

    def _has_joinable_locked(self) -> bool:
        return any(shared.is_joinable for _, shared in self._all_locked())

    def _least_shared_locked(self) -> Entry | None:
        """As in DBUtils, a connection in a transaction is not shared."""
        free = {
            entry: len(shared)
            for entry, shared in self._all_locked()
            if shared.may_be_joined() and not entry.driver.in_transaction(entry.raw)
        }
        return min(free, key=free.__getitem__, default=None)

    def leave(self, entry: Entry, lease: S | None = None, *, is_valid: bool = True) -> bool:
        """Take a lease off a connection, or one that was promised. Returns whether it was the last.
        An invalid connection gets no further leases, and is not used again.
        """
        with self._state.lock:
            shared = self._shared[entry]
            if lease is None:
                shared.joining -= 1
            else:
                shared.leases.discard(lease)
            if not is_valid:
                entry.expires_at = 0.0
            if not (shared and is_valid):
                shared.is_joinable = False
            if not shared:
                del self._shared[entry]
            self.changed.notify_all()
            return not shared

    def retire(self, shared: Shared[S]) -> None:
        """Give a connection no more leases."""
        with self._state.lock:
            shared.is_joinable = False
            self.changed.notify_all()

    def notify(self) -> None:
        """Wake the callers that wait: a connection may be joined again, or the pool is closed."""
        with self._state.lock:
            self.changed.notify_all()

    # The home of its leases

    def release(self, entry: Entry, unused: bool = False) -> None:
        """Return a connection to the pool after its last lease."""
        self._pool.release(entry, unused=unused)

    def invalidate(self) -> None:
        """Have all connections of the pool checked."""
        self._pool.invalidate()
