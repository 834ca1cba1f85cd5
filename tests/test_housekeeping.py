"""The housekeeping thread: one a process, started late, and hard to kill."""

from __future__ import annotations

import functools
import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from flask_pooled_db.housekeeping import THREAD_NAME, Housekeeper, housekeeper
from flask_pooled_db.pool import Pool
from flask_pooled_db.process import close_pools
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool, wait_until


def _is(count: Callable[[], int], wanted: int) -> bool:
    return count() == wanted


@pytest.fixture
def keeper() -> Iterator[Housekeeper]:
    """One of the test's own."""
    keeper = Housekeeper()
    yield keeper
    keeper.stop()


@pytest.fixture
def fake() -> FakeDriver:
    """A driver without a server."""
    return FakeDriver()


def housekeeping_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_the_thread_starts_with_the_first_job_and_is_a_daemon(keeper: Housekeeper) -> None:
    """Nothing runs before there is something to do, and nothing keeps the process alive."""
    before = set(housekeeping_threads())
    done = threading.Event()
    keeper.call_later(0.0, done.set)
    assert done.wait(20)
    (thread,) = set(housekeeping_threads()) - before
    assert thread.daemon


def test_jobs_run_at_their_time_whatever_order_they_came_in(keeper: Housekeeper) -> None:
    """The earliest first; one that comes late may be due before those that wait."""
    order: list[int] = []
    done = threading.Event()
    now = time.monotonic()
    keeper.call_at(now + 0.3, done.set)
    for delay in (0.2, 0.1, 0.15):
        keeper.call_at(now + delay, functools.partial(order.append, round(delay * 100)))
    assert done.wait(20)
    assert order == [10, 15, 20]
    assert time.monotonic() >= now + 0.3


def test_a_cancelled_job_does_not_run_and_holds_on_to_nothing(keeper: Housekeeper) -> None:
    """What it was to work on may be garbage from then on."""

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


def test_a_failing_job_is_logged_and_the_next_one_runs(
    keeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread outlives it."""

    def fail() -> None:
        raise ZeroDivisionError

    done = threading.Event()
    keeper.call_later(0.0, fail)
    keeper.call_later(0.01, done.set)
    assert done.wait(20)
    assert "A housekeeping job failed" in caplog.text


def test_a_block_that_ends_in_time_is_left_alone(keeper: Housekeeper) -> None:
    """`bounded` acts on late ones alone."""
    acted = threading.Event()
    with keeper.bounded(0.05, acted.set):
        pass
    assert not acted.wait(0.2)


def test_a_block_that_takes_too_long_is_acted_on_while_it_lasts(keeper: Housekeeper) -> None:
    """Which is how a hung server is cut off."""
    acted = threading.Event()
    with keeper.bounded(0.01, acted.set):
        assert acted.wait(20)


def test_stop_ends_the_thread_and_drops_its_jobs(keeper: Housekeeper) -> None:
    """When it returns, the thread is gone."""
    before = set(housekeeping_threads())
    ran = threading.Event()
    keeper.call_later(0.2, ran.set)
    keeper.stop()
    assert set(housekeeping_threads()) <= before
    assert not ran.wait(0.4)


def test_a_job_after_stop_starts_the_thread_anew(keeper: Housekeeper) -> None:
    """Also when it comes while the old thread is still busy with its last job."""
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


def test_all_pools_of_a_process_share_one_thread(fake: FakeDriver) -> None:
    """However many they are."""
    with open_pool(fake) as one, open_pool(FakeDriver()) as two:
        for pool in (one, two):
            pool.connection().close()
        assert len(housekeeping_threads()) == 1


def test_a_pool_that_is_dropped_is_not_kept_alive(fake: FakeDriver) -> None:
    """The job that sweeps it holds it weakly."""
    with open_pool(fake) as pool:
        pool.connection().close()
        reference: weakref.ref[Pool] = weakref.ref(pool)
    del pool
    wait_until(lambda: gc.collect() is not None and reference() is None)


def test_a_sweep_that_fails_is_not_the_last_one(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pool is swept again at the next turn."""
    with open_pool(fake, idle_timeout=0.1) as pool:
        sweep, failed = Pool.sweep, threading.Event()

        def fail_once(self: Pool) -> None:
            if self is pool and not failed.is_set():
                failed.set()
                raise ZeroDivisionError
            sweep(self)

        monkeypatch.setattr(Pool, "sweep", fail_once)
        pool.connection().close()
        assert failed.wait(20)
        wait_until(lambda: pool.stats().open == 0)
    assert "A housekeeping job failed" in caplog.text


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
                    pool.sweep()
                assert caplog.text.count("has been out for") == times
    record = next(r for r in caplog.records if "has been out" in r.getMessage())
    assert record.levelno == logging.WARNING
    assert "'reports'" in record.getMessage()


def test_without_a_leak_threshold_no_lease_is_too_long(
    fake: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """LEAK_THRESHOLD 0 is off."""
    with open_pool(fake) as pool, pool.connection():
        for con in pool._in_use:
            con.lent_at -= 1e6
        pool.sweep()
    assert "has been out" not in caplog.text


def test_a_slow_close_does_not_hold_up_the_housekeeping(fake: FakeDriver) -> None:
    """The jobs of one pool never wait for the server of another."""
    with open_pool(fake, max_lifetime=100) as pool:
        pool.connection().close()
        pool._idle[0].expires_at = 0.0
        gate = fake.hold("close")
        pool.sweep()
        gate.wait_for_arrivals()
        done = threading.Event()
        housekeeper.call_later(0.0, done.set)
        assert done.wait(20)
        gate.open()
        wait_until(lambda: pool.stats().open == 0)


def test_close_pools_ends_every_pool_and_the_thread(fake: FakeDriver) -> None:
    """What a worker calls at its end; it can be called twice."""
    with open_pool(fake) as pool:
        pool.connection().close()
        close_pools()
        close_pools()
        assert fake.open_now == 0
        assert not housekeeping_threads()


def test_a_process_ends_with_its_pools_closed() -> None:
    """At exit the server is told goodbye, without a word of the program's own."""
    program = """
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool
fake = FakeDriver()
pools = open_pool(fake)
pools.__enter__().connection().close()
import atexit
atexit._run_exitfuncs()
print(fake.count("close"), fake.open_now)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("1 0", "")


def test_it_works_under_gevent() -> None:
    """Monkey-patched, the thread is a greenlet, and the pool works as ever."""
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
