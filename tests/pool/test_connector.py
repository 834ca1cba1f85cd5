"""P7 and P10 on a fake driver: when connections are opened, and what a failed connect means."""

from __future__ import annotations

import contextlib
import time

import pytest

from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from flask_pooled_db.pool.connector import MAX_OPENING
from harness.waiting import wait_until
from tests.pool.helpers import use
from tests.support.fake_driver import FakeDriver, OperationalError, WrongPassword
from tests.support.pools import call, most_tries, open_pool, queue_up


def test_p7_first_lease_connects(fake: FakeDriver) -> None:
    """A pool with MINCACHED opens its connections when the first lease is requested, and none
    before.
    """
    with open_pool(fake, mincached=3, maxconnections=5) as pool:
        assert (fake.count("connect"), pool.stats().open) == (0, 0)
        use(pool)
        wait_until(lambda: pool.stats().idle == 3)
        assert fake.count("connect") == 3


def test_p10_waiters_share_backoff(fake: FakeDriver) -> None:
    """Twenty callers of an unreachable database share its connects, whose back-off grows."""
    fake.fail_always("connect", OperationalError)
    with open_pool(fake, maxconnections=20) as pool:
        callers = [call(pool.lease, timeout=1.0) for _ in range(20)]
        for caller in callers:
            with pytest.raises(PoolTimeout):
                caller.result()
        assert 3 <= fake.count("connect") <= most_tries(1.0)


def test_p10_success_resets_backoff(fake: FakeDriver) -> None:
    """The first successful connect resets the back-off."""
    fake.fail("connect", *(OperationalError() for _ in range(4)))
    with open_pool(fake) as pool:
        use(pool)
        assert pool.engine.state.connector.backoff.failures == 0
        fake.fail("connect", OperationalError())
        pool.drain()
        use(pool)
        assert pool.engine.state.connector.backoff.next_try - time.monotonic() <= 0.05


def test_p10_permanent_failure_fails_waiters(fake: FakeDriver) -> None:
    """A permanent failure, such as wrong credentials, fails all waiters at once."""
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


def test_p10_permanent_failure_refuses_callers(
    fake: FakeDriver,
) -> None:
    """During the back-off after a permanent failure, callers are refused at once."""
    fake.fail_always("connect", WrongPassword)
    with open_pool(fake) as pool:
        for _ in range(30):
            with pytest.raises(ConnectFailed):
                pool.lease(timeout=60)
        assert fake.count("connect") < 10
        fake.mend("connect")
        wait_until(lambda: pool.engine.state.connector.backoff.next_try < time.monotonic())
        assert use(pool)


def test_p10_concurrent_connects_limited(fake: FakeDriver) -> None:
    """Fifty callers of a slow server start only a few connects at a time."""
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


def test_kept_error_has_no_frames(fake: FakeDriver) -> None:
    """The error that a pool keeps of its last connect, and its causes, refer to no frames: those of
    a driver may be invisible to the garbage collector.
    """

    def make() -> BaseException:
        cause, context = OSError("cause"), OSError("context")
        error = OperationalError("no way")
        error.__cause__, error.__context__, cause.__context__ = cause, context, error  # a circle
        with contextlib.suppress(OSError):
            raise cause
        assert cause.__traceback__ is not None
        return error

    fake.fail_always("connect", make)
    with open_pool(fake) as pool:
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.05)
        wait_until(lambda: pool.engine.state.connector.backoff.error)
        kept = pool.engine.state.connector.backoff.error
        assert kept is not None
        assert kept.__cause__ is not None
        assert kept.__context__ is not None
        assert kept.__traceback__ is None
        assert kept.__cause__.__traceback__ is None
        assert kept.__context__.__traceback__ is None
