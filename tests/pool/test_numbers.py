"""What a pool counts: checkouts, waits, connects, evictions by reason, and how long each took."""

from __future__ import annotations

import gc
import os
from dataclasses import FrozenInstanceError, asdict

import pytest

from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Histogram
from flask_pooled_db.pool.upkeep import sweep
from flask_pooled_db.runtime import reporter
from harness.waiting import wait_until
from tests.support.clock import Clock
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call, open_pool


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


def _buckets(times: Histogram) -> dict[float, int]:
    """Return how many times there are, by the upper bound of their bucket."""
    bounds = (*times.bounds, float("inf"))
    return {bound: count for bound, count in zip(bounds, times.counts, strict=True) if count}


def test_use_times(clock: Clock) -> None:
    """How long each lease was out is counted when it is returned."""
    with open_pool(FakeDriver(), clock=clock) as pool:
        for seconds in (0.0, 0.001, 0.003, 70.0):
            lease = pool.lease()
            clock.now += seconds
            lease.close()
        lease = pool.lease()
        assert _buckets(pool.stats().use_time) == {0.001: 2, 0.005: 1, float("inf"): 1}
        assert pool.stats().use_time.sum == pytest.approx(70.004)
        assert pool.stats().use_time.count == 4
        lease.close()


def test_wait_times(clock: Clock) -> None:
    """Who got a connection at once has waited for no time; who had to wait, until it came."""
    with open_pool(FakeDriver(), clock=clock, maxconnections=1) as pool:
        lease = pool.lease()  # waited for its connect
        caller = call(pool.lease)
        wait_until(lambda: pool.stats().waiting == 1, "a waiter")
        clock.now += 0.2
        lease.close()
        caller.result().close()
        pool.lease().close()
        stats = pool.stats()
    assert _buckets(stats.wait_time) == {0.001: 2, 0.25: 1}
    assert stats.wait_time.sum == pytest.approx(0.2)
    assert (stats.checkouts, stats.waits, stats.timeouts) == (3, 2, 0)


def test_a_check_is_part_of_the_wait(clock: Clock) -> None:
    """A connection that is checked before it is lent is counted once, one that is found dead not at
    all.
    """
    fake = FakeDriver()
    with open_pool(fake, clock=clock, maxconnections=1) as pool:
        pool.lease().close()
        clock.now += 60.0
        pool.lease().close()  # pinged
        fake.raws[1].die()
        pool.lease().close()
        stats = pool.stats()
    assert _buckets(stats.wait_time) == {0.001: 3}
    assert stats.evictions == {"dead": 1}


def test_a_timeout_is_no_wait_time(clock: Clock) -> None:
    """Who got nothing counts as a timeout, and in no histogram."""
    with open_pool(FakeDriver(), clock=clock, maxconnections=1) as pool:
        lease = pool.lease()
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0)
        lease.close()
        stats = pool.stats()
    assert (stats.waits, stats.timeouts, stats.wait_time.count) == (2, 1, 1)


def test_connect_times() -> None:
    """Connects and failed ones are counted, and how long those took that succeeded."""
    fake = FakeDriver()
    fake.fail("connect", OperationalError())
    with open_pool(fake) as pool:
        pool.lease().close()
        stats = pool.stats()
    assert (stats.connects, stats.connect_errors, stats.connect_time.count) == (1, 1, 1)
    assert stats.connect_time.sum > 0.0


def test_sizes_and_snapshot() -> None:
    """The numbers are frozen, tell the limits, and can be made a mapping of plain values."""
    with open_pool(FakeDriver(), mincached=0, maxconnections=7) as pool:
        pool.lease().close()
        stats = pool.stats()
        assert (stats.maxconnections, stats.mincached) == (7, 0)
        pool.resize(2, 3, 4)
        assert (pool.stats().maxconnections, pool.stats().mincached) == (4, 2)
    with pytest.raises(FrozenInstanceError):
        stats.open = 1  # type: ignore[misc]
    plain = asdict(stats)
    assert plain["checkouts"] == 1
    assert sum(plain["use_time"]["counts"]) == 1


def _evictions(pool: Pool, count: int) -> dict[str, int]:
    wait_until(lambda: pool.stats().discarded == count, "the evictions")
    return dict(pool.stats().evictions)


