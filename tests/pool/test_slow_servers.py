"""Connections and connects that do not answer in time."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.runtime.housekeeper import housekeeper
from harness.waiting import wait_until
from tests.pool.helpers import number_of
from tests.support.fake_driver import FakeDriver, Gate
from tests.support.pools import call, check_counts, open_pool, queue_up


def test_cut_races_answer(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is cut while its answer arrives is replaced."""
    cutting = Gate()
    cut = fake.cut

    def slow_cut(raw: Any) -> None:
        cutting.stop_here()
        cut(raw)

    with open_pool(fake, ping_after=0, connect_timeout=0.2) as pool:
        with pool.connection():
            pass
        pool.engine.state.idle[0].valid_until = 0.0
        monkeypatch.setattr(fake, "cut", slow_cut)
        pinging = fake.hold("ping")
        caller = call(pool.lease, timeout=60)
        pinging.wait_for_arrivals()
        cutting.wait_for_arrivals()  # the time of the ping is over
        pinging.open()  # and here is the answer
        assert caller.is_alive()
        monkeypatch.setattr(fake, "cut", cut)
        cutting.open()
        lease = caller.result()
        assert number_of(lease) == 2
        lease.close()


def test_cut_races_block_end() -> None:
    """A deadline never cuts what the connection does after the block it was set for."""
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


def test_p10_hung_connect() -> None:
    """A hung connect loses its place a second after its time limit, and another connect serves the
    caller.
    """
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
        wait_until(lambda: pool.engine.state.connector.hanging == 0)
        assert check_counts(pool).open == 1


def test_p10_late_connect() -> None:
    """A connection that opens after its time limit is used if there is a place for it."""
    fake = FakeDriver(connect_timeout=0.05)
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=4, connect_timeout=0.05) as pool:
        caller = queue_up(pool, pool.lease, timeout=30)
        gate.wait_for_arrivals(3)  # others are tried, as far as MAX_OPENING goes
        wait_until(lambda: pool.engine.state.connector.hanging == 3)
        assert check_counts(pool).open == 0
        gate.open()
        caller.result().close()
        wait_until(lambda: pool.engine.state.connector.hanging == 0)
        assert check_counts(pool).open == fake.open_now


def test_p10_hung_connect_as_cause() -> None:
    """Hung connects are the cause of a caller's PoolTimeout."""
    fake = FakeDriver(connect_timeout=0.01)
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=1, connect_timeout=0.01) as pool:
        with pytest.raises(
            PoolTimeout, match="the last connect failed with TimeoutError"
        ) as caught:
            pool.lease(timeout=1.5)
        assert "hangs in its driver" in str(caught.value.__cause__)
        gate.open()
        wait_until(lambda: pool.engine.state.connector.hanging == 0)
