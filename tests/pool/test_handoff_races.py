"""A waiter that times out, is interrupted or fails just as it is handed a connection."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from flask_pooled_db.errors import ConnectFailed
from flask_pooled_db.pool.queue import Waiter
from harness.waiting import wait_until
from tests.pool.helpers import Interruption, number_of
from tests.support.fake_driver import FakeDriver, Gate, WrongPassword
from tests.support.pools import check_counts, open_pool, queue_up


def after_waking(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Have the next waiter do something between the end of its wait and what comes after it."""
    wait = Waiter.wait
    first = threading.Lock()

    def wait_then_do(self: Waiter, seconds: float) -> None:
        wait(self, seconds)
        if first.acquire(blocking=False):
            do()

    monkeypatch.setattr(Waiter, "wait", wait_then_do)


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
        for con in pool.engine.state.in_use:
            con.since -= 1000
        caller = queue_up(pool, pool.connection)
        lease.close()
        woken.wait_for_arrivals()
        assert pool.stats().longest_lease < 500
        woken.open()
        caller.result().close()
