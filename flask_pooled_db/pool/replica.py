"""REPLICA: the pool that readonly leases of another pool go to. A reader may skip this module."""

from __future__ import annotations

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import ConnectFailed
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.liveness import PING_GRACE
from flask_pooled_db.pool.queue import ServerDown, Waiter


def read_from(pool: Engine, replica: Engine) -> None:
    """Send the readonly leases of a pool to another one."""
    pool.replica = replica
    replica.supply.is_replica = True


class Reader(Waiter):
    """A caller that goes elsewhere once the replica has not answered for `patience` seconds.

    It waits on while the replica is merely busy.
    """

    __slots__ = ("_replica", "has_given_up", "patience")

    needs_up = True

    def __init__(self, session: Session | None, replica: Engine, patience: float) -> None:
        super().__init__(session)
        self._replica = replica
        self.patience = patience
        self.has_given_up = False

    def again(self) -> Reader:
        return Reader(self.session, self._replica, self.patience)

    def wait(self, seconds: float) -> bool:
        clock, backoff = self._replica.terms.clock, self._replica.state.connector.backoff
        deadline = clock() + seconds
        while not super().wait(min(deadline - clock(), self.patience - backoff.silence)):
            self.has_given_up = backoff.silence >= self.patience
            if self.has_given_up or clock() >= deadline:
                return False
        return True


def acquire_to_read(pool: Engine, timeout: float | None, session: Session) -> tuple[Engine, Entry]:
    """Return a connection for reads and its pool: the replica if it is up, else the pool itself."""
    replica = pool.replica
    if replica is None:
        return pool, pool.acquire(timeout, session)
    if not pool.terms.config.replica_fallback:
        return replica, replica.acquire(timeout, session)
    seconds = replica.terms.config.acquire_timeout if timeout is None else timeout
    deadline = pool.terms.clock() + seconds
    # A reader with little time keeps half of it for the pool itself.
    patience = min(replica.liveness.silence, max(seconds / 2, PING_GRACE))
    try:
        return replica, replica.acquire_for(Reader(session, replica, patience), seconds)
    except (ServerDown, ConnectFailed):
        return pool, pool.acquire(max(deadline - pool.terms.clock(), 0.0), session)
