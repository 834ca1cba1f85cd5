"""MAXSHARED: connections that serve several threads at once, where the driver can do that."""

from __future__ import annotations

import gc
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import UsageError, get_db_connection
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.errors import PoolClosed, PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.sharing import Sharing
from harness.waiting import wait_until
from tests.pool.helpers import close_all, number_of
from tests.support.apps import pooled_app
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call, check_counts, open_pool


@pytest.fixture
def fake() -> FakeDriver:
    """A driver whose connections may be shared between threads."""
    return FakeDriver(threadsafety=2)


def shared(pool: Pool) -> Sharing[Any]:
    """Return what the pool knows of its shared connections."""
    assert pool.sharing is not None
    return pool.sharing


def test_maxshared(fake: FakeDriver) -> None:
    """The pool opens MAXSHARED connections before it shares one, then shares the least shared, as
    in DBUtils.
    """
    with open_pool(fake, maxshared=2, maxconnections=5) as pool:
        leases = [pool.connection() for _ in range(6)]
        numbers = [number_of(lease) for lease in leases]
        assert numbers[:2] == [1, 2]
        assert sorted(numbers) == [1, 1, 1, 2, 2, 2]
        close_all(leases)
        assert (pool.stats().in_use, pool.stats().idle) == (0, 2)


def test_last_share_returns_connection(fake: FakeDriver) -> None:
    """A shared connection is rolled back and returned with its last share."""
    with open_pool(fake, maxshared=1) as pool:
        first, second = pool.connection(), pool.connection()
        first.cursor().execute("INSERT")
        first.close()
        assert (fake.count("rollback"), pool.stats().in_use) == (0, 1)
        second.cursor().execute("INSERT")
        second.close()
        assert (fake.count("rollback"), pool.stats().in_use) == (1, 0)


def test_dedicated_leases(fake: FakeDriver) -> None:
    """Scopes and `dedicated_connection()` always get a connection of their own."""
    with open_pool(fake, maxshared=1, maxconnections=3) as pool:
        leases = [pool.connection(), pool.dedicated_connection(), pool.lease()]
        assert len({number_of(lease) for lease in leases}) == 3
        close_all(leases)


def test_begin_ends_sharing(fake: FakeDriver) -> None:
    """After `begin()` a connection is not shared until its transaction ends, as in DBUtils."""
    with open_pool(fake, maxshared=1, maxconnections=2, acquire_timeout=60) as pool:
        first = pool.connection()
        first.begin()
        first.cursor().execute("INSERT")
        waiter = call(pool.connection)
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.05, shareable=True)
        assert waiter.is_alive()
        first.commit()
        second = waiter.result()
        assert number_of(second) == 1
        close_all([first, second])


def test_share_not_blocking(
    fake: FakeDriver,
) -> None:
    """With BLOCKING=False, a caller that finds all shared connections in transactions gets
    PoolTimeout at once.
    """
    with open_pool(fake, maxshared=1, blocking=False, acquire_timeout=60) as pool:
        first = pool.connection()
        first.begin()
        with pytest.raises(PoolTimeout):
            pool.connection()
        first.close()


def test_maxshared_during_connects(
    fake: FakeDriver,
) -> None:
    """Simultaneous callers get no more than MAXSHARED connections."""
    connecting = fake.hold("connect")
    with open_pool(fake, maxshared=1, maxconnections=8, acquire_timeout=60) as pool:
        callers = [call(pool.connection) for _ in range(5)]
        connecting.wait_for_arrivals()
        connecting.open()
        leases = [caller.result() for caller in callers]
        assert {number_of(lease) for lease in leases} == {1}
        close_all(leases)
        assert pool.stats().open == 1


def test_failed_connect_of_share(fake: FakeDriver) -> None:
    """A failed connect leaves its place to the next caller."""
    fake.fail_always("connect", OperationalError)
    with open_pool(fake, maxshared=1) as pool:
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.05, shareable=True)
        fake.mend("connect")
        lease = pool.connection()
        assert shared(pool).count == 1
        lease.close()
        assert shared(pool).count == 0


def test_p4_dead_shared_connection(fake: FakeDriver) -> None:
    """A dead shared connection is not shared again, while its shares are still held."""
    with open_pool(fake, maxshared=1, maxconnections=3) as pool:
        old = pool.connection()
        fake.raws[1].die()
        new = pool.connection()
        assert number_of(new) == 2
        old.close()
        new.close()
        assert (pool.stats().open, pool.stats().idle, fake.open_now) == (1, 1, 1)
        check_counts(pool)


def test_broken_shared_connection(
    fake: FakeDriver,
) -> None:
    """A connection that one share found broken is not shared again, and evicted with its last
    share.
    """
    with open_pool(fake, maxshared=1, maxconnections=3) as pool:
        first, second = pool.connection(), pool.connection()
        fake.fail("INSERT", OperationalError())
        with pytest.raises(OperationalError):
            first.cursor().execute("INSERT")
        first.close()
        third = pool.connection()
        assert number_of(third) == 2
        second.close()
        third.close()
        assert (pool.stats().open, fake.open_now) == (1, 1)


def test_lost_share(fake: FakeDriver) -> None:
    """A share that is garbage collected does not affect the other shares."""
    with open_pool(fake, maxshared=1, maxconnections=1) as pool:
        kept = pool.connection()
        pool.connection()
        gc.collect()
        assert number_of(kept) == 1
        kept.close()
        stats = check_counts(pool)
        assert (stats.in_use, stats.idle) == (0, 1)


