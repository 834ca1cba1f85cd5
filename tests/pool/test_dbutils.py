"""Calling the pool as DBUtils has it."""

from __future__ import annotations

import pytest

from tests.pool.helpers import Interruption, close_all
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import (
    check_counts,
    open_pool,
)


def test_dbutils_connection_is_given_back_by_its_close(fake: FakeDriver) -> None:
    """`connection()` and `close()` make a lease; what was not committed is rolled back."""
    with open_pool(fake) as pool:
        conn = pool.connection()
        conn.cursor().execute("INSERT")
        conn.close()
        conn.close()
        assert fake.count("rollback") == 1
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_dbutils_a_dedicated_connection_is_shared_with_nobody() -> None:
    """`dedicated_connection()` is `connection(shareable=False)`."""
    with open_pool(FakeDriver(threadsafety=2), maxshared=1) as pool:
        leases = [pool.connection(), pool.connection(), pool.dedicated_connection()]
        assert [lease.cursor().fetchone()[0] for lease in leases] == [1, 1, 2]
        close_all(leases)
        assert pool.stats().idle == 2


def test_dbutils_a_steady_connection_is_outside_of_the_pool(fake: FakeDriver) -> None:
    """`steady_connection()` takes no place, and is closed by its `close()`."""
    with open_pool(fake, maxconnections=1) as pool, pool.connection():
        steady = pool.steady_connection()
        steady.cursor().execute("SELECT")
        steady.commit()
        assert pool.stats().open == 1
        steady.close()
        assert fake.open_now == 1


def test_dbutils_cache_rolls_back_and_takes_back(fake: FakeDriver) -> None:
    """`cache()` takes a lease back; a second time it finds nothing to take."""
    with open_pool(fake) as pool:
        con = pool.connection()
        con.cursor().execute("UPDATE")
        pool.cache(con)
        assert fake.count("rollback") == 1
        pool.cache(con)
        assert (pool.stats().open, pool.stats().idle) == (1, 1)
        check_counts(pool)


def test_dbutils_cache_closes_what_can_not_be_rolled_back(fake: FakeDriver) -> None:
    """A connection whose rollback fails is not lent again."""
    with open_pool(fake) as pool:
        con = pool.connection()
        con.cursor().execute("UPDATE")
        fake.fail("rollback", OperationalError())
        pool.cache(con)
        assert (pool.stats().open, fake.open_now) == (0, 0)


def test_dbutils_cache_keeps_no_connection_whose_rollback_was_interrupted(
    fake: FakeDriver,
) -> None:
    """A BaseException is passed on, and costs the connection, not its place."""
    with open_pool(fake, maxconnections=1) as pool:
        con = pool.connection()
        con.cursor().execute("UPDATE")
        fake.fail("rollback", Interruption())
        with pytest.raises(Interruption):
            pool.cache(con)
        assert (pool.stats().open, fake.open_now) == (0, 0)
