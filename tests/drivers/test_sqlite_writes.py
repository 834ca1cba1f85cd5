"""SQLite: whatever writes is part of the block's transaction, however it is sent."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import db_connection_context
from tests.drivers.sqlite_app import query
from tests.support.apps import pooled_app

SET_UP = """
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE log (id INTEGER);
CREATE TRIGGER note AFTER DELETE ON t BEGIN INSERT INTO log VALUES (old.id); SELECT 1; END;
INSERT INTO t VALUES (1, 'a'), (2, 'b');
CREATE VIRTUAL TABLE words USING fts3 (word);
INSERT INTO words VALUES ('a');
INSERT INTO words VALUES ('b');
CREATE VIRTUAL TABLE texts USING fts5 (text);
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with tables, a trigger and virtual tables."""
    path = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(SET_UP)
    return path


def contents(file: Path) -> list[Any]:
    """All that is committed in a file."""
    with contextlib.closing(sqlite3.connect(file)) as other:
        pragmas = ("user_version", "application_id", "journal_mode")
        numbers = [other.execute(f"PRAGMA {name}").fetchone() for name in pragmas]
        return [*numbers, *other.iterdump()]


class Text(str):
    """A statement that is no plain str."""

    __slots__ = ()


# What writes, by what is particular about it; several statements are sent one after the other.
WRITES = {
    "insert": ["INSERT INTO t VALUES (3, 'c')"],
    "insert_returning": ["INSERT INTO t (name) VALUES ('c'), ('d') RETURNING id"],
    "update_from": ["UPDATE t SET name = 'z'"],
    "delete_with_trigger": ["DELETE FROM t WHERE id = 1"],
    "replace": ["REPLACE INTO t VALUES (1, 'c')"],
    "upsert": ["INSERT INTO t VALUES (1, 'c') ON CONFLICT DO UPDATE SET name = 'd'"],
    "with_insert": ["WITH x AS (SELECT 3) INSERT INTO t SELECT *, 'c' FROM x"],
    "with_replace": ["WITH x AS (SELECT 1) REPLACE INTO t SELECT *, 'c' FROM x"],
    "with_update": ["/* SELECT */ with x as (select 1) update t set name = 'c'"],
    "with_delete": ["WITH x AS (SELECT 1) DELETE FROM t"],
    "separator": [";INSERT INTO t VALUES (3, 'c')"],
    "separators": [" ; ;\f;\r\n INSERT INTO t VALUES (3, 'c');"],
    "byte_order_mark": ["\ufeffINSERT INTO t VALUES (3, 'c')"],
    "byte_order_marks": ["\ufeff;\ufeffCREATE TABLE u (a)"],
    "line_comment": ["-- SELECT\nINSERT INTO t VALUES (3, 'c')"],
    "carriage_return_in_comment": ["-- x\rSELECT 1;\nINSERT INTO t VALUES (3, 'c')"],
    "comment": ["/* SELECT 1; */INSERT INTO t VALUES (3, 'c') /* */ -- SELECT"],
    "comment_of_one_star": ["/*/ */INSERT INTO t SELECT 3, '*/SELECT'"],
    "nested_comment": ["/* /* SELECT 1 */INSERT INTO t VALUES (3, 'c') /* */"],
    "unterminated_comment": ["INSERT INTO t VALUES (3, 'c') /* SELECT"],
    "mixed_case": ["/**/iNsErT\tiNtO t VALUES (3, 'c')"],
    "text": [Text("INSERT INTO t VALUES (3, 'c')")],
    "create_table": ["CREATE TABLE u (a)"],
    "create_table_as": ["CREATE TABLE u AS SELECT * FROM t"],
    "create_index": ["CREATE INDEX i ON t (name)"],
    "create_trigger": ["CREATE TRIGGER u AFTER INSERT ON t BEGIN DELETE FROM log; SELECT 1; END"],
    "create_view": ["CREATE VIEW v AS SELECT 1"],
    "alter_table": ["ALTER TABLE t ADD COLUMN more"],
    "drop_table": ["DROP TABLE log"],
    "analyze": ["ANALYZE"],
    "user_version": ["PRAGMA user_version=7"],
    "user_version_in_brackets": ["pragma main . user_version (7)"],
    "quoted_pragma": ['PRAGMA "user_version"=7'],
    "application_id": ["PRAGMA application_id = 7"],
    "virtual_table": ["CREATE VIRTUAL TABLE more USING fts5 (text)"],
    "command_of_fts5": ["INSERT INTO texts (texts, rank) VALUES ('pgsz', 64)"],
    "table_that_writes": ["INSERT INTO t VALUES (3, 'c')", "SELECT * FROM pragma_optimize(-1)"],
    "savepoint": ["SAVEPOINT a", "INSERT INTO t VALUES (3, 'c')", "RELEASE a"],
    "savepoint_undone": ["SAVEPOINT a", "CREATE TABLE u (a)", "ROLLBACK TO a", "DROP TABLE log"],
    "read_then_write": ["SELECT * FROM t", "PRAGMA user_version", "CREATE TABLE u (a)"],
    "explained_then_written": ["EXPLAIN QUERY PLAN SELECT 1", "EXPLAIN DROP TABLE t", "ANALYZE"],
}


class Logging(sqlite3.Cursor):
    """A cursor of an application's own that calls its base class."""

    def execute(self, sql: str, *args: Any) -> Any:
        self.last = sql
        return super().execute(sql, *args)


