"""Connections and connects that do not answer in time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from flask_pooled_db.config import PingPolicy, PoolConfig
from flask_pooled_db.drivers.servers import Servers
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.connector import Attempt, Connector
from flask_pooled_db.pool.places import Places
from flask_pooled_db.runtime.housekeeper import housekeeper
from harness.waiting import wait_until
from tests.pool.helpers import number_of
from tests.support.fake_driver import FakeDriver, Gate, OperationalError, WrongPassword
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
    """A connection that opens after its time limit is closed, and others serve the callers."""
    fake = FakeDriver(connect_timeout=0.05)
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=4, connect_timeout=0.05) as pool:
        caller = queue_up(pool, pool.lease, timeout=30)
        gate.wait_for_arrivals(3)
        wait_until(lambda: pool.engine.state.connector.hanging == 3)
        del fake._gates["connect"]
        gate.open()
        lease = caller.result()
        assert number_of(lease) > 3
        lease.close()
        wait_until(lambda: pool.engine.state.connector.hanging == 0)
        assert check_counts(pool).open == fake.open_now
        assert pool.stats().connects == fake.open_now


def hang(pool: Pool, fake: FakeDriver) -> Gate:
    """Have a connect of the pool hang. Returns the gate behind which it waits for good."""
    gate = fake.hold("connect")
    with contextlib.suppress(PoolTimeout):
        pool.lease(timeout=0)
    gate.wait_for_arrivals()
    wait_until(lambda: pool.engine.state.connector.hanging == 1)
    del fake._gates["connect"]
    return gate


@pytest.mark.parametrize("error", [OperationalError, WrongPassword])
def test_p10_late_failure(error: type[Exception]) -> None:
    """What a connect that hung fails with in the end is out of date: it stops nobody."""
    fake = FakeDriver(connect_timeout=0.05)
    with open_pool(fake, connect_timeout=0.05) as pool:
        fake.fail("connect", error())
        gate = hang(pool, fake)
        pool.lease().close()
        gate.open()
        wait_until(lambda: pool.engine.state.connector.hanging == 0)
        assert not pool.engine.state.connector.backoff.is_down
        assert pool.stats().connect_errors == 1
        with pool.connection(), pool.connection():
            pass


@pytest.mark.parametrize("end", ["close", "drain"])
def test_p10_late_connect_of_old_pool(end: str) -> None:
    """A connect that hung and returns after its pool was closed or drained is closed."""
    fake = FakeDriver(connect_timeout=0.05)
    with open_pool(fake, connect_timeout=0.05) as pool:
        gate = hang(pool, fake)
        getattr(pool, end)()
        gate.open()
        wait_until(lambda: pool.engine.state.connector.hanging == 0)
        wait_until(lambda: fake.open_now == 0)
        assert check_counts(pool).open == 0


def test_p10_connects_hang_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connects hang and never return, another one is tried, and the callers are served
    as soon as one succeeds.
    """
    monkeypatch.setattr("flask_pooled_db.pool.connector.HANG_GRACE", 0.05)
    fake = FakeDriver(connect_timeout=0.05)
    gate = fake.hold("connect")
    with open_pool(fake, maxconnections=2, connect_timeout=0.05) as pool:
        caller = queue_up(pool, pool.lease, timeout=60)
        gate.wait_for_arrivals(5)
        del fake._gates["connect"]
        caller.result().close()
        assert pool.engine.state.connector.hanging >= 5
        with pool.connection(), pool.connection():
            assert check_counts(pool).open == 2
        gate.open()
        wait_until(lambda: pool.engine.state.connector.hanging == 0)
        wait_until(lambda: check_counts(pool).open == fake.open_now)


def test_p10_pause_while_connects_hang() -> None:
    """Each connect that hangs holds a thread, so the pause between two tries doubles with each,
    up to five minutes; the first that returns ends it.
    """
    fake = FakeDriver(connect_timeout=5.0)
    connector = Connector(PoolConfig(creator=fake), PingPolicy(), fake, time.monotonic)
    hung, pauses, places = [], [], Places(0)
    for _ in range(12):
        place = places.take()
        assert place is not None
        hung.append(Attempt(place))
        connector.hang_locked(hung[-1])
        pauses.append(round(max(connector.backoff.pause_locked(), 0.0)))
        assert connector.room_locked() >= 1
    assert pauses == [0, 0, 6, 12, 24, 48, 96, 192, 300, 300, 300, 300]
    connector.came_back_locked(hung[0])
    assert connector.backoff.pause_locked() <= 0


def test_p4_hung_server_left_alone() -> None:
    """A server on which a connect hangs in its driver is left alone, and another one is tried."""
    fake = FakeDriver(connect_timeout=0.05)
    fake.servers = Servers([{"host": "deaf"}, {"host": "well"}])
    tried = []

    def connect(where: Mapping[str, Any]) -> Any:
        tried.append(where["host"])
        if where["host"] == "deaf":
            fake.note("deaf", None)
        return fake._connect()

    fake.connect = connect  # type: ignore[method-assign,assignment]
    gate = fake.hold("deaf")
    with open_pool(fake, connect_timeout=0.05) as pool:
        pool.lease().close()
        assert tried == ["deaf", "well"]
        gate.open()
        wait_until(lambda: pool.engine.state.connector.hanging == 0)


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
