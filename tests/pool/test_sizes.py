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


def test_maxcached_bounds_what_is_kept(fake: FakeDriver) -> None:
    """What comes back beyond MAXCACHED is closed."""
    with open_pool(fake, maxcached=2, maxconnections=5) as pool:
        close_all([pool.connection() for _ in range(5)])
        assert (pool.stats().idle, pool.stats().open, fake.open_now) == (2, 2, 2)


def test_maxcached_bounds_what_comes_too_late_as_well(fake: FakeDriver) -> None:
    """Connections that were opened for callers who went away are kept up to MAXCACHED."""
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


def test_a_connection_is_replaced_when_it_served_maxusage_statements(fake: FakeDriver) -> None:
    """Between leases only: a lease may go beyond MAXUSAGE, its connection is not lent again."""
    with open_pool(fake, maxusage=3) as pool:
        assert [use(pool) for _ in range(3)] == [1, 1, 1]
        with pool.connection() as conn:
            cursor = conn.cursor()
            for _ in range(10):
                cursor.execute("SELECT")
            assert cursor.fetchone()[0] == 2
        assert use(pool) == 3


def test_resize_lets_the_pool_grow_for_those_who_wait(fake: FakeDriver) -> None:
    """A waiter is served by the place that a larger maximum makes."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        waiter = queue_up(pool, use, pool)
        pool.resize(0, 2, 2)
        assert waiter.result() == 2
        assert pool.stats().maxconnections == 2
        lease.close()


def test_resize_closes_idle_connections_and_lets_leases_end(fake: FakeDriver) -> None:
    """A smaller maximum costs nobody a lease; what comes back beyond it is closed."""
    with open_pool(fake, maxconnections=4, maxcached=4) as pool:
        leases = [pool.connection() for _ in range(4)]
        leases.pop().close()
        pool.resize(0, 2, 2)
        assert (pool.stats().open, pool.stats().idle) == (3, 0)
        for lease in leases:
            lease.cursor().execute("SELECT")
        close_all(leases)
        assert (pool.stats().open, fake.open_now) == (2, 2)


def test_resize_refuses_sizes_that_contradict_each_other(fake: FakeDriver) -> None:
    """As the configuration does; the sizes stay as they are."""
    with open_pool(fake, maxconnections=4) as pool:
        with pytest.raises(ConfigError, match="MINCACHED"):
            pool.resize(5, 3, 4)
        assert pool.stats().maxconnections == 4


def test_drain_replaces_every_connection_and_fails_nobody(fake: FakeDriver) -> None:
    """Idle ones at once, leases when they end."""
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


def test_an_option_the_driver_has_no_way_to_is_refused(fake: FakeDriver) -> None:
    """And the connection goes back as it was."""
    with open_pool(fake) as pool:
        lease = pool.lease(session=Session(readonly=True))
        with pytest.raises(UsageError, match="readonly=True"):
            lease.cursor().execute("SELECT")
        lease.close()
        assert pool.stats().in_use == 0


def test_an_sqlite_pool_works_without_anything_else(tmp_path: Path) -> None:
    """Checkout, return, growth and end, on a real driver."""
    with open_pool(url=f"sqlite:///{tmp_path}/db", maxconnections=2) as pool:
        leases = [pool.connection(), pool.connection()]
        leases[0].cursor().execute("CREATE TABLE t (a)")
        leases[0].commit()
        assert leases[1].cursor().execute("SELECT count(*) FROM t").fetchone() == (0,)
        close_all(leases)
        assert pool.stats().idle == 2