class Direct(sqlite3.Cursor):
    """One that calls sqlite3's own method, and changes the statement."""

    def execute(self, sql: str, *args: Any) -> Any:
        return sqlite3.Cursor.execute(self, sql.removeprefix("SELECT 1;"), *args)


class Slotted(sqlite3.Cursor):
    """One without a namespace."""

    __slots__ = ()


def with_cursor(*args: Any, **kwargs: Any) -> Callable[[Any, list[str]], None]:
    """Run each statement over a cursor of this class."""

    def run(conn: Any, statements: list[str]) -> None:
        cursor = conn.cursor(*args, **kwargs)
        for statement in statements:
            cursor.execute(statement)

    return run


def on_connection(conn: Any, statements: list[str]) -> None:
    for statement in statements:
        conn.execute(statement)


def hidden(conn: Any, statements: list[str]) -> None:
    """A cursor that sends another statement than it was given."""
    cursor = conn.cursor(Direct)
    for statement in statements:
        cursor.execute(f"SELECT 1;{statement}")


def many(conn: Any, statements: list[str]) -> None:
    for statement in statements:
        reads = statement.startswith(("SELECT", "EXPLAIN", "PRAGMA", "SAVEPOINT", "RELEASE"))
        if reads or statement.startswith("ROLLBACK") or "RETURNING" in statement:
            conn.execute(statement)
        else:
            conn.cursor(Logging).executemany(statement, [()])


def script(conn: Any, statements: list[str]) -> None:
    conn.executescript(";\n".join(statements))


def script_of(kind: Any) -> Callable[[Any, list[str]], None]:
    def run(conn: Any, statements: list[str]) -> None:
        conn.cursor(kind).executescript(";\n".join(statements))

    return run


WAYS = {
    "connection": on_connection,
    "cursor": with_cursor(),
    "sqlite3_cursor": with_cursor(sqlite3.Cursor),
    "own_cursor": with_cursor(Logging),
    "own_cursor_with_slots": with_cursor(Slotted),
    "own_factory": with_cursor(factory=lambda conn: Logging(conn)),  # noqa: PLW0108
    "sqlite3_factory": with_cursor(factory=lambda conn: sqlite3.Cursor(conn)),  # noqa: PLW0108
    "hidden_statement": hidden,
    "executemany": many,
    "script": script,
    "script_of_own_cursor": script_of(Logging),
    "script_of_sqlite3_cursor": script_of(sqlite3.Cursor),
    "script_of_factory": script_of(lambda conn: Direct(conn)),  # noqa: PLW0108
}

# How many blocks around the statement, and which of them an exception leaves, from the inside.
ENDS = {
    "undone": (False,),
    "undone_in_nested_block": (False, True),
    "undone_around_nested_block": (True, False),
    "undone_in_innermost_block": (False, True, True),
    "kept": (True,),
    "kept_in_nested_block": (True, True),
}


