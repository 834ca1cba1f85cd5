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


def test_close_during_connect(fake: FakeDriver) -> None:
    """A connection that opens while the pool closes is closed again, and its waiter gets
    PoolClosed.
    """
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


def test_close_waits_for_connect(fake: FakeDriver) -> None:
    """close(timeout=) returns once no connection is open or being opened."""
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


def test_close_ends_backoff(fake: FakeDriver) -> None:
    """close() ends the back-off, so that no thread waits for it."""
    fake.fail_always("connect", OperationalError)
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.lease, timeout=60)
        wait_until(lambda: pool.engine.state.connector.backoff.failures > 2)
        pool.engine.state.connector.backoff.next_try += 1000
        pool.close()
        with pytest.raises(PoolClosed):
            caller.result()
        wait_until(lambda: pool.stats().open == 0)


def test_drain_during_connect(fake: FakeDriver) -> None:
    """drain() also replaces a connection that was being opened when it was called."""
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


def test_resize_during_connect(fake: FakeDriver) -> None:
    """A connection that opens beyond the new maximum is closed; leases go on."""
    with open_pool(fake, maxconnections=3) as pool:
        leases = [pool.connection(), pool.connection()]
        connecting = fake.hold("connect")
        caller = queue_up(pool, pool.lease, timeout=60)
        connecting.wait_for_arrivals()
        pool.resize(0, 2, 2)
        connecting.open()
        wait_until(lambda: pool.stats().open == 2, "its place is free again")
        assert fake.count("close") == 1
        assert caller.is_alive()
        leases.pop().close()
        leases.append(caller.result())
        assert number_of(leases[1]) in {1, 2}
        assert fake.open_now == 2
        for lease in leases:
            lease.close()


def test_p3_resize_during_backoff(
    fake: FakeDriver,
) -> None:
    """A smaller maximum takes back the place of a connect that is in its back-off."""
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


def test_close_before_connect(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_p3_resize_under_load(fake: FakeDriver) -> None:
    """The pool reaches each new maximum while callers come and go, and serves all of them."""
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


def test_late_connection_serves_next_caller(fake: FakeDriver) -> None:
    """A connection whose caller has timed out becomes idle and serves the next caller."""
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


def test_p10_caller_leaves_during_backoff(fake: FakeDriver) -> None:
    """A caller that does not wait for the back-off leaves the pool's counts unchanged."""
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
