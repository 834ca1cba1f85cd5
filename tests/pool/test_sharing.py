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


def shared(pool: Pool) -> Sharing:
    """Return what the pool knows of its shared connections."""
    assert pool.sharing is not None
    return pool.sharing


def test_up_to_maxshared_connections_are_opened_before_any_is_shared(fake: FakeDriver) -> None:
    """Then the one that is shared least is next, as in DBUtils."""
    with open_pool(fake, maxshared=2, maxconnections=5) as pool:
        leases = [pool.connection() for _ in range(6)]
        numbers = [number_of(lease) for lease in leases]
        assert numbers[:2] == [1, 2]
        assert sorted(numbers) == [1, 1, 1, 2, 2, 2]
        close_all(leases)
        assert (pool.stats().in_use, pool.stats().idle) == (0, 2)


def test_a_connection_goes_back_with_its_last_share(fake: FakeDriver) -> None:
    """And is rolled back then, not before: others may have work under way."""
    with open_pool(fake, maxshared=1) as pool:
        first, second = pool.connection(), pool.connection()
        first.cursor().execute("INSERT")
        first.close()
        assert (fake.count("rollback"), pool.stats().in_use) == (0, 1)
        second.cursor().execute("INSERT")
        second.close()
        assert (fake.count("rollback"), pool.stats().in_use) == (1, 0)


def test_what_is_not_asked_for_as_shareable_is_dedicated(fake: FakeDriver) -> None:
    """Scopes are always dedicated, and so is `dedicated_connection()`."""
    with open_pool(fake, maxshared=1, maxconnections=3) as pool:
        leases = [pool.connection(), pool.dedicated_connection(), pool.lease()]
        assert len({number_of(lease) for lease in leases}) == 3
        close_all(leases)


def test_a_connection_in_a_transaction_is_not_shared(fake: FakeDriver) -> None:
    """After `begin()` it is its caller's alone until the transaction ends, as in DBUtils."""
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


def test_without_blocking_who_finds_all_in_transactions_is_told_so_at_once(
    fake: FakeDriver,
) -> None:
    """BLOCKING=False holds for shares too."""
    with open_pool(fake, maxshared=1, blocking=False, acquire_timeout=60) as pool:
        first = pool.connection()
        first.begin()
        with pytest.raises(PoolTimeout):
            pool.connection()
        first.close()


def test_callers_who_come_together_get_no_more_than_maxshared_connections(
    fake: FakeDriver,
) -> None:
    """Also while the first ones are still being opened."""
    connecting = fake.hold("connect")
    with open_pool(fake, maxshared=1, maxconnections=8, acquire_timeout=60) as pool:
        callers = [call(pool.connection) for _ in range(5)]
        connecting.wait_for_arrivals()
        connecting.open()
        leases = [caller.result() for caller in callers]
        assert {number_of(lease) for lease in leases} == {1}
        close_all(leases)
        assert pool.stats().open == 1


def test_a_connect_that_fails_gives_the_place_to_the_next(fake: FakeDriver) -> None:
    """A caller who got no connection to share leaves no gap."""
    fake.fail_always("connect", OperationalError)
    with open_pool(fake, maxshared=1) as pool:
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.05, shareable=True)
        fake.mend("connect")
        lease = pool.connection()
        assert shared(pool).count == 1
        lease.close()
        assert shared(pool).count == 0


def test_p4_a_shared_connection_that_died_is_shared_no_more(fake: FakeDriver) -> None:
    """The next caller gets a live one, while others still hold what is left of the old one."""
    with open_pool(fake, maxshared=1, maxconnections=3) as pool:
        old = pool.connection()
        fake.raws[1].die()
        new = pool.connection()
        assert number_of(new) == 2
        old.close()
        new.close()
        assert (pool.stats().open, pool.stats().idle, fake.open_now) == (1, 1, 1)
        check_counts(pool)


def test_a_connection_that_one_share_found_broken_is_discarded_with_the_last(
    fake: FakeDriver,
) -> None:
    """It is neither shared on nor kept."""
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


def test_a_lost_share_leaves_the_other_shares_alone(fake: FakeDriver) -> None:
    """Who forgets a shared lease closes nothing under the feet of another."""
    with open_pool(fake, maxshared=1, maxconnections=1) as pool:
        kept = pool.connection()
        pool.connection()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        pool.engine.leaks.reclaim()
        assert number_of(kept) == 1
        kept.close()
        assert (pool.stats().in_use, pool.stats().leaked) == (0, 1)
        check_counts(pool)


def test_unshare_gives_back_one_share(fake: FakeDriver) -> None:
    """DBUtils' `unshare()` takes back one lease, and the connection with its last lease."""
    with open_pool(fake, maxshared=1) as pool:
        first, second = pool.connection(), pool.connection()
        pool.unshare(first)
        assert pool.stats().in_use == 1
        pool.unshare(second)
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_close_wakes_who_waits_for_a_share(fake: FakeDriver) -> None:
    """With PoolClosed."""
    with open_pool(fake, maxshared=1, acquire_timeout=60) as pool:
        first = pool.connection()
        first.begin()
        waiter = call(pool.connection)
        wait_until(lambda: shared(pool).changed._waiters)  # type: ignore[attr-defined]
        pool.close()
        with pytest.raises(PoolClosed):
            waiter.result()
        first.close()


def test_get_db_connection_may_ask_for_a_share(fake: FakeDriver) -> None:
    """`shareable=True` is the way to it in an application."""
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
def test_sqlite_connections_are_never_shared(tmp_path: Path, settings: dict[str, Any]) -> None:
    """However they are made, whatever sqlite3 says of its thread safety. The warning says why."""
    keys = {k: v.format(tmp_path=tmp_path) if k == "url" else v for k, v in settings.items()}
    with unshared_pool(**keys) as pool:
        leases = [pool.connection() for _ in range(3)]
        assert pool.stats().in_use == 3
        close_all(leases)


def test_threads_that_count_rows_on_sqlite_get_them_right(tmp_path: Path) -> None:
    """The same SELECT in two threads returns None now and then where they share a connection."""
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
def test_one_warning_names_the_driver_that_can_not_share(url: str) -> None:
    """MAXSHARED has no effect with thread safety 1, and DBUtils would not say so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_pool(url=url, maxshared=2):
            pass
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1
    assert ("pymysql" if "pymysql" in url else "mariadb") in messages[0]
    assert "POOLED_DB_MAXSHARED has no effect" in messages[0]


def test_a_module_that_is_not_thread_safe_at_all_is_refused() -> None:
    """As DBUtils does."""
    from dbutils.pooled_db import NotSupportedError

    with pytest.raises((NotSupportedError, UsageError)):
        with open_pool(FakeDriver(threadsafety=0)):
            pass


def test_the_driver_says_how_thread_safe_it_is() -> None:
    """From the module, or from the creator."""
    from flask_pooled_db.config import PoolConfig

    config = PoolConfig.from_mapping({"URL": "mysql+pymysql://h/d"})
    assert make_driver(config).threadsafety == 1
