"""psycopg's own blocks through a lease: pipelines, and the exception that undoes a transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flask_pooled_db import PooledDB, TransactionAborted, db_connection_context
from tests.support.apps import pooled_app

pytestmark = pytest.mark.timeout(20)  # a wrong turn lets psycopg wait for good


@pytest.fixture
def db(postgresql: str) -> Iterator[PooledDB]:
    """A pool of one connection to a database with a table."""
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as own:
        own.execute("DROP TABLE IF EXISTS t")
        own.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    with pooled_app(postgresql, maxconnections=1) as (_, db):
        yield db
        assert db.stats().in_use == 0


def ids() -> list[int]:
    with db_connection_context() as conn:
        return [id_ for (id_,) in conn.execute("SELECT id FROM t ORDER BY id")]


def put(conn: Any, *numbers: int) -> None:
    for number in numbers:
        conn.execute("INSERT INTO t VALUES (%s)", (number,))


def test_pipeline_of_statements(db: PooledDB) -> None:
    """A pipeline takes one statement after the other, and their rows are read in it."""
    with db_connection_context() as conn, conn.pipeline() as pipeline:
        put(conn, 1, 2)
        cursors = [conn.execute("SELECT %s::int", (number,)) for number in range(3)]
        put(conn, 3)
        assert [cur.fetchone() for cur in cursors] == [(0,), (1,), (2,)]
        pipeline.sync()
        put(conn, 4)
    assert ids() == [1, 2, 3, 4]
    assert db.stats().discarded == 0


def test_t4_error_in_pipeline(db: PooledDB) -> None:
    """An error in a pipeline reaches its caller at its end; whoever swallows it commits nothing."""
    with pytest.raises(psycopg.IntegrityError), db_connection_context() as conn:
        with conn.pipeline():
            put(conn, 1, 1, 2)
    assert ids() == []

    with pytest.raises(TransactionAborted), db_connection_context() as conn:
        with contextlib.suppress(psycopg.Error), conn.pipeline():
            put(conn, 1, 1, 2)
    assert ids() == []


def test_t4_error_at_sync(db: PooledDB) -> None:
    """An error that `sync()` raises and its caller swallows fails what comes after."""

    def work() -> None:
        with db_connection_context() as conn, conn.pipeline() as pipeline:
            put(conn, 1, 1)
            with pytest.raises(psycopg.IntegrityError):
                pipeline.sync()
            put(conn, 2)

    with pytest.raises(psycopg.Error):
        work()
    assert ids() == []


def test_t4_fetch_after_error_in_pipeline(db: PooledDB) -> None:
    """What a pipeline skips after an error raises, and leaves the connection as good as it was."""

    def work() -> None:
        with db_connection_context() as conn, conn.pipeline():
            with contextlib.suppress(psycopg.IntegrityError):
                put(conn, 1, 1)
            cur = conn.execute("SELECT 1")
            for _ in range(2):
                with pytest.raises(psycopg.Error):
                    cur.fetchone()
            conn.execute("SELECT 2").fetchone()

    with pytest.raises(psycopg.Error):
        work()
    assert ids() == []
    assert db.stats().discarded == 0


def test_t1_exception_in_pipeline(db: PooledDB) -> None:
    """An exception that leaves a pipeline undoes its block."""
    with contextlib.suppress(LookupError), db_connection_context() as conn, conn.pipeline():
        put(conn, 1)
        raise LookupError
    assert ids() == []


@pytest.mark.parametrize("is_synced", [True, False])
def test_t1_parts_in_pipeline(db: PooledDB, is_synced: bool) -> None:
    """A nested block in a pipeline is undone alone, also by an error that only its end tells."""
    with db_connection_context() as conn, conn.pipeline() as pipeline:
        put(conn, 1)
        with db_connection_context() as inner:
            put(inner, 2)
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            put(inner, 3)
            if is_synced:
                pipeline.sync()
            raise LookupError
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            put(inner, 1)
            raise LookupError
        with pytest.raises(psycopg.IntegrityError), db_connection_context() as inner:
            put(inner, 1)
        put(conn, 4)
    assert ids() == [1, 2, 4]
    assert db.stats().discarded == 0


def test_t4_outer_error_before_a_part_in_pipeline(db: PooledDB) -> None:
    """An error of the outer block that comes up in a nested one is not undone with that."""

    def work() -> None:
        with db_connection_context() as conn:
            with contextlib.suppress(psycopg.Error), conn.pipeline():
                put(conn, 1, 1)
                with contextlib.suppress(psycopg.Error), db_connection_context() as inner:
                    put(inner, 2)
                put(conn, 3)

    with pytest.raises(TransactionAborted):
        work()
    assert ids() == []


def test_t1_transaction_in_pipeline(db: PooledDB) -> None:
    """A transaction of psycopg's in a pipeline is a part of the block."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        with conn.pipeline(), conn.transaction():
            put(conn, 1)
        raise LookupError
    assert ids() == []


