"""P13: a system without threads for a while costs no place."""

from __future__ import annotations

import threading

import pytest

from flask_pooled_db.pool.upkeep import sweep
from flask_pooled_db.runtime import housekeeper
from flask_pooled_db.runtime.workers import THREADS
from harness.waiting import wait_until
from tests.pool.helpers import close_all
from tests.support.fake_driver import FakeDriver
from tests.support.pools import check_counts, open_pool


class Shortage:
    """Lets the next threads of the package fail to start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.failed = 0
        self._start = threading.Thread.start
        shortage = self

        def start(thread: threading.Thread) -> None:
            shortage.begin(thread)

        monkeypatch.setattr(threading.Thread, "start", start)

    def begin(self, thread: threading.Thread) -> None:
        if thread.name.startswith(THREADS) and self.left:
            self.left -= 1
            self.failed += 1
            raise RuntimeError("can't start new thread")
        self._start(thread)


@pytest.fixture
def shortage(monkeypatch: pytest.MonkeyPatch) -> Shortage:
    return Shortage(monkeypatch)


@pytest.mark.parametrize("failures", [1, 2, 5])
def test_p13_no_threads_at_first_use(fake: FakeDriver, shortage: Shortage, failures: int) -> None:
    """The first callers get their connections all the same, once there are threads."""
    housekeeper.stop()
    shortage.left = failures
    with open_pool(fake, maxconnections=2, acquire_timeout=20) as pool:
        leases = [pool.lease(), pool.lease()]
        assert shortage.failed == failures
        close_all(leases)
        assert check_counts(pool).idle == 2


def test_p13_no_threads_in_sweeps(fake: FakeDriver, shortage: Shortage) -> None:
    """Sweeps that can start no thread lose nothing of what they take out or want to open."""
    with open_pool(fake, maxconnections=4, mincached=2, acquire_timeout=20) as pool:
        for _ in range(8):
            shortage.left = 0
            close_all([pool.lease() for _ in range(4)])
            shortage.left = 2
            for entry in list(pool.engine.state.idle):
                entry.expires_at = 0.0
            sweep(pool.engine)
            check_counts(pool)
        shortage.left = 0
        leases = [pool.lease() for _ in range(4)]
        close_all(leases)
        wait_until(lambda: check_counts(pool).open == pool.stats().idle)
    assert shortage.failed > 4


def test_p13_no_threads_for_waiters(fake: FakeDriver, shortage: Shortage) -> None:
    """Callers whose opener could not be started get their connection when there are threads."""
    with open_pool(fake, maxconnections=3, acquire_timeout=20) as pool:
        pool.lease().close()
        for _ in range(4):
            pool.drain()
            shortage.left = 3
            leases = [pool.lease() for _ in range(3)]
            close_all(leases)
        assert check_counts(pool).in_use == 0
    assert shortage.failed == 12
