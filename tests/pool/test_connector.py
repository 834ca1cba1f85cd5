"""P7 and P10 on a fake driver: when connections are opened, and what a failed connect means."""

from __future__ import annotations

import time

import pytest

from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from flask_pooled_db.pool.connector import MAX_OPENING
from harness.waiting import wait_until
from tests.pool.helpers import use
from tests.support.fake_driver import FakeDriver, OperationalError, WrongPassword
from tests.support.pools import call, most_tries, open_pool, queue_up


def test_p7_nothing_connects_before_the_first_lease(fake: FakeDriver) -> None:
    """A pool that is made with MINCACHED opens them with the first connection asked for."""
    with open_pool(fake, mincached=3, maxconnections=5) as pool:
        assert (fake.count("connect"), pool.stats().open) == (0, 0)
        use(pool)
        wait_until(lambda: pool.stats().idle == 3)
        assert fake.count("connect") == 3


def test_p10_failed_connects_back_off_for_all_waiters_together(fake: FakeDriver) -> None:
    """Twenty callers of a database that is away share their tries, which grow rarer."""
    fake.fail_always("connect", OperationalError)
    with open_pool(fake, maxconnections=20) as pool:
        callers = [call(pool.lease, timeout=1.0) for _ in range(20)]
        for caller in callers:
            with pytest.raises(PoolTimeout):
                caller.result()
        assert 3 <= fake.count("connect") <= most_tries(1.0)


def test_p10_the_first_success_ends_the_back_off(fake: FakeDriver) -> None:
    """When the database is back, connects are tried as at the start."""
    fake.fail("connect", *(OperationalError() for _ in range(4)))
    with open_pool(fake) as pool:
        use(pool)
        assert pool.engine.state.connector.backoff.failures == 0
        fake.fail("connect", OperationalError())
        pool.drain()
        use(pool)
        assert pool.engine.state.connector.backoff.next_try - time.monotonic() <= 0.05


def test_p10_a_failure_that_lasts_fails_all_waiters_at_once(fake: FakeDriver) -> None:
    """Wrong credentials are not tried again and again until the deadline."""
    gate = fake.hold("connect")
    fake.fail_always("connect", WrongPassword)
    with open_pool(fake, maxconnections=1) as pool:
        waiters = [queue_up(pool, pool.lease, timeout=60) for _ in range(5)]
        gate.open()
        for waiter in waiters:
            with pytest.raises(ConnectFailed) as caught:
                waiter.result()
            assert isinstance(caught.value.__cause__, WrongPassword)
        assert fake.count("connect") == 1
        assert pool.stats().connect_errors == 1


def test_p10_later_callers_are_refused_at_once_after_a_failure_that_lasts(
    fake: FakeDriver,
) -> None:
    """During the pause after it nobody is kept waiting for what has no hope."""
    fake.fail_always("connect", WrongPassword)
    with open_pool(fake) as pool:
        for _ in range(30):
            with pytest.raises(ConnectFailed):
                pool.lease(timeout=60)
        assert fake.count("connect") < 10
        fake.mend("connect")
        wait_until(lambda: pool.engine.state.connector.backoff.next_try < time.monotonic())
        assert use(pool)


def test_p10_a_few_connects_at_most_are_under_way(fake: FakeDriver) -> None:
    """Fifty callers on a slow server open no fifty connections when the first come back soon."""
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=50, maxcached=50) as pool:
        callers = [queue_up(pool, use, pool) for _ in range(50)]
        gate.wait_for_arrivals(MAX_OPENING)
        assert pool.engine.state.connector.opening == pool.stats().open == MAX_OPENING
        later = fake.hold("connect")  # those that come after these take for ever
        gate.open()
        for caller in callers:
            caller.result()
        assert fake.count("connect") <= 2 * MAX_OPENING
        later.open()
