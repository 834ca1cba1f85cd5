"""P12: no finalizer, signal handler or callback stops the pool, wherever it runs."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db.config import DEFAULT_OPTIONS
from flask_pooled_db.errors import PoolTimeout, UsageError
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.runtime import guard, housekeeper, reporter
from harness.waiting import wait_until
from tests.runtime.forking import run_program, untraced
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call, check_counts, open_pool


def rows(pool: Pool) -> Iterator[int]:
    """A generator that holds a scope while it is suspended."""
    with Scope(pool.engine, Leases(), DEFAULT_OPTIONS) as conn:
        conn.cursor().execute("INSERT")
        yield 1


def suspended(pool: Pool) -> Iterator[int]:
    """Such a generator, suspended inside its scope."""
    generator = rows(pool)
    next(generator)
    return generator


class Cycle:
    """Garbage that takes the collector to find."""

    def __init__(self, content: object) -> None:
        self.content = content
        self.itself = self


def inside(function: Callable[[], Any]) -> Any:
    """Call a function where a finalizer or a signal handler may run: inside the lock."""
    with guard.lock:
        return function()


def test_p12_generator_collected_under_lock(fake: FakeDriver) -> None:
    """A generator that the collector closes inside the lock leaves its connection to the pool."""
    with open_pool(fake, maxconnections=2) as pool:
        fake.watch()
        Cycle(suspended(pool))
        inside(gc.collect)
        assert fake.violations == []
        call(pool.stats).result()
        wait_until(lambda: check_counts(pool).in_use == 0)
        leases = [pool.lease(timeout=20) for _ in range(2)]
        for lease in leases:
            lease.close()
        assert pool.stats().leaked == 0


def test_p12_waiter_served_after_collection(fake: FakeDriver) -> None:
    """Whoever waits for the connection of such a generator gets its place."""
    with open_pool(fake, maxconnections=1, acquire_timeout=20) as pool:
        keep = [Cycle(suspended(pool))]
        caller = call(pool.lease)
        wait_until(lambda: pool.stats().waiting == 1)
        keep.clear()
        inside(gc.collect)
        caller.result().close()


def test_p13_comes_back_as_garbage(fake: FakeDriver) -> None:
    """The connection of a generator that the collector closes is garbage with it, and nobody's to
    keep: weak references to it are gone by then.
    """
    with open_pool(fake, maxconnections=2) as pool:
        Cycle(suspended(pool))
        gc.collect()
        state = pool.engine.state
        assert all(entry.ref() is entry for entry in state.idle)
        wait_until(lambda: check_counts(pool).open == 0)
        pool.lease(timeout=20).close()


@pytest.mark.parametrize("allocations", [2, 3, 4, 5, 6, 7])
def test_p12_collections_everywhere(fake: FakeDriver, allocations: int) -> None:
    """With collections after so few allocations, threads that lose generators do no harm."""
    thresholds = gc.get_threshold()
    with open_pool(fake, maxconnections=4, acquire_timeout=20, idle_timeout=0.08) as pool:

        def work() -> None:
            for _ in range(10):
                Cycle(suspended(pool))
                pool.stats()
                pool.lease().close()

        gc.set_threshold(allocations, 2, 2)
        try:
            callers = [call(work) for _ in range(3)]
            for caller in callers:
                caller.result()
        finally:
            gc.set_threshold(*thresholds)
        gc.collect()
        wait_until(lambda: check_counts(pool).in_use == 0)


def test_p12_stats_in_signal_handler(fake: FakeDriver) -> None:
    """A signal handler gets the numbers of the pool, whatever it interrupted."""
    seen = []
    with open_pool(fake) as pool:
        lease = pool.lease()

        def handle(*_: object) -> None:
            seen.append(pool.stats().in_use)

        def interrupt() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: bool(seen))

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            inside(interrupt)
        finally:
            signal.signal(signal.SIGUSR1, before)
        lease.close()
    assert seen == [1]


def test_p12_checkout_in_signal_handler(fake: FakeDriver) -> None:
    """Inside the lock nothing is lent and nothing is sent; the error says why."""
    with open_pool(fake, maxconnections=2) as pool:
        fake.watch()
        lease = pool.lease()
        cursor = lease.cursor()
        with pytest.raises(PoolTimeout) as refused:
            inside(pool.lease)
        assert "signal handler or a finalizer" in str(refused.value.__cause__)
        with pytest.raises(UsageError, match=r"signal handler or a finalizer"):
            inside(lambda: cursor.execute("INSERT"))
        cursor.execute("INSERT")
        inside(lease.close)
        assert fake.violations == []
        wait_until(lambda: check_counts(pool).in_use == 0)
        assert fake.count("INSERT") == 1


def let_in(function: Callable[[], Any]) -> bool:
    """Call a function inside the lock. Returns whether it has let another thread in meanwhile."""
    seen = []
    is_inside = True

    def look() -> None:
        with guard.lock:
            seen.append(is_inside)

    with guard.lock:
        other = call(look)
        function()
        is_inside = False
    other.result()
    return seen == [True]


def test_p12_shared_checkout_in_signal_handler() -> None:
    """Inside the lock no share of a connection is lent, nor waited for, which would release it."""
    with open_pool(FakeDriver(threadsafety=2), maxshared=1, acquire_timeout=0.2) as pool:

        def refuse() -> None:
            with pytest.raises(PoolTimeout) as refused:
                pool.connection()
            assert "signal handler or a finalizer" in str(refused.value.__cause__)

        lease = pool.connection()
        assert not let_in(refuse)
        lease.begin()  # from now on it is not shared
        assert not let_in(refuse)
        lease.close()
        pool.connection().close()
        assert check_counts(pool).checkouts == 2


def test_p12_close_in_signal_handler(fake: FakeDriver) -> None:
    """Inside the lock the end of a pool waits for no lease: that would release the lock."""
    with open_pool(fake) as pool:
        lease = pool.lease()
        assert not let_in(lambda: pool.close(0.2))
        lease.close()


INTERRUPTED_BLOCKS = """
import gc, signal
from flask_pooled_db.errors import PooledDBError
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, check_counts, open_pool
from harness.waiting import wait_until

