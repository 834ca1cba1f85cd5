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

    def wait_then_do(self: Waiter, seconds: float) -> bool:
        is_settled = wait(self, seconds)
        if first.acquire(blocking=False):
            do()
        return is_settled

    monkeypatch.setattr(Waiter, "wait", wait_then_do)


def test_p2_timeout_races_handoff(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that times out while it is handed a connection keeps the connection, alone."""
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


def test_p2_interruption_races_handoff(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that is interrupted while it is handed a connection passes the connection to the
    next waiter.
    """
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


def test_p2_timeout_races_connect_error(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that times out while the connect fails gets one error and leaves the queue."""
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


def test_p2_dead_connection_keeps_turn(fake: FakeDriver) -> None:
    """A waiter that was handed a dead connection keeps its place at the head of the queue."""
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


def test_lease_age_before_wakeup(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age of a lease counts from the handoff, before its caller has woken up."""
    woken = Gate()
    with open_pool(fake, maxconnections=1, acquire_timeout=60) as pool:
        lease = pool.connection()
        after_waking(monkeypatch, woken.stop_here)
        for con in pool.engine.state.in_use_locked():
            con.since -= 1000
        caller = queue_up(pool, pool.connection)
        lease.close()
        woken.wait_for_arrivals()
        assert pool.stats().longest_lease < 500
        woken.open()
        caller.result().close()
