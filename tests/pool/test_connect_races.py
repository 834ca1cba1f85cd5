"""What happens to the pool while a connection is being opened."""

from __future__ import annotations

import functools
import threading

import pytest

from flask_pooled_db.errors import PoolClosed, PoolTimeout
from flask_pooled_db.pool.supply import Supply
from harness.waiting import wait_until
from tests.pool.helpers import has_lent, number_of
from tests.support.fake_driver import FakeDriver, Gate, OperationalError
from tests.support.pools import call, check_counts, open_pool, queue_up


def test_close_during_a_connect_keeps_nothing(fake: FakeDriver) -> None:
    """What is opened as the pool closes is closed again; who waited for it is told."""
    connecting = fake.hold("connect")
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.connection)
        connecting.wait_for_arrivals()
        pool.close()
        with pytest.raises(PoolClosed):
            caller.result()
        assert pool.stats().open == 1
        connecting.open()
        wait_until(lambda: pool.stats().open == 0)
        assert fake.open_now == 0


def test_close_with_a_timeout_waits_for_a_connect(fake: FakeDriver) -> None:
    """It returns when nothing is open any more."""
    connecting = fake.hold("connect")
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.connection)
        connecting.wait_for_arrivals()
        closer = call(pool.close, timeout=60)
        with pytest.raises(PoolClosed):
            caller.result()
        assert closer.is_alive()
        connecting.open()
        closer.result()
        assert fake.open_now == 0


def test_close_ends_the_pause_after_a_failed_connect(fake: FakeDriver) -> None:
    """No thread sits out a back-off of a pool that is closed."""
    fake.fail_always("connect", OperationalError)
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.lease, timeout=60)
        wait_until(lambda: pool.engine.state.connector.backoff.failures > 2)
        pool.engine.state.connector.backoff.next_try += 1000
        pool.close()
        with pytest.raises(PoolClosed):
            caller.result()
        wait_until(lambda: pool.stats().open == 0)


def test_drain_during_a_connect_replaces_that_connection_too(fake: FakeDriver) -> None:
    """What was begun with the old credentials is not lent."""
    connecting = fake.hold("connect")
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.connection)
        connecting.wait_for_arrivals()
        pool.drain()
        connecting.open()
        lease = caller.result()
        assert number_of(lease) == 2
        assert fake.open_now == 1
        lease.close()


def test_resize_during_a_connect_keeps_no_more_than_the_new_maximum(fake: FakeDriver) -> None:
    """A connection that comes up beyond it is closed; those in use go on."""
    with open_pool(fake, maxconnections=3) as pool:
        leases = [pool.connection(), pool.connection()]
        connecting = fake.hold("connect")
        caller = queue_up(pool, pool.lease, timeout=60)
        connecting.wait_for_arrivals()
        pool.resize(0, 2, 2)
        connecting.open()
        wait_until(lambda: fake.count("close") == 1)
        assert caller.is_alive()
        leases.pop().close()
        leases.append(caller.result())
        assert number_of(leases[1]) in {1, 2}
        assert fake.open_now == 2
        for lease in leases:
            lease.close()


def test_p3_resize_in_the_pause_after_a_failed_connect_takes_the_place_back(
    fake: FakeDriver,
) -> None:
    """No connect is tried beyond the new maximum."""
    with open_pool(fake, maxconnections=2) as pool:
        lease = pool.connection()
        fake.fail("connect", OperationalError())
        caller = queue_up(pool, pool.lease, timeout=60)
        wait_until(lambda: pool.engine.state.connector.backoff.failures)
        pool.resize(0, 1, 1)
        wait_until(lambda: not pool.engine.state.connector.opening)
        assert fake.count("connect") == 2
        lease.close()
        caller.result().close()
        assert fake.count("connect") == 2


def test_a_pool_closed_as_a_connect_begins(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opener that has just seen the pool open closes again what it then opens."""
    about_to_connect = Gate()
    generation = Supply.generation

    def stop_and_go_on(supply: Supply) -> int:
        about_to_connect.stop_here()
        return generation(supply)

    monkeypatch.setattr(Supply, "generation", stop_and_go_on)
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.connection)
        about_to_connect.wait_for_arrivals()
        pool.close()
        about_to_connect.open()
        with pytest.raises(PoolClosed):
            caller.result()
        wait_until(lambda: pool.stats().open == 0)
        assert check_counts(pool).idle == 0


def test_p3_resize_under_load_ends_at_the_new_maximum(fake: FakeDriver) -> None:
    """While callers come and go, the pool shrinks and grows as told, and loses nobody."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with pool.lease(timeout=60) as lease:
                number_of(lease)

    with open_pool(fake, maxconnections=8, maxcached=8) as pool:
        callers = [call(work) for _ in range(8)]
        for size in (1, 8, 2, 5, 3):
            pool.resize(0, size, size)
            enough = pool.stats().checkouts + 50
            wait_until(functools.partial(has_lent, pool, enough))
            check_counts(pool)
        wait_until(lambda: fake.open_now <= 3)
        stop.set()
        for caller in callers:
            caller.result()
        assert fake.most_open <= 8
        assert pool.stats().open <= 3


def test_a_connection_that_comes_too_late_for_its_caller_serves_the_next(fake: FakeDriver) -> None:
    """It is idle until somebody asks."""
    connecting = fake.hold("connect")
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.lease, timeout=0.01)
        connecting.wait_for_arrivals()
        with pytest.raises(PoolTimeout):
            caller.result()
        connecting.open()
        wait_until(lambda: pool.stats().idle == 1)
        with pool.connection() as lease:
            assert number_of(lease) == 1


def test_p10_callers_that_leave_during_the_pause_take_no_place_with_them(fake: FakeDriver) -> None:
    """Who asks in the pause after a failed connect and does not wait leaves the pool as it was."""
    fake.fail_always("connect", OperationalError)
    with open_pool(fake, mincached=2, maxconnections=2, maxcached=2) as pool:
        for _ in range(50):
            with pytest.raises(PoolTimeout):
                pool.lease(timeout=0)
        wait_until(lambda: not pool.engine.state.connector.opening)
        assert pool.stats().open == 0
        fake.mend("connect")
        with pool.lease(timeout=60):
            pass
