"""Calling the pool as DBUtils has it."""

from __future__ import annotations

import pytest

from tests.pool.helpers import Interruption, close_all
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import check_counts, open_pool


def test_dbutils_connection_close(fake: FakeDriver) -> None:
    """`connection()` returns a lease; its `close()` rolls back what was not committed."""
    with open_pool(fake) as pool:
        conn = pool.connection()
        conn.cursor().execute("INSERT")
        conn.close()
        conn.close()
        assert fake.count("rollback") == 1
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_dbutils_dedicated_connection() -> None:
    """`dedicated_connection()` is `connection(shareable=False)`."""
    with open_pool(FakeDriver(threadsafety=2), maxshared=1) as pool:
        leases = [pool.connection(), pool.connection(), pool.dedicated_connection()]
        assert [lease.cursor().fetchone()[0] for lease in leases] == [1, 1, 2]
        close_all(leases)
        assert pool.stats().idle == 2


def test_dbutils_steady_connection(fake: FakeDriver) -> None:
    """`steady_connection()` takes no place in the pool, and its `close()` closes it."""
    with open_pool(fake, maxconnections=1) as pool, pool.connection():
        steady = pool.steady_connection()
        steady.cursor().execute("SELECT")
        steady.commit()
        assert pool.stats().open == 1
        steady.close()
        assert fake.open_now == 1


def test_dbutils_cache(fake: FakeDriver) -> None:
    """`cache()` rolls back and returns a lease; a second call does nothing."""
    with open_pool(fake) as pool:
        con = pool.connection()
        con.cursor().execute("UPDATE")
        pool.cache(con)
        assert fake.count("rollback") == 1
        pool.cache(con)
        assert (pool.stats().open, pool.stats().idle) == (1, 1)
        check_counts(pool)


def test_dbutils_cache_failing_rollback(fake: FakeDriver) -> None:
    """`cache()` closes a connection whose rollback fails."""
    with open_pool(fake) as pool:
        con = pool.connection()
        con.cursor().execute("UPDATE")
        fake.fail("rollback", OperationalError())
        pool.cache(con)
        assert (pool.stats().open, fake.open_now) == (0, 0)


def test_dbutils_cache_interrupted_rollback(
    fake: FakeDriver,
) -> None:
    """A BaseException in the rollback passes through `cache()` and costs the connection, but not
    its place.
    """
    with open_pool(fake, maxconnections=1) as pool:
        con = pool.connection()
        con.cursor().execute("UPDATE")
        fake.fail("rollback", Interruption())
        with pytest.raises(Interruption):
            pool.cache(con)
        assert (pool.stats().open, fake.open_now) == (0, 0)
