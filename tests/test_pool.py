"""The pool's promises: P1 to P5, P7 to P11, its sizes, its end, and DBUtils' way to call it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.connection import PooledConnection
from flask_pooled_db.drivers import Session
from flask_pooled_db.engine import MAX_OPENING
from flask_pooled_db.errors import ConfigError, ConnectFailed, PoolClosed, PoolTimeout, UsageError
from flask_pooled_db.pool import Pool
from tests.support.fake_driver import FakeDriver, OperationalError, WrongPassword
from tests.support.pools import (
    PATIENCE,
    call,
    check_counts,
    most_tries,
    open_pool,
    queue_up,
    wait_until,
)


@pytest.fixture
def fake() -> FakeDriver:
    """A driver without a server."""
    return FakeDriver()


def use(pool: Pool) -> int:
    """The number of the connection that one statement ran on."""
    with pool.connection() as conn:
        cursor = conn.cursor()
        cursor.execute("SELECT")
        number: int = cursor.fetchone()[0]
    return number


def let_rest(con: PooledConnection) -> None:
    """Make an idle connection one that was not used for long."""
    con.good_until = con.idle_since = 0.0


def close_all(leases: list[Any]) -> None:
    for lease in leases:
        lease.close()


# P1


class LockWatcher(logging.Handler):
    """Notes each log record that is made by who holds a pool's lock."""

    def __init__(self, driver: FakeDriver) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []
        self._driver = driver

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())
        self._driver.look_at_lock(record.getMessage())


@pytest.fixture
def watcher(fake: FakeDriver) -> Iterator[LockWatcher]:
    """Watches the log of the package."""
    handler = LockWatcher(fake)
    logger = logging.getLogger("flask_pooled_db")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_p1_no_driver_call_and_no_log_record_comes_from_who_holds_the_lock(
    fake: FakeDriver, watcher: LockWatcher
) -> None:
    """Connecting, pinging, rolling back, closing and logging all happen outside the lock."""
    fake.resets = True
    with open_pool(
        fake, maxconnections=3, ping_after=0, reset="session", max_lifetime=100, leak_threshold=1
    ) as pool:
        fake.watch(pool)
        close_all([pool.connection() for _ in range(3)])
        use(pool)  # a ping and a reset
        fake.fail("ping", OperationalError())
        use(pool)  # a dead one replaced
        fake.raws[max(fake.raws)].die()
        use(pool)
        fake.fail("rollback", OperationalError())
        use(pool)  # discarded
        fake.fail("connect", OperationalError())
        pool.drain()
        use(pool)  # a connect that fails, then one that does not
        lease = pool.connection()
        for con in pool._in_use:
            con.lent_at -= 10
        pool.sweep()  # reports a long lease
        lease.close()
        for con in pool._idle:
            con.expires_at = 0.0
        pool.sweep()  # closes an old one
        pool.resize(1, 1, 1)
        with pytest.raises(PoolTimeout), pool.connection():
            pool.lease(timeout=0)
        pool.close()
    wait_until(lambda: pool.stats().open == 0)
    assert {"connect", "ping", "rollback", "reset", "close"} <= {what for what, _ in fake.record}
    assert any("has been out" in text for text in watcher.seen)
    assert any("is back" in text for text in watcher.seen)
    assert fake.violations == []


def test_p1_a_check_of_the_applications_own_runs_outside_the_lock(fake: FakeDriver) -> None:
    """A callable given as `ping` may itself use the pool."""

    def check(raw: Any) -> bool:
        fake.look_at_lock("check")
        return bool(pool.stats())

    with open_pool(fake, ping=check, maxconnections=2) as pool:
        fake.watch(pool)
        for _ in range(2):
            assert use(pool) == 1
        assert fake.violations == []


def test_p1_a_shared_connection_is_handled_outside_the_lock() -> None:
    """Sharing asks the driver nothing while it holds the lock."""
    fake = FakeDriver(threadsafety=2)
    with open_pool(fake, maxshared=1, maxconnections=1) as pool:
        fake.watch(pool)
        leases = [pool.connection(), pool.connection()]
        for lease in leases:
            lease.cursor().execute("SELECT")
        close_all(leases)
        assert fake.violations == []


# P2


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
        for con in pool._in_use:
            con.lent_at -= 100
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


