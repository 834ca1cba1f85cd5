"""REPLICA: the pool that readonly leases of another pool go to. A reader may skip this module."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import ConnectFailed
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.liveness import PING_GRACE
from flask_pooled_db.pool.queue import Bell, ServerDown, Wait, Waiter
from flask_pooled_db.pool.steps import Steps, run
from flask_pooled_db.runtime import guard


def read_from(pool: Engine, replica: Engine) -> None:
    """Send the readonly leases of a pool to another one."""
    pool.replica = replica
    replica.supply.is_replica = True


class Reader(Waiter):
    """A caller that goes elsewhere once the replica has not answered for `patience` seconds.

    It waits on while the replica is merely busy.
    """

    __slots__ = ("_replica", "asked_of", "has_given_up", "patience")

    needs_up = True

    def __init__(
        self,
        session: Session | None,
        bell: Bell | None,
        replica: Engine,
        patience: float,
        asked_of: object,
    ) -> None:
        super().__init__(session, bell)
        self._replica = replica
        self.asked_of = asked_of
        self.patience = patience
        self.has_given_up = False

    def again(self) -> Reader:
        return Reader(self.session, self.bell, self._replica, self.patience, self.asked_of)

    def waiting(self, seconds: float) -> Generator[Wait, Any, bool]:
        clock, backoff = self._replica.terms.clock, self._replica.state.connector.backoff
        deadline = clock() + seconds
        while not (yield Wait(self, min(deadline - clock(), self.patience - backoff.silence))):
            self.has_given_up = backoff.silence >= self.patience
            if self.has_given_up or clock() >= deadline:
                return False
        return True


class Asked(Waiter):
    """A caller that waits for the replica alone."""

    __slots__ = ("asked_of",)

    def __init__(self, session: Session | None, bell: Bell | None, asked_of: object) -> None:
        super().__init__(session, bell)
        self.asked_of = asked_of

    def again(self) -> Asked:
        return Asked(self.session, self.bell, self.asked_of)


class Reading:
    """The home of a lease on a replica. It counts as one of the pool that was asked for it, which
    is in use meanwhile.
    """

    __slots__ = ("__weakref__", "_pool", "_replica", "interrupter", "terms")

    def __init__(self, pool: Engine, replica: Engine) -> None:
        self._pool = pool
        self._replica = replica
        self.terms = replica.terms
        self.interrupter = replica.interrupter

    def begin(self) -> bool:
        """Count from now on. Returns False if the pool is closed."""
        with guard.lock:
            if not self._pool.is_closed:
                self._pool.state.readers.add(self)
            return not self._pool.is_closed

    def end(self) -> None:
        """Count no more."""
        state = self._pool.state
        with guard.lock:
            state.readers.discard(self)
            state.used_at = self._pool.terms.clock()

    def release(self, entry: Entry, unused: bool = False) -> None:
        """Give a connection back to the replica."""
        self.end()
        self._replica.release(entry, unused=unused)

    def invalidate(self) -> None:
        """Have all connections of the replica checked."""
        self._replica.invalidate()


def acquire_to_read(
    pool: Engine, timeout: float | None, session: Session
) -> tuple[Engine | Reading, Entry]:
    """Return a connection for reads and its home: the replica if it is up, else the pool itself."""
    if pool.replica is None:
        return pool, pool.acquire(timeout, session)
    return run(acquiring_to_read(pool, timeout, session, None))


def acquiring_to_read(
    pool: Engine, timeout: float | None, session: Session, bell: Bell | None
) -> Steps[tuple[Engine | Reading, Entry]]:
    """Return the steps of `acquire_to_read`, for a caller with this bell."""
    replica = pool.replica
    if replica is None or guard.is_inside():
        return pool, (yield from pool.acquiring(Waiter(session, bell), timeout))
    reading = Reading(pool, replica)
    if not reading.begin():
        return pool, (yield from pool.acquiring(Waiter(session, bell), timeout))  # it is refused
    if not pool.terms.config.replica_fallback:
        return reading, (yield from replica.acquiring(Asked(session, bell, pool), timeout))
    seconds = replica.terms.config.acquire_timeout if timeout is None else timeout
    deadline = pool.terms.clock() + seconds
    # A reader with little time keeps half of it for the pool itself.
    patience = min(replica.liveness.silence, max(seconds / 2, PING_GRACE))
    try:
        reader = Reader(session, bell, replica, patience, pool)
        return reading, (yield from replica.acquiring(reader, seconds))
    except (ServerDown, ConnectFailed):
        reading.end()
        left = max(deadline - pool.terms.clock(), 0.0)
        return pool, (yield from pool.acquiring(Waiter(session, bell), left))
