"""The sizes of a pool: `maxcached`, `maxusage`, resizing, draining."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import ConfigError, PoolTimeout, UsageError
from harness.waiting import wait_until
from tests.pool.helpers import close_all, use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, open_pool, queue_up


def test_maxcached(fake: FakeDriver) -> None:
    """A connection that is returned beyond MAXCACHED is closed."""
    with open_pool(fake, maxcached=2, maxconnections=5) as pool:
        close_all([pool.connection() for _ in range(5)])
        assert (pool.stats().idle, pool.stats().open, fake.open_now) == (2, 2, 2)


def test_maxcached_late_connections(fake: FakeDriver) -> None:
    """Connections that were opened for callers that gave up are kept up to MAXCACHED."""
    gate = fake.hold("connect")
    with open_pool(fake, maxcached=1, maxconnections=5) as pool:
        callers = [call(pool.lease, timeout=0.05) for _ in range(3)]
        gate.wait_for_arrivals(3)
        for caller in callers:
            with pytest.raises(PoolTimeout):
                caller.result()
        gate.open()
        wait_until(lambda: not pool.engine.state.connector.opening)
        wait_until(lambda: pool.stats().open == 1)
        assert pool.stats().idle == 1


def test_maxusage(fake: FakeDriver) -> None:
    """A connection is replaced after MAXUSAGE statements, between leases only."""
    with open_pool(fake, maxusage=3) as pool:
        assert [use(pool) for _ in range(3)] == [1, 1, 1]
        with pool.connection() as conn:
            cursor = conn.cursor()
            for _ in range(10):
                cursor.execute("SELECT")
            assert cursor.fetchone()[0] == 2
        assert use(pool) == 3


def test_resize_serves_waiter(fake: FakeDriver) -> None:
    """A larger maximum serves a waiter."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        waiter = queue_up(pool, use, pool)
        pool.resize(0, 2, 2)
        assert waiter.result() == 2
        assert pool.stats().maxconnections == 2
        lease.close()


def test_resize_lets_leases_end(fake: FakeDriver) -> None:
    """A smaller maximum ends no lease; a connection returned beyond it is closed."""
    with open_pool(fake, maxconnections=4, maxcached=4) as pool:
        leases = [pool.connection() for _ in range(4)]
        leases.pop().close()
        pool.resize(0, 2, 2)
        assert (pool.stats().open, pool.stats().idle) == (3, 0)
        for lease in leases:
            lease.cursor().execute("SELECT")
        close_all(leases)
        assert (pool.stats().open, fake.open_now) == (2, 2)


def test_resize_contradiction(fake: FakeDriver) -> None:
    """resize() refuses contradictory sizes, as the configuration does, and changes nothing."""
    with open_pool(fake, maxconnections=4) as pool:
        with pytest.raises(ConfigError, match="MINCACHED"):
            pool.resize(5, 3, 4)
        assert pool.stats().maxconnections == 4


def test_drain(fake: FakeDriver) -> None:
    """drain() replaces idle connections at once, and the others when they are returned."""
    with open_pool(fake, maxconnections=3) as pool:
        leases = [pool.connection() for _ in range(3)]
        leases.pop().close()
        pool.drain()
        assert fake.open_now == 2
        for lease in leases:
            lease.cursor().execute("SELECT")
            lease.commit()
        close_all(leases)
        assert fake.open_now == 0
        assert use(pool) == 4


def test_unsupported_option(fake: FakeDriver) -> None:
    """An option that the driver does not support is refused, and the connection is returned
    unchanged.
    """
    with open_pool(fake) as pool:
        lease = pool.lease(session=Session(readonly=True))
        with pytest.raises(UsageError, match="readonly=True"):
            lease.cursor().execute("SELECT")
        lease.close()
        assert pool.stats().in_use == 0


def test_sqlite_pool(tmp_path: Path) -> None:
    """A pool on SQLite lends, returns, grows and closes."""
    with open_pool(url=f"sqlite:///{tmp_path}/db", maxconnections=2) as pool:
        leases = [pool.connection(), pool.connection()]
        leases[0].cursor().execute("CREATE TABLE t (a)")
        leases[0].commit()
        assert leases[1].cursor().execute("SELECT count(*) FROM t").fetchone() == (0,)
        close_all(leases)
        assert pool.stats().idle == 2