class Interruption(BaseException):
    """What a signal handler raises."""


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


# P3


def test_p3_never_more_than_maxconnections_are_open(fake: FakeDriver) -> None:
    """Also when slow closes and slow connects overlap: each keeps its place to the end."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            lease = pool.lease(timeout=60)
            fake.raws[lease.cursor().fetchone()[0]].die()
            lease.close()
            check_counts(pool)

    with open_pool(fake, maxconnections=3, maxcached=2) as pool:
        callers = [call(work) for _ in range(8)]
        wait_until(lambda: fake.count("connect") > 60)
        stop.set()
        for caller in callers:
            caller.result()
        assert fake.most_open == 3


def test_p3_a_connection_keeps_its_place_until_it_is_closed(fake: FakeDriver) -> None:
    """While the old connection is still being closed, no new one is opened beyond the limit."""
    with open_pool(fake, maxconnections=1) as pool:
        use(pool)
        gate = fake.hold("close")
        drain = call(pool.drain)
        gate.wait_for_arrivals()
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.1)
        assert (pool.stats().open, fake.count("connect")) == (1, 1)
        gate.open()
        drain.result()
        assert use(pool) == 2
        assert fake.most_open == 1


def test_p3_without_a_limit_everyone_gets_a_connection(fake: FakeDriver) -> None:
    """MAXCONNECTIONS 0 is no limit, as in DBUtils."""
    with open_pool(fake, maxconnections=0) as pool:
        leases = [pool.connection() for _ in range(25)]
        assert fake.open_now == 25
        close_all(leases)


# P4, the part that needs no server


def test_p4_a_connection_that_the_server_closed_is_replaced_without_a_ping(
    fake: FakeDriver,
) -> None:
    """A look at the socket tells."""
    with open_pool(fake) as pool:
        use(pool)
        fake.raws[1].die()
        assert use(pool) == 2
        assert fake.count("ping") == 0


def test_p4_a_ping_is_sent_only_after_ping_after_idle_seconds(fake: FakeDriver) -> None:
    """What was used a moment ago is not asked whether it is alive."""
    with open_pool(fake, ping_after=100) as pool:
        for _ in range(3):
            use(pool)
        assert fake.count("ping") == 0
        let_rest(pool._idle[0])
        use(pool)
        assert fake.count("ping") == 1


def test_p4_with_ping_0_nothing_is_pinged(fake: FakeDriver) -> None:
    """PING 0 is never, as in DBUtils."""
    with open_pool(fake, ping=0, ping_after=0) as pool:
        for _ in range(3):
            use(pool)
    assert fake.count("ping") == 0


@pytest.mark.parametrize(("ping", "pings"), [(2, 2), (4, 3), (6, 5), (7, 6)])
def test_p4_the_flags_of_ping_mean_what_they_mean_in_dbutils(
    fake: FakeDriver, ping: int, pings: int
) -> None:
    """1 is when fetched, 2 when a cursor is made, 4 when a statement is run; here 1, 2 and 3."""
    with open_pool(fake, ping=ping, ping_after=0) as pool:
        use(pool)
        fake.record.clear()
        with pool.connection() as conn:
            for _ in range(2):
                conn.rollback()
                cursor = conn.cursor()
            for _ in range(3):
                conn.rollback()
                cursor.execute("SELECT")
    assert fake.count("ping") == pings


def test_p4_a_statement_given_as_ping_is_run_at_every_checkout(fake: FakeDriver) -> None:
    """PING "SELECT 1" asks by SQL, and leaves no transaction open."""
    with open_pool(fake, ping="SELECT 1", ping_after=100) as pool:
        use(pool)
        fake.record.clear()
        use(pool)
    assert [what for what, _ in fake.record[:3]] == ["cursor", "SELECT 1", "close cursor"]
    assert fake.count("ping") == 0
    assert fake.record[3][0] == "rollback"


def test_p4_a_callable_given_as_ping_decides(fake: FakeDriver) -> None:
    """False and an exception mean dead, None means alive, as in DBUtils."""
    answers: list[Any] = [None, True, False, ZeroDivisionError()]

    def check(raw: Any) -> Any:
        answer = answers.pop(0) if answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    with open_pool(fake, ping=check) as pool:
        use(pool)
        assert [use(pool) for _ in range(3)] == [1, 1, 2]
        pool._idle[0].good_until = 0.0  # no longer fresh
        assert use(pool) == 3


def test_p4_a_tuple_given_as_ping_says_when_and_how(fake: FakeDriver) -> None:
    """PING (4, callable) asks before statements, and not at the checkout."""
    asked: list[Any] = []
    with open_pool(fake, ping=(4, asked.append)) as pool:
        with pool.connection() as conn:
            cursor = conn.cursor()
            assert asked == []
            cursor.execute("SELECT")
            assert len(asked) == 1


def test_p4_after_an_unanswered_ping_the_other_idle_connections_are_not_waited_for(
    fake: FakeDriver,
) -> None:
    """Twenty connections that went silent cost their next callers one timeout, not twenty."""
    with open_pool(
        fake, maxconnections=20, maxcached=20, ping_after=0, connect_timeout=0.3
    ) as pool:
        close_all([pool.connection() for _ in range(20)])
        fake.is_deaf = True
        started = time.monotonic()
        leases = [pool.connection() for _ in range(5)]
        assert fake.count("ping") == 1
        assert time.monotonic() - started < 20 * 0.3
        assert min(lease.cursor().fetchone()[0] for lease in leases) > 20
        fake.is_deaf = False
        close_all(leases)


def test_p4_a_hasty_caller_does_not_condemn_the_other_connections(fake: FakeDriver) -> None:
    """A ping cut short by the caller's own deadline is no proof against the rest of the pool."""
    with open_pool(fake, maxconnections=3, ping_after=0, connect_timeout=60) as pool:
        close_all([pool.connection() for _ in range(3)])
        fake.is_deaf = True
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.01)
        fake.is_deaf = False
        assert pool.stats().idle >= 1


