"""SQLite: the same SQL as on MariaDB."""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from flask_pooled_db import PooledDB, TransactionAborted, db_connection_context
from flask_pooled_db.drivers.sqlite_cursors import statements_of
from tests.drivers.sqlite_app import query
from tests.support.stages import ENDLESS

MANY_ROWS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n"
)


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1, 'a')",
        "CREATE TABLE u (a)",
        "DROP TABLE t",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT 1, 'a'",
    ],
)
def test_readonly(sql: str) -> None:
    """A write in a readonly scope fails, and the next lease may write."""
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        with db_connection_context(readonly=True) as conn:
            conn.execute(sql)
    assert query("SELECT name FROM sqlite_master") == [("t",)]
    assert query("SELECT * FROM t") == []
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (2, 'b')")
    assert query("SELECT id FROM t") == [(2,)]


@pytest.mark.usefixtures("app")
def test_readonly_without_snapshot() -> None:
    """Each statement of a readonly scope sees what is committed by then."""
    with db_connection_context(readonly=True) as reader:
        assert reader.execute("SELECT COUNT(*) FROM t").fetchone() == (0,)
        with db_connection_context(independent=True) as writer:
            writer.execute("INSERT INTO t VALUES (1, 'a')")
        assert reader.execute("SELECT COUNT(*) FROM t").fetchone() == (1,)


@pytest.mark.usefixtures("app")
def test_statement_timeout() -> None:
    """A statement that exceeds its limit is interrupted."""
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        with db_connection_context(statement_timeout=0.05) as conn:
            conn.execute(ENDLESS).fetchall()
    assert query("SELECT 1") == [(1,)]


@pytest.mark.usefixtures("app")
def test_statement_timeout_per_statement() -> None:
    """The limit applies to each statement, not to their sum."""
    with db_connection_context(statement_timeout=0.5) as conn:
        deadline = time.monotonic() + 0.7
        while time.monotonic() < deadline:
            conn.execute(MANY_ROWS).fetchone()


@pytest.mark.usefixtures("app")
def test_t4_interrupted_write() -> None:
    """SQLite rolls back the transaction of an interrupted write: nothing of it is committed."""
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n)"
        " INSERT INTO t SELECT i, 'x' FROM n"
    )

    def swallow() -> None:
        with db_connection_context(statement_timeout=0.05) as conn:
            conn.execute("INSERT INTO t VALUES (1, 'a')")
            with contextlib.suppress(sqlite3.OperationalError):
                conn.execute(endless)

    with pytest.raises(TransactionAborted):
        swallow()
    assert query("SELECT * FROM t") == []


@pytest.mark.usefixtures("app")
def test_failed_nested_scope() -> None:
    """A failed nested scope is undone alone."""
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            inner.execute("INSERT INTO t VALUES (2, 'b')")
            raise LookupError
        with db_connection_context() as inner:
            inner.execute("INSERT INTO t VALUES (3, 'c')")
    assert query("SELECT id FROM t ORDER BY id") == [(1,), (3,)]


@pytest.mark.usefixtures("app")
def test_savepoint_before_first_write() -> None:
    """The end of a nested scope does not end the transaction, even if it wrote first."""
    with contextlib.suppress(LookupError), db_connection_context():
        with db_connection_context() as inner:
            inner.execute("INSERT INTO t VALUES (1, 'a')")
        raise LookupError
    assert query("SELECT * FROM t") == []


def test_unread_rows(app: tuple[Flask, PooledDB]) -> None:
    """A half-read cursor is closed with its lease: it keeps no snapshot and blocks no writer."""
    with db_connection_context() as conn:
        conn.cursor().executemany("INSERT INTO t VALUES (%s, 'x')", [(i,) for i in range(500)])
    kept = []
    with db_connection_context(readonly=True) as conn:
        kept.append(conn.execute("SELECT id FROM t"))
        kept.append(conn.cursor())
        kept[1].execute("SELECT id FROM t")
        assert [cursor.fetchone() for cursor in kept] == [(0,), (0,)]
    with contextlib.closing(sqlite3.connect(app[1].pool().driver._arguments["database"])) as other:
        other.execute("DELETE FROM t")
        other.commit()
        assert query("SELECT COUNT(*) FROM t") == [(0,)]
        (busy, *_) = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0, "a snapshot is still held"


@pytest.mark.usefixtures("app")
def test_t7_cursor_of_execute() -> None:
    """A cursor that `conn.execute()` returned ends with the lease."""
    with db_connection_context() as conn:
        cursor = conn.execute("SELECT 1 UNION SELECT 2")
        assert cursor.connection is conn
        assert list(cursor) == [(1,), (2,)]
    for use in (cursor.fetchone, cursor.fetchall, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(Exception, match="was released"):
            use()


@pytest.mark.usefixtures("app")
def test_executescript() -> None:
    """`executescript` is part of the transaction."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        conn.cursor().executescript("INSERT INTO t VALUES (2, 'b;c'); INSERT INTO t VALUES (3, '')")
        conn.executescript("INSERT INTO t VALUES (4, 'd');\n-- the end;\n")
        assert conn.execute("SELECT COUNT(*) FROM t").fetchone() == (4,)
        raise LookupError
    assert query("SELECT * FROM t") == []


SCRIPT_PARTS = (
    *(";", " ", "'", '"', "`", "[", "]", "--", "\n", "/*", "*/", "/", "-", "a", "SELECT 1"),
    *("CREATE ", "TEMP ", "TRIGGER ", "BEGIN ", "END", "EXPLAIN "),
)


@given(st.lists(st.sampled_from(SCRIPT_PARTS), max_size=25).map("".join))
def test_statements_of_any_script(script: str) -> None:
    """A script is cut where SQLite says that a statement is complete, and nowhere else."""
    cut, statement = [], ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            cut.append(statement)
            statement = ""
    *found, rest = statements_of(script)
    assert "".join((*found, rest)) == script
    assert cut[: len(found)] == found
    assert cut[len(found) :] in ([], [f"{rest};"])


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    "script",
    [
        f"INSERT INTO t VALUES (1, '{'a;' * 1_000_000}')",
        f"INSERT INTO t VALUES (1, 'a') /* {';' * 2_000_000} */;",
        f"INSERT INTO t VALUES (1, 'a') -- {'; /*' * 1_000_000}",
        (
            "CREATE TRIGGER tr AFTER INSERT ON t BEGIN"
            f" {'SELECT 1; ' * 10_000} END; INSERT INTO t VALUES (1, 'a');"
        ),
    ],
    ids=["text", "comment", "line", "trigger"],
)
def test_executescript_of_many_semicolons(script: str) -> None:
    """The time that a script takes grows with its length, whatever it has semicolons in."""
    began = time.monotonic()
    with db_connection_context() as conn:
        conn.executescript(script)
    assert time.monotonic() - began < 20
    assert query("SELECT id FROM t") == [(1,)]
