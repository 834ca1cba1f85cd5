"""The statistics of a pool."""

from __future__ import annotations

import pytest

from flask_pooled_db.errors import PoolTimeout
from tests.pool.helpers import let_rest, use
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call, open_pool


def test_stats_totals(fake: FakeDriver) -> None:
    """The statistics count checkouts, timeouts, connects, failed connects and discarded
    connections.
    """
    fake.fail("connect", OperationalError())
    with open_pool(fake, maxconnections=1) as pool:
        use(pool)
        with pool.connection(), pytest.raises(PoolTimeout):
            pool.lease(timeout=0)
        pool.drain()
        stats = pool.stats()
        assert (stats.checkouts, stats.timeouts) == (2, 1)
        assert (stats.connects, stats.connect_errors, stats.discarded) == (1, 1, 1)
        assert (stats.open, stats.in_use, stats.idle, stats.waiting) == (0, 0, 0, 0)


def test_stats_longest_lease(fake: FakeDriver) -> None:
    """The longest lease is measured from its own checkout, not from an earlier one of its
    connection.
    """
    with open_pool(fake) as pool:
        use(pool)
        pool.engine.state.idle[0].since -= 1000
        gate = fake.hold("ping")
        let_rest(pool.engine.state.idle[0])
        caller = call(use, pool)
        gate.wait_for_arrivals()
        assert pool.stats().longest_lease < 500
        gate.open()
        caller.result()


def test_repr(fake: FakeDriver) -> None:
    """The repr of a pool is one line with its state."""
    with open_pool(fake, maxconnections=4, bind="reports") as pool, pool.connection():
        assert repr(pool) == ("<Pool 'reports' of fakedb: 1 in use, 0 idle, 0 waiting, at most 4>")