def test_unshare(fake: FakeDriver) -> None:
    """`unshare()` returns one lease of a connection, and the connection with its last lease."""
    with open_pool(fake, maxshared=1) as pool:
        first, second = pool.connection(), pool.connection()
        pool.unshare(first)
        assert pool.stats().in_use == 1
        pool.unshare(second)
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_close_wakes_share_waiter(fake: FakeDriver) -> None:
    """close() wakes a caller that waits for a share, with PoolClosed."""
    with open_pool(fake, maxshared=1, acquire_timeout=60) as pool:
        first = pool.connection()
        first.begin()
        waiter = call(pool.connection)
        wait_until(lambda: shared(pool).changed._waiters)  # type: ignore[attr-defined]
        pool.close()
        with pytest.raises(PoolClosed):
            waiter.result()
        first.close()


def test_get_db_connection_shareable(fake: FakeDriver) -> None:
    """get_db_connection(shareable=True) returns a shared connection."""
    with pooled_app(creator=fake, maxshared=1, maxconnections=4) as (_app, db):
        leases = [get_db_connection(shareable=True) for _ in range(2)]
        assert db.stats().in_use == 1
        dedicated = get_db_connection()
        assert db.stats().in_use == 2
        close_all([*leases, dedicated])


def own_sqlite() -> sqlite3.Connection:
    """A creator of an application's own."""
    return sqlite3.connect(":memory:", check_same_thread=False)


own_sqlite.dbapi = sqlite3  # type: ignore[attr-defined]


@contextmanager
def unshared_pool(**keys: Any) -> Iterator[Pool]:
    """A pool that is told to share its connections, and warns that it won't."""
    with ExitStack() as stack:
        with pytest.warns(RuntimeWarning, match="MAXSHARED has no effect.*get wrong rows"):
            pool = stack.enter_context(open_pool(**keys, maxshared=1, maxconnections=4))
        yield pool


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "sqlite://"},
        {"url": "sqlite:///{tmp_path}/db"},
        {"creator": sqlite3},
        {"creator": sqlite3.connect},
        {"creator": own_sqlite},
    ],
    ids=["memory", "file", "module", "connect", "function"],
)
def test_sqlite_not_shared(tmp_path: Path, settings: dict[str, Any]) -> None:
    """SQLite's connections are never shared, and a warning says why."""
    keys = {k: v.format(tmp_path=tmp_path) if k == "url" else v for k, v in settings.items()}
    with unshared_pool(**keys) as pool:
        leases = [pool.connection() for _ in range(3)]
        assert pool.stats().in_use == 3
        close_all(leases)


def test_sqlite_threads_count_rows(tmp_path: Path) -> None:
    """Two threads that run the same SELECT on SQLite get all rows: they share no connection."""
    with unshared_pool(url=f"sqlite:///{tmp_path}/db") as pool:
        together = threading.Barrier(4)

        def read() -> set[Any]:
            with pool.connection() as conn:
                together.wait(20)
                cursor = conn.cursor()
                return {
                    cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()
                    for _ in range(2000)
                }

        callers = [call(read) for _ in range(4)]
        assert [caller.result() for caller in callers] == [{(0,)}] * 4


@pytest.mark.parametrize("url", ["mysql+pymysql://h/d", "mariadb+mariadbconnector://h/d"])
def test_threadsafety_1_warning(url: str) -> None:
    """MAXSHARED with a driver of thread safety 1 gives one warning that names the driver."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_pool(url=url, maxshared=2):
            pass
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1
    assert ("pymysql" if "pymysql" in url else "mariadb") in messages[0]
    assert "POOLED_DB_MAXSHARED has no effect" in messages[0]


def test_threadsafety_0_refused() -> None:
    """A module of thread safety 0 is refused, as in DBUtils."""
    from dbutils.pooled_db import NotSupportedError

    with pytest.raises((NotSupportedError, UsageError)):
        with open_pool(FakeDriver(threadsafety=0)):
            pass


def test_threadsafety_source() -> None:
    """The thread safety comes from the module, or from the creator."""
    from flask_pooled_db.config import PoolConfig

    config = PoolConfig.from_mapping({"URL": "mysql+pymysql://h/d"})
    assert make_driver(config).threadsafety == 1


class Derived(sqlite3.Connection):
    """What an application or a library makes of sqlite3's connection."""


@pytest.mark.parametrize("kind", [sqlite3.Connection, Derived])
def test_sqlite_is_not_shared_whatever_its_creator_says(
    tmp_path: Path, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A creator that does not tell its module can't have its SQLite connections shared."""

    class Creator:
        threadsafety = 3

        @staticmethod
        def connect() -> Any:
            return sqlite3.connect(tmp_path / "db", check_same_thread=False, factory=kind)

    with open_pool(creator=Creator(), maxshared=1, maxconnections=4) as pool:
        leases = [pool.connection() for _ in range(3)]
        assert pool.stats().in_use == 3
        close_all(leases)
    assert caplog.text.count("POOLED_DB_MAXSHARED has no effect") == 1


def test_drained(fake: FakeDriver) -> None:
    """A shared connection that is drained gets no more leases, however many come: it is replaced
    when those it has have ended.
    """
    with open_pool(fake, maxshared=1, maxconnections=3) as pool:
        first = pool.connection()
        pool.drain()
        second, third = pool.connection(), pool.connection()
        assert [number_of(lease) for lease in (first, second, third)] == [1, 2, 2]
        first.close()
        assert fake.open_now == 1
        close_all([second, third])
