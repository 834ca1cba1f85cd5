"""SQLite: what ends a transaction, what keeps it from ending, and who waits for its lock."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import (
    PooledDB,
    TransactionAborted,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from tests.drivers.sqlite_app import query
from tests.support.apps import pooled_app
from tests.support.stages import ENDLESS


class OwnCursor(sqlite3.Cursor):
    """A cursor class of an application's own."""


CURSORS = {
    "none": (),
    "sqlite3": (sqlite3.Cursor,),
    "own": (OwnCursor,),
    "function": (lambda conn: OwnCursor(conn),),  # noqa: PLW0108
}
each_cursor = pytest.mark.parametrize("kind", CURSORS.values(), ids=CURSORS)

FULL = [
    "PRAGMA max_page_count=1",  # SQLite makes it as many as there are
    "INSERT INTO t VALUES (1, zeroblob(100000))",
]


@pytest.mark.usefixtures("app")
@each_cursor
@pytest.mark.parametrize(
    "failing",
    [["INSERT OR ROLLBACK INTO t VALUES (7, 'x')"], FULL],
    ids=["on_conflict_rollback", "full_disk"],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_t4_transaction_ended_by_sqlite(
    kind: tuple[Any, ...], failing: list[str], is_nested: bool
) -> None:
    """When SQLite has rolled back, nothing that follows is committed, whatever cursor is used."""
    query("INSERT INTO t VALUES (7, 'there')")

    def swallow() -> None:
        with db_connection_context() as conn:
            conn.cursor(*kind).execute("INSERT INTO t VALUES (2, 'first half')")
            with db_connection_context() if is_nested else contextlib.nullcontext():
                with contextlib.suppress(sqlite3.Error):
                    for statement in failing:
                        conn.cursor(*kind).execute(statement)
                conn.cursor(*kind).execute("INSERT INTO t VALUES (3, 'second half')")

    with pytest.raises(TransactionAborted):
        swallow()
    assert query("SELECT id FROM t") == [(7,)]


@pytest.mark.usefixtures("app")
@each_cursor
def test_statement_timeout(kind: tuple[Any, ...]) -> None:
    """The limit holds for every class of cursors."""
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        with db_connection_context(statement_timeout=0.05) as conn:
            conn.cursor(*kind).execute(ENDLESS).fetchall()
    assert query("SELECT 1") == [(1,)]


@pytest.mark.usefixtures("app")
@each_cursor
def test_own_cursors(kind: tuple[Any, ...]) -> None:
    """A cursor is of the class that was asked for, and takes attributes."""
    with db_connection_context() as conn:
        cursor = conn.cursor(*kind)
        assert isinstance(cursor.driver_cursor, OwnCursor if "Own" in str(kind) else sqlite3.Cursor)
        cursor.row_factory = sqlite3.Row
        assert cursor.execute("SELECT 1 AS a").fetchone()["a"] == 1


@pytest.mark.usefixtures("app")
def test_what_is_no_cursor() -> None:
    """What is no cursor, or makes none, is refused as sqlite3 does it."""
    with db_connection_context() as conn:
        for factory in (dict, lambda conn: conn):
            with pytest.raises(TypeError):
                conn.cursor(factory)


RETURNING = "INSERT INTO t (name) VALUES ('a'), ('b'), ('c') RETURNING id"
WITH_RETURNING = f"WITH x AS (SELECT 1) {RETURNING}"


@pytest.mark.usefixtures("app")
@each_cursor
@pytest.mark.parametrize("sql", [RETURNING, WITH_RETURNING])
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("read", [0, 1, 3])
def test_t1_unread_rows_of_a_write(
    kind: tuple[Any, ...], sql: str, is_nested: bool, read: int
) -> None:
    """INSERT ... RETURNING is committed with its block, whether its rows were read or not."""
    with db_connection_context() as conn:
        with db_connection_context() if is_nested else contextlib.nullcontext():
            cursor = conn.cursor(*kind)
            cursor.execute(sql)
            assert [cursor.fetchone() for _ in range(read)] == [(1,), (2,), (3,)][:read]
    assert query("SELECT id FROM t") == [(1,), (2,), (3,)]


def test_commit_with_unread_rows_of_a_write(app: tuple[Flask, PooledDB]) -> None:
    """An explicit `commit()` commits too. What is left of the rows is gone, and reading on says so;
    the connection stays in use.
    """
    with db_connection_context() as conn:
        cursor = conn.execute(RETURNING)
        assert cursor.fetchone() == (1,)
        conn.commit()
        with db_connection_context(independent=True) as other:
            assert other.execute("SELECT COUNT(*) FROM t").fetchone() == (3,)
        with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
            cursor.fetchone()
        conn.execute("INSERT INTO t VALUES (9, 'next')")
    assert query("SELECT COUNT(*) FROM t") == [(4,)]
    assert app[1].stats().connects == 2


@pytest.mark.usefixtures("app")
def test_failed_block_with_unread_rows_of_a_write() -> None:
    """A block that fails undoes its writes, whether their rows were read or not; so does one inside
    of another, whose rows come as before.
    """
    query("INSERT INTO t VALUES (1, 'a'), (2, 'b')  RETURNING id")
    with db_connection_context() as conn:
        reading = conn.execute("SELECT id FROM t")
        assert reading.fetchone() == (1,)
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            cursor = inner.execute(RETURNING)
            assert cursor.fetchone() == (3,)
            raise LookupError
        assert cursor.connection is conn
        conn.execute("INSERT INTO t VALUES (9, 'x')")
    assert query("SELECT id FROM t") == [(1,), (2,), (9,)]


@pytest.mark.usefixtures("app")
def test_nested_write_amid_rows_of_a_write() -> None:
    """A nested block that writes while such rows are read is refused, with the remedy, and the rows
    go on.
    """
    with db_connection_context() as conn:
        cursor = conn.execute(RETURNING)
        assert cursor.fetchone() == (1,)
        with pytest.raises(UsageError, match="read the rows to their end"), db_connection_context():
            conn.execute("INSERT INTO t VALUES (9, 'x')")
        assert cursor.fetchall() == [(2,), (3,)]
        with db_connection_context():
            conn.execute("INSERT INTO t VALUES (9, 'x')")
    assert query("SELECT COUNT(*) FROM t") == [(4,)]


BLOB = "INSERT INTO t VALUES (1, zeroblob(3))"


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("ends_well", [False, True])
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("is_closed", [False, True])
def test_t1_blobs(ends_well: bool, is_nested: bool, is_closed: bool) -> None:
    """What is written into a blob is committed or undone with its block, also if it is the first
    that the block does, and whether or not the blob was closed.
    """
    query(BLOB + " RETURNING id")
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        with db_connection_context() if is_nested else contextlib.nullcontext():
            blob = conn.blobopen("t", "name", 1)
            blob.write(b"abc")
            if is_closed:
                blob.close()
            if not ends_well:
                raise LookupError
    assert query("SELECT name FROM t") == [(b"abc" if ends_well else b"\0\0\0",)]


@pytest.mark.usefixtures("app")
def test_reading_blobs() -> None:
    """A blob that is opened for reading takes no lock; in a readonly block, none can be written."""
    query(BLOB + " RETURNING id")
    with db_connection_context() as conn, conn.blobopen("t", "name", 1, readonly=True) as blob:
        assert blob.read() == b"\0\0\0"
        assert not conn.in_transaction
    with db_connection_context(readonly=True) as conn:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            conn.blobopen("t", "name", 1)


def test_nested_block_that_reads(file: Path) -> None:
    """A nested block takes no lock before it writes: others write meanwhile."""
    with pooled_app(f"sqlite:///{file}?timeout=0"):
        with db_connection_context() as conn, db_connection_context() as inner:
            assert inner.execute("SELECT COUNT(*) FROM t").fetchone() == (0,)
            with db_connection_context(independent=True) as other:
                other.execute("INSERT INTO t VALUES (1, 'other')")
            with contextlib.suppress(LookupError), db_connection_context() as innermost:
                assert innermost.execute("SELECT COUNT(*) FROM t").fetchone() == (1,)
                raise LookupError
            with db_connection_context(independent=True) as other:
                other.execute("INSERT INTO t VALUES (2, 'other')")
            conn.execute("INSERT INTO t VALUES (3, 'ours')")
        assert query("SELECT COUNT(*) FROM t") == [(3,)]


@pytest.mark.usefixtures("app")
def test_nested_blocks_that_write_late() -> None:
    """A nested block that fails undoes what it wrote after it had read, and no more."""
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'outer')")
        with db_connection_context() as inner:
            inner.execute("SELECT 1")
            with contextlib.suppress(LookupError), db_connection_context() as innermost:
                innermost.execute("SELECT 1")
                innermost.execute("INSERT INTO t VALUES (2, 'innermost')")
                raise LookupError
            with contextlib.suppress(LookupError), db_connection_context() as innermost:
                innermost.execute("SELECT 1")
                raise LookupError
            inner.execute("INSERT INTO t VALUES (3, 'inner')")
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            with db_connection_context() as innermost:
                innermost.execute("SELECT 1")
                innermost.execute("INSERT INTO t VALUES (4, 'innermost')")
            raise LookupError
    assert query("SELECT id FROM t") == [(1,), (3,)]


