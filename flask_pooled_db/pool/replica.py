"""REPLICA: the pool that readonly leases of another pool go to. A reader may skip this module."""

from __future__ import annotations

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import Entry


def read_from(pool: Engine, replica: Engine) -> None:
    """Send the readonly leases of a pool to another one."""
    pool.replica = replica
    replica.supply.is_replica = True


def acquire_to_read(pool: Engine, timeout: float | None, session: Session) -> tuple[Engine, Entry]:
    """Return a connection for reads and its pool: the replica if it is up, else the pool itself."""
    replica = pool.replica
    if replica is None:
        return pool, pool.acquire(timeout, session)
    if not pool.terms.config.replica_fallback:
        return replica, replica.acquire(timeout, session)
    try:
        return replica, replica.acquire_if_up(timeout, session)
    except (PoolTimeout, ConnectFailed):
        if not replica.is_down:
            raise  # it is busy, and the pool itself may be so too
    return pool, pool.acquire(timeout, session)
