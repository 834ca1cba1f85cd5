"""Leases that are garbage before they were released."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable

import pytest

from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import NoEvents
from flask_pooled_db.pool.upkeep import sweep
from flask_pooled_db.runtime import reporter
from harness.waiting import wait_until
from tests.pool.helpers import Interruption, number_of
from tests.support.fake_driver import FakeDriver, Gate
from tests.support.pools import call, open_pool, queue_up


class Lock:
    """In the place of one of a connection: something comes before it is taken, and after it is let
    go of.
    """

    def __init__(
        self, before: Callable[[], object] = bool, after: Callable[[], object] = bool
    ) -> None:
        self._lock = threading.RLock()
        self._before, self._after = before, after

    def __enter__(self) -> None:
        self._before()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._after()


def interrupt() -> None:
    raise Interruption


def lose_a_lease(pool: Pool) -> None:
    """Take a connection, and forget it."""
    pool.connection()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def reclaim_a_lease(pool: Pool) -> None:
    """Have a lost connection found, and wait until that was reported."""
    pool.connection()
    gc.collect()
    sweep(pool.engine)
    wait_until(lambda: pool.stats().open == 0)
    reporter.flush(20)


def test_lost_lease_frees_place(fake: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A lease that is garbage collected without close() costs its connection, but not its place."""
    with open_pool(fake, maxconnections=1) as pool:
        lose_a_lease(pool)
        with pool.lease(timeout=60) as lease:
            assert number_of(lease) == 2
        assert pool.stats().leaked == 1
        assert fake.open_now == 1
    wait_until(lambda: caplog.text.count("never given back") == 1)


def test_p3_two_find_a_lost_lease(fake: FakeDriver) -> None:
    """Its place is free when its connection is closed, also if a second one finds it meanwhile."""
    gate = fake.hold("close")
    with open_pool(fake, maxconnections=1) as pool:
        lose_a_lease(pool)
        closing = call(pool.engine.leaks.reclaim)
        gate.wait_for_arrivals()
        sweep(pool.engine)  # which finds it, too
        assert pool.stats().open == fake.open_now == 1
        gate.open()
        closing.result()
        wait_until(lambda: pool.stats().open == fake.open_now == 0)


def test_p3_two_close_a_lost_lease(fake: FakeDriver) -> None:
    """Nor is it free once somebody has begun to close it, and has not come to the driver yet."""
    gate = Gate()
    with open_pool(fake, maxconnections=1) as pool:
        lose_a_lease(pool)
        (ref,) = pool.engine.state.open
        ref.link._ending = Lock(after=gate.stop_here)  # type: ignore[assignment]
        closing = call(pool.engine.leaks.reclaim)
        gate.wait_for_arrivals()
        pool.engine.state.lost.append(ref)
        pool.engine.leaks.reclaim()
        assert pool.stats().open == fake.open_now == 1
        gate.open()
        closing.result()
        wait_until(lambda: pool.stats().open == fake.open_now == 0)


def test_two_count_a_lost_lease(fake: FakeDriver) -> None:
    """Its eviction and its leak are told once, also if a second one finds it meanwhile."""
    gate, told = Gate(), []

    class Listener(NoEvents):
        def evicted(self, reason: str) -> None:
            told.append(reason)
            gate.stop_here()

    with open_pool(fake, maxconnections=1, watchers=[Listener()]) as pool:
        lose_a_lease(pool)
        lost = list(pool.engine.state.open)
        closing = call(pool.engine.leaks.reclaim)
        gate.wait_for_arrivals()
        pool.engine.state.lost.extend(lost)
        other = call(pool.engine.leaks.reclaim)
        wait_until(lambda: not other.is_alive() or len(told) > 1)
        gate.open()
        closing.result()
        other.result()
        wait_until(lambda: pool.stats().open == 0)
        assert told == ["its lease was garbage"]
        assert pool.stats().evictions == {"leaked": 1}
        assert pool.stats().leaked == 1


@pytest.mark.parametrize("lock", [Lock(before=interrupt), Lock(after=interrupt)])
def test_p3_interrupted_close(fake: FakeDriver, lock: Lock) -> None:
    """Wherever its end is interrupted, a connection that is still open keeps its place."""
    with open_pool(fake, maxconnections=1) as pool:
        entry = pool.engine.acquire()
        entry.link._ending = lock  # type: ignore[assignment]
        with pytest.raises(Interruption):
            pool.engine.evict(entry, "a test says so")
        assert pool.stats().open == fake.open_now
        entry.link._ending = threading.RLock()
        del entry
        gc.collect()
        sweep(pool.engine)
        wait_until(lambda: pool.stats().open == fake.open_now == 0)
        assert pool.stats().evictions == {"broken": 1}
        assert pool.stats().leaked == 0


def test_lost_lease_warns(fake: FakeDriver) -> None:
    """A lost lease emits a ResourceWarning, as files and sockets do."""
    with open_pool(fake) as pool:
        with pytest.warns(ResourceWarning, match="never given back"):
            reclaim_a_lease(pool)


def test_lost_lease_serves_waiter(fake: FakeDriver) -> None:
    """The housekeeping finds a lost lease for a waiter, even if no new caller arrives."""
    with open_pool(fake, maxconnections=1) as pool:
        keep = [pool.connection()]
        caller = queue_up(pool, pool.lease, timeout=60)
        keep.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        caller.result().close()


def test_lost_lease_after_close(fake: FakeDriver) -> None:
    """The connection of a lease that is lost after close() is closed."""
    with open_pool(fake) as pool:
        keep = [pool.connection()]
        pool.close()
        keep.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        wait_until(lambda: fake.open_now == 0)
        wait_until(lambda: pool.stats().open == 0)