# P5, the part that needs no server


def test_p5_a_checkout_with_an_idle_connection_does_not_wait_for_a_connect(
    fake: FakeDriver,
) -> None:
    """A connect that hangs delays nobody who can be served without it, nor a return."""
    with open_pool(fake, maxconnections=3) as pool:
        close_all([pool.connection(), pool.connection()])
        gate = fake.hold("connect")
        leases = [pool.connection(), pool.connection()]
        hung = queue_up(pool, pool.connection)
        gate.wait_for_arrivals()
        leases.pop().close()  # goes to the one that waits
        hung.result().close()
        assert use(pool) in {1, 2}
        close_all(leases)
        gate.open()


def test_p5_a_hung_ping_delays_nobody_else(fake: FakeDriver) -> None:
    """While one caller's connection does not answer, the others are served."""
    with open_pool(fake, maxconnections=2, ping_after=100) as pool:
        close_all([pool.connection(), pool.connection()])
        let_rest(pool._idle[-1])
        gate = fake.hold("ping")
        hung = call(use, pool)
        gate.wait_for_arrivals()
        assert use(pool) == 1
        gate.open()
        assert hung.result() == 2


def test_p5_a_hung_return_delays_nobody_else(fake: FakeDriver) -> None:
    """While the rollback of one lease does not end, the others come and go."""
    with open_pool(fake, maxconnections=2) as pool:
        close_all([pool.connection(), pool.connection()])
        gate = fake.hold("rollback")
        hung = call(use, pool)
        gate.wait_for_arrivals()
        with pool.connection() as conn:
            assert conn.cursor().fetchone()[0] == 1
        gate.open()
        hung.result()


# P7


def test_p7_nothing_connects_before_the_first_lease(fake: FakeDriver) -> None:
    """A pool that is made with MINCACHED opens them with the first connection asked for."""
    with open_pool(fake, mincached=3, maxconnections=5) as pool:
        assert (fake.count("connect"), pool.stats().open) == (0, 0)
        use(pool)
        wait_until(lambda: pool.stats().idle == 3)
        assert fake.count("connect") == 3


# P8, the part that needs no server


def test_p8_the_last_used_is_lent_first(fake: FakeDriver) -> None:
    """So that what a burst left over can rest."""
    with open_pool(fake, maxconnections=3) as pool:
        leases = [pool.connection() for _ in range(3)]
        numbers = [lease.cursor().fetchone()[0] for lease in leases]
        close_all(leases)
        assert [use(pool) for _ in range(3)] == [numbers[-1]] * 3


