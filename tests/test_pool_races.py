"""Interleavings that hardly ever happen, forced to happen."""

from __future__ import annotations

import functools
import gc
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from flask_pooled_db.engine import Waiter
from flask_pooled_db.errors import ConnectFailed, PoolClosed, PoolTimeout
from flask_pooled_db.housekeeping import housekeeper
from flask_pooled_db.pool import Pool
from tests.support.fake_driver import FakeDriver, Gate, OperationalError, WrongPassword
from tests.support.pools import call, check_counts, open_pool, queue_up, wait_until


@pytest.fixture
def fake() -> FakeDriver:
    """A driver without a server."""
    return FakeDriver()


class Interruption(BaseException):
    """What a signal handler, or a greenlet's timeout, raises."""


def has_lent(pool: Pool, more_than: int) -> bool:
    return pool.stats().checkouts > more_than


def number_of(lease: Any) -> int:
    number: int = lease.cursor().fetchone()[0]
    return number


def after_waking(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Have the next waiter do something between the end of its wait and what comes after it."""
    wait = Waiter.wait
    first = threading.Lock()

    def wait_then_do(self: Waiter, seconds: float) -> None:
        wait(self, seconds)
        if first.acquire(blocking=False):
            do()

    monkeypatch.setattr(Waiter, "wait", wait_then_do)


# A waiter, just as it is handed a connection


def test_p2_who_times_out_as_it_is_handed_a_connection_has_it(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is neither lost nor handed to two."""
    timed_out = Gate()
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.connection()
        after_waking(monkeypatch, timed_out.stop_here)
        caller = queue_up(pool, pool.lease, timeout=0.01)
        timed_out.wait_for_arrivals()
        lease.close()  # goes to the one whose time is over
        assert pool.stats().in_use == 1
        timed_out.open()
        late = caller.result()
        assert number_of(late) == 1
        late.close()
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_p2_who_is_interrupted_as_it_is_handed_a_connection_passes_it_on(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next waiter gets what an interrupted one was handed."""
    woken = Gate()

    def be_interrupted() -> None:
        woken.stop_here()
        raise Interruption

    with open_pool(fake, maxconnections=1, acquire_timeout=60) as pool:
        lease = pool.connection()
        after_waking(monkeypatch, be_interrupted)
        first = queue_up(pool, pool.connection)
        second = queue_up(pool, pool.connection)
        lease.close()
        woken.wait_for_arrivals()
        woken.open()
        with pytest.raises(Interruption):
            first.result()
        got = second.result()
        assert number_of(got) == 1
        got.close()
        check_counts(pool)


def test_p2_who_times_out_as_the_connect_fails_is_told_so_once(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that comes as the time is over is the outcome, and nothing is left in the queue."""
    timed_out = Gate()
    after_waking(monkeypatch, timed_out.stop_here)
    connecting = fake.hold("connect")
    fake.fail("connect", WrongPassword())
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.lease, timeout=0.01)
        timed_out.wait_for_arrivals()
        connecting.open()
        wait_until(lambda: pool.stats().connect_errors)
        timed_out.open()
        with pytest.raises(ConnectFailed):
            caller.result()
        assert pool.stats().waiting == 0


def test_p2_a_dead_connection_costs_its_caller_no_turn(fake: FakeDriver) -> None:
    """Who was handed a dead connection goes before those who came later."""
    with open_pool(fake, maxconnections=1, acquire_timeout=60) as pool:
        lease = pool.connection()
        connecting = fake.hold("connect")
        first = queue_up(pool, pool.connection)
        second = queue_up(pool, pool.connection)
        fake.raws[1].die()
        lease.close()  # dead: the first one waits for a new one, still the first
        connecting.wait_for_arrivals()
        wait_until(lambda: pool.stats().waiting == 2)
        connecting.open()
        got = first.result()
        assert second.is_alive()
        got.close()
        second.result().close()


def test_the_age_of_a_lease_is_right_before_its_caller_has_woken_up(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lease is reported as long that has just begun."""
    woken = Gate()
    with open_pool(fake, maxconnections=1, acquire_timeout=60) as pool:
        lease = pool.connection()
        after_waking(monkeypatch, woken.stop_here)
        for con in pool._in_use:
            con.lent_at -= 1000
        caller = queue_up(pool, pool.connection)
        lease.close()
        woken.wait_for_arrivals()
        assert pool.stats().longest_lease < 500
        woken.open()
        caller.result().close()


# During a connect


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
        wait_until(lambda: pool._connect_failures > 2)
        pool._next_connect += 1000
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
        wait_until(lambda: pool._connect_failures)
        pool.resize(0, 1, 1)
        wait_until(lambda: not pool._opening)
        assert fake.count("connect") == 2
        lease.close()
        caller.result().close()
        assert fake.count("connect") == 2


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


def test_a_pool_closed_as_a_connect_begins_keeps_no_connection(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opener that has just seen the pool open closes again what it then opens."""
    about_to_connect = Gate()
    open_one = Pool._open_one

    def stop_and_open(pool: Pool) -> bool:
        about_to_connect.stop_here()
        return open_one(pool)

    monkeypatch.setattr(Pool, "_open_one", stop_and_open)
    with open_pool(fake) as pool:
        caller = queue_up(pool, pool.connection)
        about_to_connect.wait_for_arrivals()
        pool.close()
        about_to_connect.open()
        with pytest.raises(PoolClosed):
            caller.result()
        wait_until(lambda: pool.stats().open == 0)
        assert check_counts(pool).idle == 0


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
        wait_until(lambda: not pool._opening)
        assert pool.stats().open == 0
        fake.mend("connect")
        with pool.lease(timeout=60):
            pass


# What nobody gave back


def lose_a_lease(pool: Pool) -> None:
    """Take a connection, and forget it."""
    pool.connection()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_lost_lease_comes_back(fake: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A lease that was garbage collected without close() costs its connection, not its place."""
    with open_pool(fake, maxconnections=1) as pool:
        lose_a_lease(pool)
        with pool.lease(timeout=60) as lease:
            assert number_of(lease) == 2
        assert pool.stats().leaked == 1
        assert fake.open_now == 1
    assert caplog.text.count("never given back") == 1


def test_a_lost_lease_warns_of_itself(fake: FakeDriver) -> None:
    """With a ResourceWarning, as files and sockets do."""
    with open_pool(fake) as pool:
        pool.connection()
        with pytest.warns(ResourceWarning, match="never given back"):
            gc.collect()


def test_a_lost_lease_serves_who_waits_already(fake: FakeDriver) -> None:
    """The housekeeping finds it, also when no new caller comes."""
    with open_pool(fake, maxconnections=1) as pool:
        keep = [pool.connection()]
        caller = queue_up(pool, pool.lease, timeout=60)
        keep.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        caller.result().close()


def test_a_lease_that_is_lost_after_close_is_closed(fake: FakeDriver) -> None:
    """The end of the pool is not the end of its care."""
    with open_pool(fake) as pool:
        keep = [pool.connection()]
        pool.close()
        keep.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        wait_until(lambda: fake.open_now == 0)
        wait_until(lambda: pool.stats().open == 0)


# Cutting a connection that does not answer in time


def test_a_cut_that_comes_with_the_answer_leaves_no_dead_connection_behind(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is about to be cut off when the answer arrives is cut off, and replaced."""
    cutting = Gate()
    abort = fake.abort

    def slow_abort(raw: Any) -> None:
        cutting.stop_here()
        abort(raw)

    with open_pool(fake, ping_after=0, connect_timeout=0.2) as pool:
        with pool.connection():
            pass
        pool._idle[0].good_until = 0.0
        monkeypatch.setattr(fake, "abort", slow_abort)
        pinging = fake.hold("ping")
        caller = call(pool.lease, timeout=60)
        pinging.wait_for_arrivals()
        cutting.wait_for_arrivals()  # the time of the ping is over
        pinging.open()  # and here is the answer
        assert caller.is_alive()
        monkeypatch.setattr(fake, "abort", abort)
        cutting.open()
        lease = caller.result()
        assert number_of(lease) == 2
        lease.close()


def test_no_cut_comes_after_the_block_it_was_for() -> None:
    """What a connection does next is never cut by a deadline of what it did before."""
    started, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def cut() -> None:
        started.set()
        go_on.wait(10)
        order.append("cut")

    def block() -> None:
        with housekeeper.bounded(0.0, cut):
            started.wait(10)
        order.append("left")

    caller = call(block)
    started.wait(10)
    go_on.set()
    caller.result()
    assert order == ["cut", "left"]


def test_p10_a_connect_that_hangs_costs_the_pool_nothing() -> None:
    """Its place is freed a second after its time limit, and another connect serves the caller."""
    fake = FakeDriver(connect_timeout=0.05)
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=1, connect_timeout=0.05) as pool:
        first = queue_up(pool, pool.lease)
        gate.wait_for_arrivals()
        del fake._gates["connect"]
        first.result().close()
        stats = check_counts(pool)
        assert (stats.open, stats.connects, stats.connect_errors) == (1, 1, 1)
        gate.open()  # it comes back after all: there is no place for it
        wait_until(lambda: fake.open_now == 1)
        wait_until(lambda: pool._late == 0)
        assert check_counts(pool).open == 1


def test_p10_a_connect_that_comes_late_is_used_where_there_is_a_place() -> None:
    """A driver that takes longer than it may is slow, and not of no use."""
    fake = FakeDriver(connect_timeout=0.05)
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=4, connect_timeout=0.05) as pool:
        caller = queue_up(pool, pool.lease, timeout=30)
        gate.wait_for_arrivals(3)  # others are tried, as far as MAX_OPENING goes
        wait_until(lambda: pool._late == 3)
        assert check_counts(pool).open == 0
        gate.open()
        caller.result().close()
        wait_until(lambda: pool._late == 0)
        assert check_counts(pool).open == fake.open_now


def test_p10_a_caller_is_told_of_connects_that_hang() -> None:
    """By the cause of its PoolTimeout."""
    fake = FakeDriver(connect_timeout=0.01)
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=1, connect_timeout=0.01) as pool:
        with pytest.raises(
            PoolTimeout, match="the last connect failed with TimeoutError"
        ) as caught:
            pool.lease(timeout=1.5)
        assert "hangs in its driver" in str(caught.value.__cause__)
        gate.open()
        wait_until(lambda: pool._late == 0)
