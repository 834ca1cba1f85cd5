"""P2: a waiter gets a connection or `PoolTimeout` by its deadline, in order of arrival."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from flask_pooled_db.errors import PoolTimeout
from harness.waiting import PATIENCE, wait_until
from tests.pool.helpers import Interruption, close_all, use
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call, open_pool, queue_up


def test_p2_a_waiter_gets_a_pool_timeout_at_its_deadline(fake: FakeDriver) -> None:
    """Who finds all connections in use waits for as long as it said, and no longer."""
    with open_pool(fake, maxconnections=1, acquire_timeout=60) as pool, pool.connection():
        with pytest.raises(PoolTimeout) as caught:
            pool.lease(timeout=0.2)
        assert caught.value.waited >= 0.2
        assert pool.stats().timeouts == 1
        assert pool.stats().waiting == 0


def test_p2_the_configured_time_is_the_deadline_of_who_names_none(fake: FakeDriver) -> None:
    """ACQUIRE_TIMEOUT bounds the wait."""
    with (
        open_pool(fake, maxconnections=1, acquire_timeout=0.1) as pool,
        pool.lease(timeout=PATIENCE),
    ):
        with pytest.raises(PoolTimeout):
            pool.connection()


def test_p2_waiters_are_served_in_the_order_they_came(fake: FakeDriver) -> None:
    """First come, first served."""
    served: list[int] = []
    with open_pool(fake, maxconnections=1) as pool:

        def wait_and_note(number: int) -> None:
            with pool.connection():
                served.append(number)

        lease = pool.connection()
        callers = [queue_up(pool, wait_and_note, number) for number in range(6)]
        lease.close()
        for caller in callers:
            caller.result()
    assert served == list(range(6))


def test_p2_nobody_overtakes_a_waiter(fake: FakeDriver) -> None:
    """A connection that comes back is the first waiter's, also when its last user asks again."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        waiter = queue_up(pool, pool.connection)
        lease.close()
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0)
        waiter.result().close()


def test_p2_a_waiter_that_gave_up_swallows_no_connection(fake: FakeDriver) -> None:
    """What comes back after a timeout goes to the next waiter."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        impatient = queue_up(pool, pool.lease, timeout=0.05)
        patient = queue_up(pool, pool.connection)
        with pytest.raises(PoolTimeout):
            impatient.result()
        lease.close()
        patient.result().close()
        assert pool.stats().idle == 1


def test_p2_max_waiting_refuses_at_once_who_comes_beyond_it(fake: FakeDriver) -> None:
    """With MAX_WAITING 2, the third who would have to wait is told so at once."""
    with open_pool(fake, maxconnections=1, max_waiting=2, acquire_timeout=60) as pool:
        lease = pool.connection()
        waiters = [queue_up(pool, use, pool) for _ in range(2)]
        with pytest.raises(PoolTimeout, match="without waiting") as caught:
            pool.connection()
        assert caught.value.waiting == 2
        lease.close()
        for waiter in waiters:
            waiter.result()


def test_p2_without_blocking_an_exhausted_pool_raises_at_once(fake: FakeDriver) -> None:
    """BLOCKING=False raises the same error class, without a wait."""
    with open_pool(fake, maxconnections=2, blocking=False, acquire_timeout=60) as pool:
        leases = [pool.connection(), pool.connection()]
        with pytest.raises(PoolTimeout, match="without waiting"):
            pool.connection()
        close_all(leases)
        assert use(pool) in {1, 2}


def test_p2_the_error_says_in_what_state_the_pool_is(fake: FakeDriver) -> None:
    """Limit, in use, idle, waiting and the longest lease, as attributes and in the text."""
    with open_pool(fake, maxconnections=2, bind="reports") as pool:
        leases = [pool.connection(), pool.connection()]
        for con in pool.engine.state.in_use:
            con.since -= 100
        other = queue_up(pool, pool.connection)
        with pytest.raises(PoolTimeout) as caught:
            pool.lease(timeout=0.05)
        error = caught.value
        assert (error.bind, error.maxconnections) == ("reports", 2)
        assert (error.in_use, error.idle, error.waiting) == (2, 0, 1)
        assert error.longest_lease >= 100
        assert error.__cause__ is None
        for word in ("'reports'", "of 2, 2 are in use and 0 idle", "1 others wait", "100."):
            assert word in str(error)
        close_all(leases)
        other.result().close()


def test_p2_the_last_connect_failure_is_the_cause_of_the_timeout(fake: FakeDriver) -> None:
    """Who waited for a database that is away is told why, and not what its error's text said."""
    fake.fail_always("connect", lambda: OperationalError(2003, "no way to host Kolibri"))
    with open_pool(fake) as pool:
        with pytest.raises(PoolTimeout) as caught:
            pool.lease(timeout=0.2)
    assert isinstance(caught.value.__cause__, OperationalError)
    assert "OperationalError 2003" in str(caught.value)
    assert "Kolibri" not in str(caught.value)


def test_p2_the_deadline_holds_for_the_check_of_an_idle_connection_too(fake: FakeDriver) -> None:
    """A server that does not answer a ping costs the caller its own timeout, not the pool's."""
    with open_pool(fake, ping_after=0, connect_timeout=60, maxconnections=1) as pool:
        use(pool)
        fake.is_deaf = True
        gate = fake.hold("connect")
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.2)
        assert time.monotonic() - started < 30
        gate.open()


def test_p2_a_waiter_that_is_interrupted_swallows_no_connection(fake: FakeDriver) -> None:
    """A BaseException in the wait takes the caller out of the queue."""

    def interrupt(*_: object) -> None:
        raise Interruption

    def send_signal() -> None:
        wait_until(lambda: pool.stats().waiting)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with open_pool(fake, maxconnections=1, acquire_timeout=60) as pool:
            lease = pool.connection()
            sender = call(send_signal)
            with pytest.raises(Interruption):
                pool.connection()
            sender.result()
            assert pool.stats().waiting == 0
            lease.close()
            assert use(pool) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_p2_an_interrupted_check_loses_no_place(fake: FakeDriver) -> None:
    """A BaseException while an idle connection is pinged costs that connection, and no more."""
    with open_pool(fake, maxconnections=1, ping_after=0) as pool:
        use(pool)
        fake.fail("ping", Interruption())
        with pytest.raises(Interruption):
            pool.connection()
        assert pool.stats().open == 0
        assert use(pool) == 2


def test_p2_an_interrupted_return_loses_no_place(fake: FakeDriver) -> None:
    """A BaseException while the session is reset costs that connection, and no more."""
    fake.resets = True
    with open_pool(fake, maxconnections=1, reset="session") as pool:
        fake.fail("reset", Interruption())
        with pytest.raises(Interruption):
            use(pool)
        assert pool.stats().open == 0
        assert use(pool) == 2
