"""All connections of a pool are replaced over some time, and it is known when that is done."""

from __future__ import annotations

import gc

from flask_pooled_db.pool.draining import Draining
from harness.waiting import wait_until
from tests.pool.helpers import close_all, number_of, use
from tests.support.clock import Clock
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, check_counts, open_pool, queue_up


def test_idle_and_in_use(fake: FakeDriver) -> None:
    """Idle connections are closed, those in use when they come back; then it is done."""
    with open_pool(fake) as pool:
        leases = [pool.connection() for _ in range(3)]
        close_all(leases[1:])
        draining = Draining(pool.engine)
        assert draining.total == 3
        wait_until(lambda: draining.advance() == 1, "the end of what is idle")
        number_of(leases[0])  # it goes on undisturbed
        assert draining.advance() == 1
        assert use(pool) == 4
        leases[0].close()
        wait_until(lambda: draining.advance() == 0, "the end of what was in use")
        assert pool.stats().evictions == {"drained": 3}
        check_counts(pool)


def test_spread(fake: FakeDriver) -> None:
    """Over some time they are closed one by one, evenly, and what comes back before its time is
    lent again.
    """
    clock = Clock()
    with open_pool(fake, clock=clock, maxcached=0) as pool:
        leases = [pool.connection() for _ in range(4)]
        close_all(leases[:3])
        draining = Draining(pool.engine, 40.0, 0.5)
        opened = set(pool.engine.state.open)
        leases[3].close()
        left = []
        for _ in range(9):
            still = len(opened & pool.engine.state.open)
            is_due = (clock.now - 1000) % 10 == 5
            wait_until(lambda n=still - is_due: draining.advance() == n)  # type: ignore[misc]
            left.append(draining.advance())
            clock.now += 5
        assert left == [4, 3, 3, 2, 2, 1, 1, 0, 0]
        assert pool.stats().evictions == {"drained": 4}


def test_in_use_at_its_time(fake: FakeDriver) -> None:
    """What is in use at its time, and was idle before, is closed when it comes back."""
    clock = Clock()
    with open_pool(fake, clock=clock) as pool:
        pool.connection().close()
        draining = Draining(pool.engine, 10.0, 0.5)
        lease = pool.connection()
        clock.now += 5
        assert draining.advance() == 1
        assert number_of(lease) == 1
        lease.close()
        assert (draining.advance(), pool.stats().open) == (0, 0)


def test_being_opened(fake: FakeDriver) -> None:
    """It waits for the end of a connection that is being opened, and not for its successor."""
    connecting = fake.hold("connect")
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.connection)
        connecting.wait_for_arrivals()
        draining = Draining(pool.engine)
        assert draining.advance() == draining.total == 1
        connecting.open()
        lease = caller.result()
        wait_until(lambda: draining.advance() == 0, "the end of the first")
        assert number_of(lease) == 2
        lease.close()


def test_being_closed(fake: FakeDriver) -> None:
    """It waits for a connection that is being closed already. One that hangs keeps no other from
    being closed.
    """
    with open_pool(fake) as pool:
        leases = [pool.connection() for _ in range(3)]
        closing = fake.hold("close")
        pool.engine.state.in_use_locked()[0].expires_at = 0.0
        closer = call(leases[0].close)
        closing.wait_for_arrivals()
        close_all(leases[1:])
        draining = Draining(pool.engine)
        assert draining.advance() == draining.total == 3
        closing.wait_for_arrivals(2)
        closing.open()
        closer.result()
        wait_until(lambda: draining.advance() == 0, "the end of all")


def test_lost(fake: FakeDriver) -> None:
    """A connection that nobody gives back is closed by the upkeep, and waited for."""
    with open_pool(fake, idle_timeout=0.08) as pool:
        lease = pool.connection()
        draining = Draining(pool.engine)
        assert draining.advance() == 1
        del lease
        gc.collect()
        wait_until(lambda: draining.advance() == 0, "the end of what was lost")


def test_closed_pool(fake: FakeDriver) -> None:
    """When the pool is closed meanwhile, it is done."""
    with open_pool(fake) as pool:
        pool.connection().close()
        draining = Draining(pool.engine, 60.0)
        pool.close()
        wait_until(lambda: draining.advance() == 0)


def test_nothing_open(fake: FakeDriver) -> None:
    """Of a pool that has nothing open it is done at once; what is opened later stays."""
    with open_pool(fake) as pool:
        draining = Draining(pool.engine)
        assert (draining.total, draining.advance()) == (0, 0)
        use(pool)
        assert (draining.advance(), pool.stats().idle) == (0, 1)


def test_no_work_under_the_lock(fake: FakeDriver) -> None:
    """Nothing is closed under the lock."""
    fake.watch()
    with open_pool(fake) as pool:
        use(pool)
        draining = Draining(pool.engine)
        wait_until(lambda: draining.advance() == 0)
    assert fake.violations == []
