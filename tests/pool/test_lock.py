"""P1: no I/O, no callback and no logging under the pool's lock."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.pool.upkeep import sweep
from flask_pooled_db.runtime import reporter
from harness.waiting import wait_until
from tests.pool.helpers import close_all, use
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import open_pool


class LockWatcher(logging.Handler):
    """Notes each log record that is made by who holds a pool's lock."""

    def __init__(self, driver: FakeDriver) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []
        self._driver = driver

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())
        self._driver.look_at_lock(record.getMessage())


@pytest.fixture
def watcher(fake: FakeDriver) -> Iterator[LockWatcher]:
    """Watches the log of the package."""
    handler = LockWatcher(fake)
    logger = logging.getLogger("flask_pooled_db")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_p1_driver_calls_and_logs(fake: FakeDriver, watcher: LockWatcher) -> None:
    """Connecting, pinging, rolling back, closing and logging all happen outside the lock."""
    fake.resets = True
    with open_pool(
        fake, maxconnections=3, ping_after=0, reset="session", max_lifetime=100, leak_threshold=1
    ) as pool:
        fake.watch()
        close_all([pool.connection() for _ in range(3)])
        use(pool)  # a ping and a reset
        fake.fail("ping", OperationalError())
        use(pool)  # a dead one replaced
        fake.raws[max(fake.raws)].die()
        use(pool)
        fake.fail("rollback", OperationalError())
        use(pool)  # discarded
        fake.fail("connect", OperationalError())
        pool.drain()
        use(pool)  # a connect that fails, then one that does not
        lease = pool.connection()
        for con in pool.engine.state.in_use_locked():
            con.since -= 10
        sweep(pool.engine)  # reports a long lease
        lease.close()
        for con in pool.engine.state.idle:
            con.expires_at = 0.0
        sweep(pool.engine)  # closes an old one
        pool.resize(1, 1, 1)
        with pytest.raises(PoolTimeout), pool.connection():
            pool.lease(timeout=0)
        pool.close()
    wait_until(lambda: pool.stats().open == 0)
    assert {"connect", "ping", "rollback", "reset", "close"} <= {what for what, _ in fake.record}
    reporter.flush(20)
    assert any("has been out" in text for text in watcher.seen)
    assert any("is back" in text for text in watcher.seen)
    assert fake.violations == []


def test_p1_ping_callable(fake: FakeDriver) -> None:
    """A callable given as `ping` may itself use the pool."""

    def check(raw: Any) -> bool:
        fake.look_at_lock("check")
        return bool(pool.stats())

    with open_pool(fake, ping=check, maxconnections=2) as pool:
        fake.watch()
        for _ in range(2):
            assert use(pool) == 1
        assert fake.violations == []


def test_p1_sharing() -> None:
    """Sharing calls no driver while it holds the lock."""
    fake = FakeDriver(threadsafety=2)
    with open_pool(fake, maxshared=1, maxconnections=1) as pool:
        fake.watch()
        leases = [pool.connection(), pool.connection()]
        for lease in leases:
            lease.cursor().execute("SELECT")
        close_all(leases)
        assert fake.violations == []