@pytest.mark.usefixtures("app")
def test_error_after_commit() -> None:
    """An error that comes when no transaction is open is that of its statement alone."""
    with get_db_connection() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        cursor = conn.cursor()
        conn.commit()
        cursor.driver_cursor.close()
        with pytest.raises(sqlite3.ProgrammingError):
            cursor.fetchone()
        conn.execute("INSERT INTO t VALUES (2, 'b')")
        conn.rollback()
        with pytest.raises(sqlite3.ProgrammingError):
            cursor.fetchone()
        conn.execute("INSERT INTO t VALUES (3, 'c')")
        conn.commit()
    assert query("SELECT id FROM t") == [(1,), (3,)]


def test_error_of_the_first_statement(file: Path) -> None:
    """A lock that can't be had after a commit is no lost transaction."""
    with pooled_app(f"sqlite:///{file}?timeout=0"), get_db_connection() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        conn.commit()
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                conn.execute("INSERT INTO t VALUES (2, 'b')")
            other.execute("ROLLBACK")
        conn.execute("INSERT INTO t VALUES (3, 'c')")
        conn.commit()
        assert conn.execute("SELECT id FROM t").fetchall() == [(1,), (3,)]


@pytest.mark.usefixtures("app")
def test_begin_by_text() -> None:
    """BEGIN and ROLLBACK by text work as in sqlite3, and COMMIT without a transaction fails."""
    with db_connection_context() as conn:
        with pytest.raises(sqlite3.OperationalError, match="no transaction is active"):
            conn.execute("COMMIT")
        conn.execute("BEGIN")
        conn.execute("INSERT INTO t VALUES (1, 'a')")
    assert query("SELECT id FROM t") == [(1,)]


@pytest.mark.usefixtures("app")
def test_vacuum() -> None:
    """VACUUM works where no transaction is open, and is refused where one is."""
    with db_connection_context() as conn:
        conn.execute("VACUUM")
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        with pytest.raises(sqlite3.OperationalError, match="cannot VACUUM from within"):
            conn.execute("VACUUM")
    assert query("SELECT id FROM t") == [(1,)]


@pytest.mark.usefixtures("app")
def test_dump_and_backup() -> None:
    """A dump and a backup only read."""
    query("INSERT INTO t VALUES (1, 'a') RETURNING id")
    with db_connection_context() as conn, contextlib.closing(sqlite3.connect(":memory:")) as copy:
        assert any("'a'" in line for line in conn.iterdump())
        conn.backup(copy)
        assert copy.execute("SELECT id FROM t").fetchall() == [(1,)]
        assert not conn.in_transaction
