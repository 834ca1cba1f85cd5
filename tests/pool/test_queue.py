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


def test_p2_timeout(fake: FakeDriver) -> None:
    """A caller that finds all connections in use gets PoolTimeout at its deadline."""
    with open_pool(fake, maxconnections=1, acquire_timeout=60) as pool, pool.connection():
        with pytest.raises(PoolTimeout) as caught:
            pool.lease(timeout=0.2)
        assert caught.value.waited >= 0.2
        assert pool.stats().timeouts == 1
        assert pool.stats().waiting == 0


def test_p2_acquire_timeout(fake: FakeDriver) -> None:
    """ACQUIRE_TIMEOUT is the timeout of a caller that names none."""
    with (
        open_pool(fake, maxconnections=1, acquire_timeout=0.1) as pool,
        pool.lease(timeout=PATIENCE),
    ):
        with pytest.raises(PoolTimeout):
            pool.connection()


def test_p2_order_of_arrival(fake: FakeDriver) -> None:
    """Waiters are served in the order of their arrival."""
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


def test_p2_no_overtaking(fake: FakeDriver) -> None:
    """A returned connection goes to the first waiter, even if its last user asks again at once."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        waiter = queue_up(pool, pool.connection)
        lease.close()
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0)
        waiter.result().close()


def test_p2_timed_out_waiter(fake: FakeDriver) -> None:
    """A connection that is returned after a timeout goes to the next waiter."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        impatient = queue_up(pool, pool.lease, timeout=0.05)
        patient = queue_up(pool, pool.connection)
        with pytest.raises(PoolTimeout):
            impatient.result()
        lease.close()
        patient.result().close()
        assert pool.stats().idle == 1


def test_p2_max_waiting(fake: FakeDriver) -> None:
    """With MAX_WAITING 2, a third waiter gets PoolTimeout at once."""
    with open_pool(fake, maxconnections=1, max_waiting=2, acquire_timeout=60) as pool:
        lease = pool.connection()
        waiters = [queue_up(pool, use, pool) for _ in range(2)]
        with pytest.raises(PoolTimeout, match="without waiting") as caught:
            pool.connection()
        assert caught.value.waiting == 2
        lease.close()
        for waiter in waiters:
            waiter.result()


def test_p2_not_blocking(fake: FakeDriver) -> None:
    """With BLOCKING=False, an exhausted pool raises PoolTimeout at once."""
    with open_pool(fake, maxconnections=2, blocking=False, acquire_timeout=60) as pool:
        leases = [pool.connection(), pool.connection()]
        with pytest.raises(PoolTimeout, match="without waiting"):
            pool.connection()
        close_all(leases)
        assert use(pool) in {1, 2}


def test_p2_error_state(fake: FakeDriver) -> None:
    """The error carries limit, in use, idle, waiting and the longest lease, as attributes and in
    its text.
    """
    with open_pool(fake, maxconnections=2, bind="reports") as pool:
        leases = [pool.connection(), pool.connection()]
        for con in pool.engine.state.in_use_locked():
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


def test_p2_error_cause(fake: FakeDriver) -> None:
    """The last connect failure is the cause of the timeout, and its text is not repeated."""
    fake.fail_always("connect", lambda: OperationalError(2003, "no way to host Kolibri"))
    with open_pool(fake) as pool:
        with pytest.raises(PoolTimeout) as caught:
            pool.lease(timeout=0.2)
    assert isinstance(caught.value.__cause__, OperationalError)
    assert "OperationalError 2003" in str(caught.value)
    assert "Kolibri" not in str(caught.value)


def test_p2_deadline_during_ping(fake: FakeDriver) -> None:
    """A server that does not answer a ping costs a caller its own timeout, not the pool's."""
    with open_pool(fake, ping_after=0, connect_timeout=60, maxconnections=1) as pool:
        use(pool)
        fake.is_deaf = True
        gate = fake.hold("connect")
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.2)
        assert time.monotonic() - started < 30
        gate.open()


def test_p2_interrupted_waiter(fake: FakeDriver) -> None:
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


def test_p2_interrupted_ping(fake: FakeDriver) -> None:
    """A BaseException while an idle connection is pinged costs only that connection."""
    with open_pool(fake, maxconnections=1, ping_after=0) as pool:
        use(pool)
        fake.fail("ping", Interruption())
        with pytest.raises(Interruption):
            pool.connection()
        assert pool.stats().open == 0
        assert use(pool) == 2


def test_p2_interrupted_return(fake: FakeDriver) -> None:
    """A BaseException while the session is reset costs only that connection."""
    fake.resets = True
    with open_pool(fake, maxconnections=1, reset="session") as pool:
        fake.fail("reset", Interruption())
        with pytest.raises(Interruption):
            use(pool)
        assert pool.stats().open == 0
        assert use(pool) == 2