def test_evictions_by_the_sweep(clock: Clock) -> None:
    """What rests for too long is evicted as idle, what is too old by its lifetime."""
    with open_pool(FakeDriver(), clock=clock, idle_timeout=10, max_lifetime=100) as pool:
        pool.lease().close()
        clock.now += 11.0
        assert _evictions(pool, 1) == {"idle": 1}
    with open_pool(FakeDriver(), clock=clock, idle_timeout=0, max_lifetime=100) as pool:
        pool.lease().close()
        clock.now += 101.0
        assert _evictions(pool, 1) == {"lifetime": 1}


def test_evictions_at_the_return(clock: Clock) -> None:
    """A connection that is closed when it is returned counts by what had become of it or of its
    pool meanwhile.
    """
    with open_pool(FakeDriver(), clock=clock, maxcached=1, max_lifetime=100) as pool:
        leases = [pool.lease() for _ in range(2)]
        for lease in leases:
            lease.close()
        assert _evictions(pool, 1) == {"surplus": 1}
        lease = pool.lease()
        clock.now += 101.0
        lease.close()
        assert _evictions(pool, 2) == {"surplus": 1, "lifetime": 1}
        lease = pool.lease()
        pool.drain()
        lease.close()
        assert _evictions(pool, 3) == {"surplus": 1, "lifetime": 1, "drained": 1}
        lease = pool.lease()
        lease.session_changed("the test")
        lease.close()
        assert _evictions(pool, 4)["unclean"] == 1
        lease = pool.lease()
        pool.close()
        lease.close()
        assert _evictions(pool, 5)["closed"] == 1


def test_evictions_of_idle_connections() -> None:
    """Idle connections count by what the whole pool was asked for."""
    with open_pool(FakeDriver()) as pool:
        pool.lease().close()
        pool.drain()
        assert _evictions(pool, 1) == {"drained": 1}
        leases = [pool.lease() for _ in range(2)]
        for lease in leases:
            lease.close()
        pool.resize(0, 1, 1)
        assert _evictions(pool, 2) == {"drained": 1, "surplus": 1}
        pool.close()
        assert _evictions(pool, 3) == {"drained": 1, "surplus": 1, "closed": 1}


def _leak(pool: Pool) -> None:
    pool.connection()
    gc.collect()
    sweep(pool.engine)
    wait_until(lambda: pool.stats().open == 0, "the end of the leak")
    reporter.flush(20)


def test_an_eviction_of_a_leak() -> None:
    """A lease that is garbage counts as a leak, and its connection as evicted for that."""
    with open_pool(FakeDriver(), maxconnections=1) as pool:
        with pytest.warns(ResourceWarning):
            _leak(pool)
        stats = pool.stats()
    assert (stats.leaked, stats.evictions) == (1, {"leaked": 1})


def test_p6_a_child_counts_by_itself() -> None:
    """A forked child begins at 0: its parent tells what came before."""
    with open_pool(FakeDriver()) as pool:
        pool.lease().close()
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            stats = pool.stats()
            told = stats.checkouts, stats.connects, stats.discarded, stats.wait_time.count
            os.write(write, repr(told).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 100) == b"(0, 0, 0, 0)"
        assert pool.stats().checkouts == 1
        os.close(read)
        os.close(write)


def test_checkouts_are_those_who_got_one(clock: Clock) -> None:
    """A connection that was found dead is no checkout, nor is one that is still being checked; each
    caller counts in one bucket, also for whoever looks meanwhile.
    """
    fake = FakeDriver()
    with open_pool(fake, clock=clock, maxconnections=1) as pool:
        for number in range(1, 4):
            pool.lease().close()
            fake.raws[number].die()
        assert pool.stats().checkouts == pool.stats().wait_time.count == 3
        pool.lease().close()
        clock.now += 60.0
        gate = fake.hold("ping")
        caller = call(pool.lease)
        gate.wait_for_arrivals()
        assert (pool.stats().checkouts, pool.stats().in_use) == (4, 1)
        clock.now += 0.2
        gate.open()
        caller.result().close()
        stats = pool.stats()
    assert stats.checkouts == stats.wait_time.count == stats.use_time.count == 5
    assert _buckets(stats.wait_time) == {0.001: 4, 0.25: 1}
