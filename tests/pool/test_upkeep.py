"""P8 on a fake driver, and the sweep: the pool shrinks, renews its connections, reports leaks."""

from __future__ import annotations

import functools
import gc
import logging
import threading
import weakref
from collections.abc import Callable

import pytest

from flask_pooled_db.pool import Engine
from flask_pooled_db.runtime.housekeeper import housekeeper
from harness.waiting import wait_until
from tests.pool.helpers import close_all, use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool


def _is(count: Callable[[], int], wanted: int) -> bool:
    return count() == wanted


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
        pool.engine.sweep()
        assert pool.stats().open == 1


def test_p8_connections_are_replaced_at_max_lifetime(fake: FakeDriver) -> None:
    """Idle ones in the background, others when they come back; MINCACHED are kept throughout."""
    with open_pool(fake, mincached=2, maxconnections=4, max_lifetime=100) as pool:
        lease = pool.connection()
        wait_until(lambda: pool.stats().idle == 1 and not pool.engine.state.connector.opening)
        for con in (*pool.engine.state.idle, *pool.engine.state.in_use):
            con.expires_at -= 101
        pool.engine.sweep()
        wait_until(lambda: pool.stats().idle == 1 and not pool.engine.state.connector.opening)
        assert fake.count("connect") == 3
        lease.close()
        wait_until(lambda: pool.stats().idle == 2 and not pool.engine.state.connector.opening)
        assert fake.count("connect") == 4
        assert fake.open_now == 2


def test_p8_lifetimes_differ(fake: FakeDriver) -> None:
    """Connections that were opened together do not end together."""
    with open_pool(fake, maxconnections=20, maxcached=20, max_lifetime=100) as pool:
        close_all([pool.connection() for _ in range(20)])
        lifetimes = {con.expires_at - con.origin.opened_at for con in pool.engine.state.idle}
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


def test_a_pool_that_is_dropped_is_not_kept_alive(fake: FakeDriver) -> None:
    """The job that sweeps it holds it weakly."""
    with open_pool(fake) as pool:
        pool.connection().close()
        reference: weakref.ref[Engine] = weakref.ref(pool.engine)
    del pool
    wait_until(lambda: gc.collect() is not None and reference() is None)


def test_a_sweep_that_fails_is_not_the_last_one(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pool is swept again at the next turn."""
    with open_pool(fake, idle_timeout=0.1) as pool:
        sweep, failed = Engine.sweep, threading.Event()

        def fail_once(self: Engine) -> None:
            if self is pool.engine and not failed.is_set():
                failed.set()
                raise ZeroDivisionError
            sweep(self)

        monkeypatch.setattr(Engine, "sweep", fail_once)
        pool.connection().close()
        assert failed.wait(20)
        wait_until(lambda: pool.stats().open == 0)
    assert "Sweeping a pool failed" in caplog.text


def test_a_lease_beyond_leak_threshold_is_logged_once(
    fake: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a lease, with the bind's name and its age; the next lease is one of its own."""
    with open_pool(fake, leak_threshold=0.05, bind="reports") as pool:

        def reports() -> int:
            return caplog.text.count("has been out for")

        for times in (1, 2):
            with pool.connection():
                wait_until(functools.partial(_is, reports, times))
                for _ in range(3):
                    pool.engine.sweep()
                assert caplog.text.count("has been out for") == times
    record = next(r for r in caplog.records if "has been out" in r.getMessage())
    assert record.levelno == logging.WARNING
    assert "'reports'" in record.getMessage()


def test_without_a_leak_threshold_no_lease_is_too_long(
    fake: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """LEAK_THRESHOLD 0 is off."""
    with open_pool(fake) as pool, pool.connection():
        for con in pool.engine.state.in_use:
            con.since -= 1e6
        pool.engine.sweep()
    assert "has been out" not in caplog.text


def test_a_slow_close_does_not_hold_up_the_housekeeping(fake: FakeDriver) -> None:
    """The jobs of one pool never wait for the server of another."""
    with open_pool(fake, max_lifetime=100) as pool:
        pool.connection().close()
        pool.engine.state.idle[0].expires_at = 0.0
        gate = fake.hold("close")
        pool.engine.sweep()
        gate.wait_for_arrivals()
        done = threading.Event()
        housekeeper.call_later(0.0, done.set)
        assert done.wait(20)
        gate.open()
        wait_until(lambda: pool.stats().open == 0)