class OwnError(Exception):
    """An exception of the application."""


@contextlib.contextmanager
def block(*, ends_well: bool) -> Iterator[Any]:
    """A block, which an exception leaves or not; whoever is outside of it sees no other one."""
    try:
        with db_connection_context() as conn:
            yield conn
            if not ends_well:
                raise OwnError
    except OwnError:
        assert not ends_well


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("statements", WRITES.values(), ids=WRITES)
def test_t1_writes(
    file: Path, statements: list[str], way: Callable[[Any, list[str]], None]
) -> None:
    """What writes is committed if every block around it ends well, and else not at all."""
    before = contents(file)
    with pooled_app(f"sqlite:///{file}") as (_, db):
        query("SELECT 1")
        before[2] = ("wal",)  # the pool's first connection sees to it
        for name, ends in ENDS.items():
            with ExitStack() as blocks:
                for ends_well in reversed(ends):
                    conn = blocks.enter_context(block(ends_well=ends_well))
                way(conn, statements)
            if all(ends):
                assert contents(file) != before, name
                break
            assert contents(file) == before, name
            assert db.stats().in_use == 0
            assert_fit()


def test_t1_function_that_writes(file: Path) -> None:
    """A SELECT that writes, by a function of FTS3, is undone with its block."""
    before = contents(file)
    with pooled_app(f"sqlite:///{file}"):
        with block(ends_well=False) as conn:
            conn.execute("SELECT optimize(words) FROM words LIMIT 1").fetchall()
        assert contents(file)[3:] == before[3:]
    with pooled_app(f"sqlite:///{file}"):  # FTS3 does it once a connection
        with block(ends_well=True) as conn:
            conn.execute("SELECT optimize(words) FROM words LIMIT 1").fetchall()
        assert contents(file)[3:] != before[3:]


def assert_fit() -> None:
    """The next lease finds no transaction, no savepoint and no lock, and its own work alone."""
    with db_connection_context() as conn:
        assert not conn.in_transaction
        with pytest.raises(sqlite3.OperationalError, match="no such savepoint"):
            conn.execute("RELEASE pooled_db_1")
        conn.execute("SELECT 1")
        assert not conn.in_transaction
        conn.execute("DELETE FROM log WHERE id = -1")
        assert conn.in_transaction


READS = [
    "SELECT * FROM t",
    "\ufeff ; select * from t",
    "-- INSERT\nSELECT replace(name, 'a', 'b') FROM t",
    "/* INSERT */VALUES (1)",
    "WITH x AS (SELECT 1 AS updated_at) SELECT updated_at FROM x",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9) SELECT i FROM n",
    "EXPLAIN SELECT * FROM t",
    "EXPLAIN QUERY PLAN SELECT * FROM t",
    "PRAGMA user_version",
    "PRAGMA main.journal_mode;",
    "PRAGMA table_info(t)",
    "PRAGMA foreign_keys -- ON",
    "PRAGMA integrity_check",
    "PRAGMA wal_checkpoint(PASSIVE)",
    "PRAGMA journal_mode=WAL",
    "-- nothing",
    "",
    ";",
    "VACUUM",
]


@pytest.mark.parametrize("sql", READS)
def test_reads(file: Path, sql: str) -> None:
    """What certainly reads, also in a nested block, takes no lock: others write meanwhile. VACUUM
    leaves the contents as they are, and can't be part of a transaction.
    """
    with pooled_app(f"sqlite:///{file}?timeout=0") as (_, db):
        with db_connection_context() as conn, db_connection_context() as inner:
            for cursor in (conn.cursor(), inner.cursor(Logging)):
                cursor.execute(sql)
                cursor.fetchall()
                assert not conn.in_transaction
            with contextlib.closing(sqlite3.connect(file, timeout=0)) as other:
                other.execute("INSERT INTO t VALUES (3, 'c')")
                other.commit()
            assert conn.execute("SELECT COUNT(*) FROM t").fetchone() == (3,)
        query("SELECT 1")
        assert db.stats().connects == 1