class Interrupted(BaseException):
    pass

def handle(*_):
    raise Interrupted

signal.signal(signal.SIGALRM, handle)
with open_pool(FakeDriver(), maxconnections=2, ping_after=0) as pool:
    for step in range(1000):
        try:
            # Again and again: Python ignores what is raised in a finalizer.
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + step % 50 * 0.000004, 0.05)
            while True:
                with Scope(pool.engine, Leases()) as conn:
                    conn.cursor().execute("INSERT")
                pool.stats()
        except (Interrupted, PooledDBError):
            signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    conn = None  # a block that was interrupted as it was left may not have released it
    call(pool.stats).result()
    gc.collect()
    wait_until(lambda: check_counts(pool).in_use == 0)
    leases = [pool.lease(timeout=20) for _ in range(2)]
    for lease in leases:
        lease.close()
"""


@pytest.mark.alone
def test_p12_handler_that_raises() -> None:
    """A signal handler that raises, at any time, leaves no lock locked and costs no place."""
    run_program(INTERRUPTED_BLOCKS, "", untraced())


class BlockingHandler(logging.Handler):
    """Blocks like a full pipe."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Event()
        self.opened = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.arrived.set()
        self.opened.wait(60)


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """The log of the package, without what a test adds to it afterwards."""
    logger = logging.getLogger("flask_pooled_db")
    handlers = list(logger.handlers)
    yield logger
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
    reporter.flush(20)


def test_p12_blocking_log_handler(fake: FakeDriver, log: logging.Logger) -> None:
    """A log handler that blocks stops neither deadlines, nor connects, nor returns."""
    handler = BlockingHandler()
    log.addHandler(handler)
    try:
        with open_pool(fake, maxconnections=2, leak_threshold=0.01) as pool:
            fake.fail("connect", OperationalError())
            lease = pool.lease(timeout=20)
            assert handler.arrived.wait(20)
            ran = threading.Event()
            housekeeper.call_later(0.0, ran.set)
            assert ran.wait(20)
            other = pool.lease(timeout=20)
            with pytest.raises(PoolTimeout):
                pool.engine.acquire(0.01)
            other.close()
            wait_until(lambda: pool.stats().longest_lease > 0.01)
            lease.close()  # it is told of, for it was out for too long
    finally:
        handler.opened.set()


def test_p12_log_handler_that_uses_the_pool(fake: FakeDriver, log: logging.Logger) -> None:
    """A log handler may write to the database through the pool that logs."""

    class Writing(logging.Handler):
        written = 0

        def emit(self, record: logging.LogRecord) -> None:
            with pool.lease(timeout=20) as conn:
                conn.cursor().execute("INSERT LOG")
                Writing.written += 1

    log.addHandler(Writing())
    with open_pool(fake, maxconnections=1) as pool:
        fake.fail("connect", OperationalError())
        with pool.lease(timeout=20):
            pass
        wait_until(lambda: Writing.written == 2)  # that it failed, and that it is back


def test_p12_warnings_as_errors(fake: FakeDriver) -> None:
    """Each of several leases that are lost together gives its place back."""
    with open_pool(fake, maxconnections=3) as pool:
        Cycle([pool.lease() for _ in range(3)])  # pytest makes errors of all warnings
        gc.collect()
        leases = [pool.lease(timeout=20) for _ in range(3)]
        for lease in leases:
            lease.close()
        assert pool.stats().leaked == 3


def test_p12_collection_in_housekeeping(fake: FakeDriver) -> None:
    """A generator that is closed in the housekeeping thread does not wait for its server there."""
    with open_pool(fake, maxconnections=2) as pool:
        keep = [Cycle(suspended(pool))]
        gate = fake.hold("rollback")
        done = threading.Event()

        def collect() -> None:
            keep.clear()
            gc.collect()
            done.set()

        housekeeper.call_later(0.0, collect)
        assert done.wait(20)
        gate.open()
        wait_until(lambda: check_counts(pool).in_use == 0)
