"""P8 on a fake driver, and the sweep: the pool shrinks, renews its connections, reports leaks."""

from __future__ import annotations

import functools
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flask_pooled_db.pool import Engine, upkeep
from flask_pooled_db.pool.upkeep import sweep
from flask_pooled_db.runtime.housekeeper import housekeeper
from harness.waiting import wait_until
from tests.pool.helpers import close_all, use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool


def _is(count: Callable[[], int], wanted: int) -> bool:
    return count() == wanted


def test_p8_last_used_first(fake: FakeDriver) -> None:
    """The connection that was used last is lent first."""
    with open_pool(fake, maxconnections=3) as pool:
        leases = [pool.connection() for _ in range(3)]
        numbers = [lease.cursor().fetchone()[0] for lease in leases]
        close_all(leases)
        assert [use(pool) for _ in range(3)] == [numbers[-1]] * 3


def test_p8_idle_timeout(
    fake: FakeDriver,
) -> None:
    """After IDLE_TIMEOUT the pool shrinks to MINCACHED in the background, and no further."""
    with open_pool(fake, mincached=1, maxconnections=4, idle_timeout=0.2) as pool:
        close_all([pool.connection() for _ in range(4)])
        wait_until(lambda: pool.stats().open == 1)
        assert fake.count("connect") == 4
        sweep(pool.engine)
        assert pool.stats().open == 1


def test_p8_max_lifetime(fake: FakeDriver) -> None:
    """Connections are replaced at MAX_LIFETIME: idle ones in the background, others on return."""
    with open_pool(fake, mincached=2, maxconnections=4, max_lifetime=100) as pool:
        lease = pool.connection()
        wait_until(lambda: pool.stats().idle == 1 and not pool.engine.state.connector.opening)
        for con in (*pool.engine.state.idle, *pool.engine.state.in_use_locked()):
            con.expires_at -= 101
        sweep(pool.engine)
        wait_until(lambda: pool.stats().idle == 1 and not pool.engine.state.connector.opening)
        assert fake.count("connect") == 3
        lease.close()
        wait_until(lambda: pool.stats().idle == 2 and not pool.engine.state.connector.opening)
        assert fake.count("connect") == 4
        assert fake.open_now == 2


def test_p8_lifetime_jitter(fake: FakeDriver) -> None:
    """Connections that were opened together have different lifetimes."""
    with open_pool(fake, maxconnections=20, maxcached=20, max_lifetime=100) as pool:
        close_all([pool.connection() for _ in range(20)])
        lifetimes = {con.expires_at - con.origin.opened_at for con in pool.engine.state.idle}
    assert len(lifetimes) > 1
    assert all(90 <= lifetime <= 100 for lifetime in lifetimes)


def test_p8_dead_connection_replaced(fake: FakeDriver) -> None:
    """The pool replaces a connection that died while idle, to keep MINCACHED."""
    with open_pool(fake, mincached=2, maxconnections=4) as pool:
        use(pool)
        wait_until(lambda: pool.stats().idle == 2)
        pool.drain()
        wait_until(lambda: pool.stats().idle == 2)
        assert fake.open_now == 2


def test_sweep_holds_pool_weakly(fake: FakeDriver) -> None:
    """The sweep holds its pool weakly."""
    with open_pool(fake) as pool:
        pool.connection().close()
        reference: weakref.ref[Engine] = weakref.ref(pool.engine)
    del pool
    wait_until(lambda: gc.collect() is not None and reference() is None)


def test_failing_sweep(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing sweep is logged, and the pool is swept again."""
    with open_pool(fake, idle_timeout=0.1) as pool:
        failed = threading.Event()

        def fail_once(engine: Engine) -> None:
            if engine is pool.engine and not failed.is_set():
                failed.set()
                raise ZeroDivisionError
            sweep(engine)

        monkeypatch.setattr(upkeep, "sweep", fail_once)
        pool.connection().close()
        assert failed.wait(20)
        wait_until(lambda: pool.stats().open == 0)
    wait_until(lambda: "Sweeping a pool failed" in caplog.text)


def test_leak_threshold(fake: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A lease older than LEAK_THRESHOLD is logged once, with the bind's name and its age; others
    that were taken at the same place are counted.
    """
    with open_pool(fake, leak_threshold=0.05, bind="reports") as pool:

        def reports() -> int:
            return caplog.text.count("has been out for")

        another: Callable[[], Any] = lambda: pool.connection()  # noqa: E731, PLW0108  its place
        takes = (pool.connection, another)
        for times, take in enumerate(takes, start=1):
            with take():
                wait_until(functools.partial(_is, reports, times))
                for _ in range(3):
                    sweep(pool.engine)
                assert caplog.text.count("has been out for") == times
        with takes[1]():
            for entry in pool.engine.state.in_use_locked():
                entry.since -= 10
            sweep(pool.engine)
            assert caplog.text.count("has been out for") == 2
    record = next(r for r in caplog.records if "has been out" in r.getMessage())
    assert record.levelno == logging.WARNING
    assert "'reports'" in record.getMessage()


def test_leak_threshold_0(fake: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """LEAK_THRESHOLD 0 switches the leak detection off."""
    with open_pool(fake) as pool, pool.connection():
        for con in pool.engine.state.in_use_locked():
            con.since -= 1e6
        sweep(pool.engine)
    assert "has been out" not in caplog.text


def test_slow_close(fake: FakeDriver) -> None:
    """A slow close of one pool does not delay the jobs of another."""
    with open_pool(fake, max_lifetime=100) as pool:
        pool.connection().close()
        pool.engine.state.idle[0].expires_at = 0.0
        gate = fake.hold("close")
        sweep(pool.engine)
        gate.wait_for_arrivals()
        done = threading.Event()
        housekeeper.call_later(0.0, done.set)
        assert done.wait(20)
        gate.open()
        wait_until(lambda: pool.stats().open == 0)
