"""The housekeeping thread: one a process, started late, and hard to kill."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from flask_pooled_db.runtime.housekeeper import Housekeeper
from harness.waiting import wait_until
from tests.support.leaks import housekeeping_threads


@pytest.fixture
def keeper() -> Iterator[Housekeeper]:
    """One of the test's own."""
    keeper = Housekeeper()
    yield keeper
    keeper.stop()


def test_thread_starts_with_first_job(keeper: Housekeeper) -> None:
    """The thread starts with the first job and is a daemon."""
    before = set(housekeeping_threads())
    done = threading.Event()
    keeper.call_later(0.0, done.set)
    assert done.wait(20)
    (thread,) = set(housekeeping_threads()) - before
    assert thread.daemon


def test_order_of_jobs(keeper: Housekeeper) -> None:
    """Jobs run in the order of their times, not of their arrival."""
    order: list[int] = []
    done = threading.Event()
    now = time.monotonic()
    keeper.call_at(now + 0.3, done.set)
    for delay in (0.2, 0.1, 0.15):
        keeper.call_at(now + delay, functools.partial(order.append, round(delay * 100)))
    assert done.wait(20)
    assert order == [10, 15, 20]
    assert time.monotonic() >= now + 0.3


def test_cancelled_job(keeper: Housekeeper) -> None:
    """A cancelled job does not run and keeps nothing alive."""

    class Thing:
        def work(self) -> None:
            ran.append(1)

    ran: list[int] = []
    thing = Thing()
    reference = weakref.ref(thing)
    job = keeper.call_later(0.05, thing.work)
    job.cancel()
    del thing
    gc.collect()
    assert reference() is None
    done = threading.Event()
    keeper.call_later(0.1, done.set)
    assert done.wait(20)
    assert not ran


def test_failing_job(keeper: Housekeeper, caplog: pytest.LogCaptureFixture) -> None:
    """A failing job is logged, and the next one runs."""

    def fail() -> None:
        raise ZeroDivisionError

    done = threading.Event()
    keeper.call_later(0.0, fail)
    keeper.call_later(0.01, done.set)
    assert done.wait(20)
    assert "A housekeeping job failed" in caplog.text


def test_bounded_block_in_time(keeper: Housekeeper) -> None:
    """`bounded` does nothing to a block that ends in time."""
    acted = threading.Event()
    with keeper.bounded(0.05, acted.set):
        pass
    assert not acted.wait(0.2)


def test_bounded_block_too_long(keeper: Housekeeper) -> None:
    """`bounded` acts on a block that takes too long while it runs."""
    acted = threading.Event()
    with keeper.bounded(0.01, acted.set):
        assert acted.wait(20)


def test_stop(keeper: Housekeeper) -> None:
    """stop() drops the jobs and returns when the thread has ended."""
    before = set(housekeeping_threads())
    ran = threading.Event()
    keeper.call_later(0.2, ran.set)
    keeper.stop()
    assert set(housekeeping_threads()) <= before
    assert not ran.wait(0.4)


def test_job_after_stop(keeper: Housekeeper) -> None:
    """A job after stop() starts a new thread, even while the old one finishes its last job."""
    busy, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        go_on.wait(20)

    keeper.call_later(0.0, work)
    assert busy.wait(20)
    stopper = threading.Thread(target=keeper.stop)
    stopper.start()
    wait_until(lambda: keeper._thread is None)
    keeper.call_later(0.0, done.set)
    assert done.wait(20)
    go_on.set()
    stopper.join(20)
    assert not stopper.is_alive()


def test_gevent() -> None:
    """Under gevent the thread is a greenlet, and the pool works."""
    program = """
from gevent import monkey
monkey.patch_all()
import gevent, time
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool
from flask_pooled_db.errors import PoolTimeout
fake = FakeDriver()
with open_pool(fake, maxconnections=2, idle_timeout=0.1, leak_threshold=5) as pool:
    def use():
        with pool.lease(timeout=20):
            gevent.sleep(0.001)
    gevent.joinall([gevent.spawn(use) for _ in range(50)], raise_error=True)
    leases = [pool.connection(), pool.connection()]
    try:
        with gevent.Timeout(0.05):
            pool.connection()
    except gevent.Timeout:
        print("timed out", pool.stats().waiting)
    for lease in leases:
        lease.close()
    deadline = time.monotonic() + 20
    while pool.stats().open and time.monotonic() < deadline:
        gevent.sleep(0.01)
    print(pool.stats().open, fake.open_now, fake.most_open)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == ["timed out 0", "0 0 2"], done.stderr
