"""Leases that are garbage before they were released."""

from __future__ import annotations

import gc
import warnings

import pytest

from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.upkeep import sweep
from flask_pooled_db.runtime import reporter
from harness.waiting import wait_until
from tests.pool.helpers import number_of
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, open_pool, queue_up


def lose_a_lease(pool: Pool) -> None:
    """Take a connection, and forget it."""
    pool.connection()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def reclaim_a_lease(pool: Pool) -> None:
    """Have a lost connection found, and wait until that was reported."""
    pool.connection()
    gc.collect()
    sweep(pool.engine)
    wait_until(lambda: pool.stats().open == 0)
    reporter.flush(20)


def test_lost_lease_frees_place(fake: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A lease that is garbage collected without close() costs its connection, but not its place."""
    with open_pool(fake, maxconnections=1) as pool:
        lose_a_lease(pool)
        with pool.lease(timeout=60) as lease:
            assert number_of(lease) == 2
        assert pool.stats().leaked == 1
        assert fake.open_now == 1
    wait_until(lambda: caplog.text.count("never given back") == 1)


def test_p3_two_find_a_lost_lease(fake: FakeDriver) -> None:
    """Its place is free when its connection is closed, also if a second one finds it meanwhile."""
    gate = fake.hold("close")
    with open_pool(fake, maxconnections=1) as pool:
        lose_a_lease(pool)
        closing = call(pool.engine.leaks.reclaim)
        gate.wait_for_arrivals()
        sweep(pool.engine)  # which finds it, too
        assert pool.stats().open == fake.open_now == 1
        gate.open()
        closing.result()
        wait_until(lambda: pool.stats().open == fake.open_now == 0)


def test_lost_lease_warns(fake: FakeDriver) -> None:
    """A lost lease emits a ResourceWarning, as files and sockets do."""
    with open_pool(fake) as pool:
        with pytest.warns(ResourceWarning, match="never given back"):
            reclaim_a_lease(pool)


def test_lost_lease_serves_waiter(fake: FakeDriver) -> None:
    """The housekeeping finds a lost lease for a waiter, even if no new caller arrives."""
    with open_pool(fake, maxconnections=1) as pool:
        keep = [pool.connection()]
        caller = queue_up(pool, pool.lease, timeout=60)
        keep.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        caller.result().close()


def test_lost_lease_after_close(fake: FakeDriver) -> None:
    """The connection of a lease that is lost after close() is closed."""
    with open_pool(fake) as pool:
        keep = [pool.connection()]
        pool.close()
        keep.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        wait_until(lambda: fake.open_now == 0)
        wait_until(lambda: pool.stats().open == 0)