def test_p8_idle_connections_above_mincached_are_closed_after_idle_timeout(
    fake: FakeDriver,
) -> None:
    """The pool shrinks to MINCACHED in the background, and no further."""
    with open_pool(fake, mincached=1, maxconnections=4, idle_timeout=0.2) as pool:
        close_all([pool.connection() for _ in range(4)])
        wait_until(lambda: pool.stats().open == 1)
        assert fake.count("connect") == 4
        pool.sweep()
        assert pool.stats().open == 1


def test_p8_connections_are_replaced_at_max_lifetime(fake: FakeDriver) -> None:
    """Idle ones in the background, others when they come back; MINCACHED are kept throughout."""
    with open_pool(fake, mincached=2, maxconnections=4, max_lifetime=100) as pool:
        lease = pool.connection()
        wait_until(lambda: pool.stats().idle == 1 and not pool._opening)
        for con in (*pool._idle, *pool._in_use):
            con.expires_at -= 101
        pool.sweep()
        wait_until(lambda: pool.stats().idle == 1 and not pool._opening)
        assert fake.count("connect") == 3
        lease.close()
        wait_until(lambda: pool.stats().idle == 2 and not pool._opening)
        assert fake.count("connect") == 4
        assert fake.open_now == 2


def test_p8_lifetimes_differ(fake: FakeDriver) -> None:
    """Connections that were opened together do not end together."""
    with open_pool(fake, maxconnections=20, maxcached=20, max_lifetime=100) as pool:
        close_all([pool.connection() for _ in range(20)])
        lifetimes = {con.expires_at - con.opened_at for con in pool._idle}
    assert len(lifetimes) > 1
    assert all(90 <= lifetime <= 100 for lifetime in lifetimes)


def test_p8_a_connection_that_died_in_the_pool_is_made_up_for(fake: FakeDriver) -> None:
    """The pool is kept at MINCACHED."""
    with open_pool(fake, mincached=2, maxconnections=4) as pool:
        use(pool)
        wait_until(lambda: pool.stats().idle == 2)
        pool.drain()
        wait_until(lambda: pool.stats().idle == 2)
        assert fake.open_now == 2


# P10, the part that needs no server


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
        assert pool._connect_failures == 0
        fake.fail("connect", OperationalError())
        pool.drain()
        use(pool)
        assert pool._next_connect - time.monotonic() <= 0.05


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
        wait_until(lambda: pool._next_connect < time.monotonic())
        assert use(pool)


def test_p10_a_few_connects_at_most_are_under_way(fake: FakeDriver) -> None:
    """Fifty callers on a slow server open no fifty connections when the first come back soon."""
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=50, maxcached=50) as pool:
        callers = [queue_up(pool, use, pool) for _ in range(50)]
        gate.wait_for_arrivals(MAX_OPENING)
        assert (pool._opening, pool.stats().open) == (MAX_OPENING, MAX_OPENING)
        later = fake.hold("connect")  # those that come after these take for ever
        gate.open()
        for caller in callers:
            caller.result()
        assert fake.count("connect") <= 2 * MAX_OPENING
        later.open()


# Sizes


def test_maxcached_bounds_what_is_kept(fake: FakeDriver) -> None:
    """What comes back beyond MAXCACHED is closed."""
    with open_pool(fake, maxcached=2, maxconnections=5) as pool:
        close_all([pool.connection() for _ in range(5)])
        assert (pool.stats().idle, pool.stats().open, fake.open_now) == (2, 2, 2)


def test_maxcached_bounds_what_comes_too_late_as_well(fake: FakeDriver) -> None:
    """Connections that were opened for callers who went away are kept up to MAXCACHED."""
    gate = fake.hold("connect")
    with open_pool(fake, maxcached=1, maxconnections=5) as pool:
        callers = [call(pool.lease, timeout=0.05) for _ in range(3)]
        gate.wait_for_arrivals(3)
        for caller in callers:
            with pytest.raises(PoolTimeout):
                caller.result()
        gate.open()
        wait_until(lambda: not pool._opening)
        wait_until(lambda: pool.stats().open == 1)
        assert pool.stats().idle == 1


