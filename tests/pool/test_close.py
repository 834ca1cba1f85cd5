"""Closing a pool."""

from __future__ import annotations

import pytest

from flask_pooled_db.errors import PoolClosed
from harness.waiting import wait_until
from tests.pool.helpers import use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, open_pool, queue_up


def test_close_refuses_leases_wakes_waiters(fake: FakeDriver) -> None:
    """After close(), a new caller and every waiter get PoolClosed."""
    with open_pool(fake, maxconnections=1, bind="reports") as pool:
        lease = pool.connection()
        waiter = queue_up(pool, pool.connection)
        pool.close()
        with pytest.raises(PoolClosed, match="'reports'"):
            waiter.result()
        with pytest.raises(PoolClosed):
            pool.connection()
        with pytest.raises(PoolClosed):
            pool.resize(1, 1, 1)
        lease.close()
        assert fake.open_now == 0


def test_close_waits_for_leases(fake: FakeDriver) -> None:
    """close(timeout=) returns as soon as the last lease has been released."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        closer = call(pool.close, timeout=60)
        wait_until(lambda: pool.engine.state.is_closed)
        assert closer.is_alive()
        lease.close()
        closer.result()
        assert pool.stats().open == 0


def test_lease_outlives_close(
    fake: FakeDriver,
) -> None:
    """A lease keeps working after close(), and its connection is closed on release."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        pool.close(timeout=0.05)
        lease.cursor().execute("INSERT")
        lease.commit()
        assert fake.open_now == 1
        lease.close()
        assert (fake.open_now, pool.stats().open) == (0, 0)


def test_close_twice(fake: FakeDriver) -> None:
    """A second close() does nothing."""
    with open_pool(fake) as pool:
        use(pool)
        pool.close()
        pool.close()
        assert fake.open_now == 0
