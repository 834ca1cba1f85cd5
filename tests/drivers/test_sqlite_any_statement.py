"""SQLite: whatever a block that fails has sent, nothing is committed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_pooled_db import PooledDBError, db_connection_context
from tests.drivers.sqlite_app import query
from tests.support.apps import pooled_app

# What is the process's.
NOT_TRIED = {"hard_heap_limit", "soft_heap_limit", "temp_store_directory", "data_store_directory"}
with contextlib.closing(sqlite3.connect(":memory:")) as _connection:
    PRAGMAS = sorted({name for (name,) in _connection.execute("PRAGMA pragma_list")} - NOT_TRIED)

HEADER = ("user_version", "application_id", "journal_mode", "page_size", "auto_vacuum", "encoding")

STATEMENTS = [
    "INSERT INTO t VALUES (NULL, 'x')",
    "INSERT OR ROLLBACK INTO t VALUES (1, 'x')",
    "INSERT INTO t (name) VALUES ('x'), ('y') RETURNING id",
    "WITH x AS (SELECT 'SELECT') INSERT INTO t (name) SELECT * FROM x",
    "WITH x AS (SELECT 1) SELECT replace(1, 2, 3) FROM x",
    "REPLACE INTO t VALUES (1, '/* SELECT')",
    "UPDATE t SET name = '--'",
    "DELETE FROM t",
    "CREATE TABLE u (a)",
    "CREATE TEMP TABLE v (a)",
    "CREATE TRIGGER IF NOT EXISTS w AFTER UPDATE ON t BEGIN DELETE FROM t; SELECT 1; END",
    "DROP TABLE IF EXISTS u",
    "ALTER TABLE t ADD COLUMN more",
    "ANALYZE",
    "REINDEX",
    "VACUUM",
    "SELECT * FROM t",
    "VALUES (1)",
    "SELECT * FROM pragma_optimize",
    "EXPLAIN DELETE FROM t",
    "ATTACH '' AS other",
    "DETACH other",
    "CREATE TABLE IF NOT EXISTS other.t AS SELECT 1",
    "SAVEPOINT a",
    "RELEASE a",
    "ROLLBACK TO a",
    "BEGIN",
    "ROLLBACK",
    "nonsense",
    "",
]
pragmas = st.builds(
    "PRAGMA {}{}{}".format,
    st.sampled_from(["", "main.", "main . "]),
    st.sampled_from([*PRAGMAS, '"user_version"', "[application_id]"]),
    st.sampled_from(["", " = 7", "(1)", "=0", " = OFF", "=DELETE", "('wal')", "=WAL", "=TRUNCATE"]),
)
gaps = st.text(" \t\n\f\r;\ufeff", max_size=3) | st.sampled_from(
    ["/**/", "/* SELECT */", "-- SELECT\n", "--\r\n", "/*/*/", "/* -- */", "EXPLAIN "]
)
statements = st.builds(
    "{}{}{}{}".format, gaps, gaps, st.sampled_from(STATEMENTS) | pragmas, st.just("") | gaps
)
cased = st.builds(
    lambda sql, change: change(sql), statements, st.sampled_from([str, str.lower, str.swapcase])
)


class OwnCursor(sqlite3.Cursor):
    """A cursor class of an application's own."""


def send(conn: Any, way: str, sql: str) -> None:
    if way == "connection":
        conn.execute(sql)
    elif way == "executemany":
        conn.executemany(sql, [(), ()])
    elif way == "script":
        conn.cursor(OwnCursor).executescript(f"{sql};{sql}")
    elif way == "rows":
        conn.execute(sql).fetchall()
    else:
        conn.cursor(OwnCursor).execute(sql)


ways = st.sampled_from(["connection", "cursor", "executemany", "script", "rows"])


def contents(path: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as other:
        header = [other.execute(f"PRAGMA {name}").fetchone() for name in HEADER]
        return [*header, *other.iterdump()]


@contextlib.contextmanager
def failing() -> Iterator[Any]:
    """A block that an exception leaves."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        yield conn
        raise LookupError


def session() -> list[Any]:
    """What a lease finds in its session, all over one connection."""
    left_out = {"data_version", "freelist_count", "page_count", "schema_version", "database_list"}
    left_out |= {"optimize", "incremental_vacuum", "wal_checkpoint"}  # they do something
    asked = [f"PRAGMA {name}" for name in PRAGMAS if name not in left_out]
    asked.append("SELECT 'A' LIKE 'a'")
    asked.append("SELECT name FROM pragma_database_list WHERE name <> 'temp'")
    asked.append("SELECT name FROM sqlite_temp_master")
    with db_connection_context() as conn:
        return [(sql, conn.execute(sql).fetchall()) for sql in asked]


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sent=st.lists(st.tuples(ways, cased, st.booleans()), min_size=1, max_size=6))
def test_t1_any_statements(file: Path, sent: list[tuple[str, str, bool]]) -> None:
    """A block that fails commits nothing, whatever was sent in it, in nested blocks too, and
    whatever of it failed; the next lease finds its session as it was. COMMIT by text is left out.
    """
    with pooled_app(f"sqlite:///{file}?timeout=0"):
        query("INSERT OR IGNORE INTO t VALUES (1, 'there')")
        before = contents(file), session()
        with ExitStack() as blocks:
            conn = blocks.enter_context(failing())
            for way, sql, is_nested in sent:
                if is_nested:  # it ends in an error if its savepoint is gone
                    blocks.enter_context(contextlib.suppress(sqlite3.Error, PooledDBError))
                    blocks.enter_context(db_connection_context())
                with contextlib.suppress(sqlite3.Error, PooledDBError):
                    send(conn, way, sql)
        assert (contents(file), session()) == before


@pytest.mark.parametrize("name", PRAGMAS)
def test_t1_any_pragma(file: Path, name: str) -> None:
    """No pragma, with or without a value, outlasts a block that fails, or its session."""
    with pooled_app(f"sqlite:///{file}?timeout=0"):
        query("INSERT OR IGNORE INTO t VALUES (1, 'there')")
        before = contents(file), session()
        for sent in ("{}", "{}=7", "{}(0)", "{}='x'", "{}=DELETE", "{}(t)", "EXPLAIN {}=1"):
            with failing() as conn, contextlib.suppress(sqlite3.Error):
                conn.execute(sent.format(f"PRAGMA {name}")).fetchall()
            assert (contents(file), session()) == before, sent