def test_a_connection_is_replaced_when_it_served_maxusage_statements(fake: FakeDriver) -> None:
    """Between leases only: a lease may go beyond MAXUSAGE, its connection is not lent again."""
    with open_pool(fake, maxusage=3) as pool:
        assert [use(pool) for _ in range(3)] == [1, 1, 1]
        with pool.connection() as conn:
            cursor = conn.cursor()
            for _ in range(10):
                cursor.execute("SELECT")
            assert cursor.fetchone()[0] == 2
        assert use(pool) == 3


def test_resize_lets_the_pool_grow_for_those_who_wait(fake: FakeDriver) -> None:
    """A waiter is served by the place that a larger maximum makes."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        waiter = queue_up(pool, use, pool)
        pool.resize(0, 2, 2)
        assert waiter.result() == 2
        assert pool.stats().maxconnections == 2
        lease.close()


def test_resize_closes_idle_connections_and_lets_leases_end(fake: FakeDriver) -> None:
    """A smaller maximum costs nobody a lease; what comes back beyond it is closed."""
    with open_pool(fake, maxconnections=4, maxcached=4) as pool:
        leases = [pool.connection() for _ in range(4)]
        leases.pop().close()
        pool.resize(0, 2, 2)
        assert (pool.stats().open, pool.stats().idle) == (3, 0)
        for lease in leases:
            lease.cursor().execute("SELECT")
        close_all(leases)
        assert (pool.stats().open, fake.open_now) == (2, 2)


def test_resize_refuses_sizes_that_contradict_each_other(fake: FakeDriver) -> None:
    """As the configuration does; the sizes stay as they are."""
    with open_pool(fake, maxconnections=4) as pool:
        with pytest.raises(ConfigError, match="MINCACHED"):
            pool.resize(5, 3, 4)
        assert pool.stats().maxconnections == 4


def test_drain_replaces_every_connection_and_fails_nobody(fake: FakeDriver) -> None:
    """Idle ones at once, leases when they end."""
    with open_pool(fake, maxconnections=3) as pool:
        leases = [pool.connection() for _ in range(3)]
        leases.pop().close()
        pool.drain()
        assert fake.open_now == 2
        for lease in leases:
            lease.cursor().execute("SELECT")
            lease.commit()
        close_all(leases)
        assert fake.open_now == 0
        assert use(pool) == 4


# The end


def test_close_refuses_new_leases_and_wakes_waiters(fake: FakeDriver) -> None:
    """Both get PoolClosed."""
    with open_pool(fake, maxconnections=1, bind="reports") as pool:
        lease = pool.connection()
        waiter = queue_up(pool, pool.connection)
        pool.close()
        with pytest.raises(PoolClosed, match="'reports'"):
            waiter.result()
        with pytest.raises(PoolClosed):
            pool.connection()
        with pytest.raises(PoolClosed):
            pool.resize(1, 1, 1)
        lease.close()
        assert fake.open_now == 0


def test_close_waits_for_leases_until_its_timeout(fake: FakeDriver) -> None:
    """It returns as soon as the last lease has come back."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        closer = call(pool.close, timeout=60)
        wait_until(lambda: pool._closed)
        assert closer.is_alive()
        lease.close()
        closer.result()
        assert pool.stats().open == 0


