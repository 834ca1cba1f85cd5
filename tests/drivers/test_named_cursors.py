"""The iteration of PostgreSQL's named cursors, which stay on the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg2
import pytest
from psycopg.rows import scalar_row

from flask_pooled_db import TransactionAborted, UsageError
from flask_pooled_db.lease.dbutils import Pool
from tests.drivers.relay import counting_relay
from tests.support.pools import open_pool

ROWS = 1000


@pytest.fixture(scope="module")
def url(postgresql: str) -> str:
    """The URL of an empty database on PostgreSQL."""
    return postgresql


@pytest.fixture(params=[psycopg, psycopg2], ids=lambda module: module.__name__)
def counted(request: pytest.FixtureRequest, url: str) -> Iterator[tuple[Pool, list[bytes]]]:
    """A pool of one connection, and each FETCH that it sends."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    with counting_relay(port, b"FETCH") as (relayed, fetches):
        arguments = {"host": "127.0.0.1", "port": relayed, "user": "postgres"}
        arguments |= {"dbname": "postgres", "sslmode": "disable"}
        with open_pool(
            creator=request.param, connect_args=arguments, maxconnections=1, ping=0
        ) as pool:
            yield pool, fetches


def named(conn: Any, sql: str = f"SELECT generate_series(1, {ROWS})") -> Any:
    """Return a cursor that stays on the server, with a result."""
    cur = conn.cursor("name")
    cur.itersize = 100
    cur.execute(sql)
    return cur


def test_named_cursor_in_batches(counted: tuple[Pool, list[bytes]]) -> None:
    """Iterating a named cursor reads as many rows in a round trip as the bare driver does."""
    pool, fetches = counted
    with pool.lease() as conn:
        cur = named(conn)
        assert [row[0] for row in cur] == list(range(1, ROWS + 1))
        assert len(fetches) == 11
        assert next(cur, None) is None
        cur.close()


def test_named_cursor_again(counted: tuple[Pool, list[bytes]]) -> None:
    """A cursor that was left in the middle begins anew with its next statement."""
    pool, _ = counted
    with pool.lease() as conn:
        cur = named(conn)
        assert next(cur) == (1,)
        cur.close()
        cur = named(conn, "SELECT 7 UNION ALL SELECT 8")
        assert list(cur) == [(7,), (8,)]
        cur.close()


def test_t7_named_cursor_after_release(counted: tuple[Pool, list[bytes]]) -> None:
    """The iteration ends with its lease, also in the middle of a batch."""
    pool, _ = counted
    with pool.lease() as conn:
        cur = named(conn)
        next(cur)
    with pytest.raises(UsageError):
        next(cur)


def test_t4_named_cursor_after_error(counted: tuple[Pool, list[bytes]]) -> None:
    """An error in the middle of the iteration counts as one of any other statement."""
    pool, _ = counted
    with pool.lease() as conn:
        cur = named(conn, "SELECT 1 / (5 - generate_series(1, 1000))")
        cur.itersize = 1
        with pytest.raises(conn.DataError):
            list(cur)
        with pytest.raises(TransactionAborted):
            conn.commit()
        conn.close()
    assert pool.stats().discarded == 0


def test_null_row(url: str) -> None:
    """A row that is None by the application's own row factory does not end the iteration."""
    with open_pool(url=url) as pool, pool.lease() as conn:
        cur = conn.cursor(row_factory=scalar_row)
        cur.execute("SELECT x FROM (VALUES (1), (NULL), (2)) AS v(x)")
        assert list(cur) == [1, None, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of psycopg
@pytest.mark.parametrize("module", [psycopg, psycopg2], ids=lambda module: module.__name__)
def test_p9_held_cursor(url: str, module: Any) -> None:
    """A cursor WITH HOLD outlives its transaction, also one that is garbage: the next lease finds
    nothing of it.
    """
    port = int(url.rpartition(":")[2].partition("/")[0])
    arguments = {"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "postgres"}
    with open_pool(creator=module, connect_args=arguments, maxconnections=1) as pool:
        with pool.lease() as conn:
            cur = conn.cursor("held", withhold=True)
            cur.execute("SELECT 1")
            del cur
            conn.commit()
        with pool.lease() as conn, conn.cursor() as cur:
            cur.execute("SELECT count(*) FROM pg_cursors WHERE is_holdable")
            assert cur.fetchone() == (0,)