def test_pipeline_has_its_time(db: PooledDB) -> None:
    """`statement_timeout` bounds the wait for what a pipeline has sent."""
    with pytest.raises(psycopg.errors.QueryCanceled):
        with db_connection_context(statement_timeout=0.2) as conn, conn.pipeline():
            conn.execute("SELECT pg_sleep(10)")
    assert ids() == []


def test_t1_rollback_names_its_transaction(db: PooledDB) -> None:
    """`Rollback` undoes the transaction that it names, and those inside, and goes no further."""
    with db_connection_context() as conn:
        put(conn, 1)
        with conn.transaction() as outer:
            put(conn, 2)
            raise psycopg.Rollback(outer)
        put(conn, 3)
        with conn.transaction() as outer:
            put(conn, 4)
            with conn.transaction():
                put(conn, 5)
                raise psycopg.Rollback(outer)
        with conn.transaction(), conn.transaction():
            put(conn, 6)
            raise psycopg.Rollback
        with conn.transaction() as outer:
            put(conn, 7)
            with conn.transaction() as inner:
                put(conn, 8)
                raise psycopg.Rollback(inner)
        with conn.transaction() as outer:
            put(conn, 9)
            with db_connection_context() as nested:
                put(nested, 10)
                raise psycopg.Rollback(outer)
    assert ids() == [1, 3, 7]


READERS: dict[str, Any] = {
    "for": lambda rows: [bytes(row).decode() for row in rows],
    "rows": lambda rows: [row for (row,) in rows.rows()],
    "read": lambda rows: [bytes(row).decode() for row in iter(rows.read, b"")],
    "read_row": lambda rows: [row for (row,) in iter(rows.read_row, None)],
}


@pytest.mark.parametrize("how", READERS)
def test_copy_is_read(db: PooledDB, how: str) -> None:
    """The rows of a COPY are read in each of the ways that psycopg has."""
    with db_connection_context() as conn:
        with conn.cursor().copy("COPY (SELECT generate_series(1, 3)) TO STDOUT") as rows:
            assert [row.strip() for row in READERS[how](rows)] == ["1", "2", "3"]
        put(conn, 1)
    assert ids() == [1]
    assert db.stats().discarded == 0


def in_transaction_block(conn: Any, number: int, *, fails: bool) -> None:
    with conn.transaction():
        put(conn, number)
        if fails:
            raise LookupError


def in_pipeline(conn: Any, number: int, *, fails: bool) -> None:
    with conn.pipeline():
        put(conn, number)
        if fails:
            raise LookupError


def by_copy(conn: Any, number: int, *, fails: bool) -> None:
    with conn.cursor() as cur, cur.copy("COPY t FROM STDIN") as rows:
        rows.write_row((number,))
        if fails:
            raise LookupError


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("work", [in_transaction_block, in_pipeline, by_copy])
def test_t9_own_block_in_a_part(db: PooledDB, work: Any, is_first: bool, fails: bool) -> None:
    """psycopg's own blocks are parts of the scope that they stand in, and are undone with it: with
    the nested one alone if that fails, and with all if the outer one does.
    """
    before = [] if is_first else [1]
    expected = [*before, *([] if fails else [2]), 3]
    for undone in (True, False):
        with contextlib.suppress(ZeroDivisionError), db_connection_context() as conn:
            put(conn, *before)
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                work(inner, 2, fails=fails)
            put(conn, 3)
            assert ids() == expected
            if undone:
                raise ZeroDivisionError
        assert ids() == ([] if undone else expected)
    assert db.stats().discarded == 0