def test_a_lease_that_outlives_close_goes_on_and_is_closed_when_it_comes_back(
    fake: FakeDriver,
) -> None:
    """Nobody is failed in the middle of a transaction."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        pool.close(timeout=0.05)
        lease.cursor().execute("INSERT")
        lease.commit()
        assert fake.open_now == 1
        lease.close()
        assert (fake.open_now, pool.stats().open) == (0, 0)


def test_close_can_be_called_twice(fake: FakeDriver) -> None:
    """The second call finds nothing to do."""
    with open_pool(fake) as pool:
        use(pool)
        pool.close()
        pool.close()
        assert fake.open_now == 0


# Statistics


def test_stats_count_what_happened(fake: FakeDriver) -> None:
    """Checkouts, timeouts, connects, failed connects and discarded connections."""
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


def test_the_longest_lease_is_counted_from_its_checkout(fake: FakeDriver) -> None:
    """Not from an earlier one of the same connection."""
    with open_pool(fake) as pool:
        use(pool)
        pool._idle[0].lent_at -= 1000
        gate = fake.hold("ping")
        let_rest(pool._idle[0])
        caller = call(use, pool)
        gate.wait_for_arrivals()
        assert pool.stats().longest_lease < 500
        gate.open()
        caller.result()


def test_the_repr_of_a_pool_is_one_line_of_state(fake: FakeDriver) -> None:
    """Good in a log and in an assert."""
    with open_pool(fake, maxconnections=4, bind="reports") as pool, pool.connection():
        assert repr(pool) == ("<Pool 'reports' of fakedb: 1 in use, 0 idle, 0 waiting, at most 4>")


# DBUtils' way to call it


def test_dbutils_connection_is_given_back_by_its_close(fake: FakeDriver) -> None:
    """`connection()` and `close()` make a lease; what was not committed is rolled back."""
    with open_pool(fake) as pool:
        conn = pool.connection()
        conn.cursor().execute("INSERT")
        conn.close()
        conn.close()
        assert fake.count("rollback") == 1
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_dbutils_a_dedicated_connection_is_shared_with_nobody() -> None:
    """`dedicated_connection()` is `connection(shareable=False)`."""
    with open_pool(FakeDriver(threadsafety=2), maxshared=1) as pool:
        leases = [pool.connection(), pool.connection(), pool.dedicated_connection()]
        assert [lease.cursor().fetchone()[0] for lease in leases] == [1, 1, 2]
        close_all(leases)
        assert pool.stats().idle == 2


def test_dbutils_a_steady_connection_is_outside_of_the_pool(fake: FakeDriver) -> None:
    """`steady_connection()` takes no place, and is closed by its `close()`."""
    with open_pool(fake, maxconnections=1) as pool, pool.connection():
        steady = pool.steady_connection()
        steady.cursor().execute("SELECT")
        steady.commit()
        assert pool.stats().open == 1
        steady.close()
        assert fake.open_now == 1


def test_dbutils_cache_rolls_back_and_takes_back(fake: FakeDriver) -> None:
    """`cache()` takes what `acquire()` gave; a second time it finds nothing to take."""
    with open_pool(fake) as pool:
        con = pool.acquire()
        pool.cache(con)
        assert fake.count("rollback") == 1
        pool.cache(con)
        assert (pool.stats().open, pool.stats().idle) == (1, 1)
        check_counts(pool)


def test_what_is_given_back_twice_is_taken_once(fake: FakeDriver) -> None:
    """Neither keeping nor discarding it a second time changes anything."""
    with open_pool(fake) as pool:
        con = pool.acquire()
        pool.give_back(con, None)
        pool.give_back(con, None)
        pool.give_back(con, "of no use")
        assert (check_counts(pool).open, pool.stats().idle) == (1, 1)
        assert use(pool) == 1


def test_dbutils_cache_closes_what_can_not_be_rolled_back(fake: FakeDriver) -> None:
    """A connection whose rollback fails is not lent again."""
    with open_pool(fake) as pool:
        con = pool.acquire()
        fake.fail("rollback", OperationalError())
        pool.cache(con)
        assert (pool.stats().open, fake.open_now) == (0, 0)


def test_dbutils_cache_keeps_no_connection_whose_rollback_was_interrupted(
    fake: FakeDriver,
) -> None:
    """A BaseException is passed on, and costs the connection, not its place."""
    with open_pool(fake, maxconnections=1) as pool:
        con = pool.acquire()
        fake.fail("rollback", Interruption())
        with pytest.raises(Interruption):
            pool.cache(con)
        assert (pool.stats().open, fake.open_now) == (0, 0)


def test_an_option_the_driver_has_no_way_to_is_refused(fake: FakeDriver) -> None:
    """And the connection goes back as it was."""
    with open_pool(fake) as pool:
        lease = pool.lease(session=Session(readonly=True))
        with pytest.raises(UsageError, match="readonly=True"):
            lease.cursor().execute("SELECT")
        lease.close()
        assert pool.stats().in_use == 0


def test_an_sqlite_pool_works_without_anything_else(tmp_path: Path) -> None:
    """Checkout, return, growth and end, on a real driver."""
    with open_pool(url=f"sqlite:///{tmp_path}/db", maxconnections=2) as pool:
        leases = [pool.connection(), pool.connection()]
        leases[0].cursor().execute("CREATE TABLE t (a)")
        leases[0].commit()
        assert leases[1].cursor().execute("SELECT count(*) FROM t").fetchone() == (0,)
        close_all(leases)
        assert pool.stats().idle == 2
