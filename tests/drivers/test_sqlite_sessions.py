"""SQLite: what one lease changes in its session, and databases that may only be read."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, UsageError, db_connection_context
from tests.drivers.sqlite_app import query
from tests.support import cipher
from tests.support.apps import pooled_app

SETTINGS = (
    "foreign_keys",
    "recursive_triggers",
    "busy_timeout",
    "query_only",
    "cache_size",
    "ignore_check_constraints",
    "journal_mode",
    "synchronous",
    "temp_store",
)


def session() -> list[Any]:
    """What a lease finds in its session."""
    found = [query(f"PRAGMA {name}") for name in SETTINGS]
    found.append(query("SELECT 'A' LIKE 'a'"))
    found.append(query("SELECT name FROM sqlite_temp_master"))
    found.append(query("SELECT name FROM pragma_database_list"))
    found.append(query("SELECT name FROM pragma_collation_list ORDER BY name"))
    found.append(query("SELECT name FROM pragma_function_list WHERE name = 'f'"))
    with db_connection_context() as conn:
        found.append(conn.getlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH))
    return found


def running(*statements: str) -> Callable[[Any], object]:
    def run(conn: Any) -> None:
        for statement in statements:
            conn.execute(statement)

    return run


CHANGES = {
    "foreign_keys": running("PRAGMA foreign_keys=OFF"),
    "foreign_keys_in_brackets": running(";pragma main.foreign_keys (0)"),
    "foreign_keys_of_explain": running("EXPLAIN PRAGMA case_sensitive_like=1"),
    "recursive_triggers": running("PRAGMA recursive_triggers = 1"),
    "busy_timeout": running("/* a */PRAGMA busy_timeout=1"),
    "query_only": running("PRAGMA query_only=1"),
    "cache_size": running("INSERT INTO t VALUES (1, 'a')", "PRAGMA cache_size=5"),
    "ignore_check_constraints": running('PRAGMA "ignore_check_constraints"=1'),
    "case_sensitive_like": running("PRAGMA case_sensitive_like=1"),
    "synchronous": running("PRAGMA synchronous=0"),
    "temp_store": running("PRAGMA temp_store=MEMORY"),
    "attach": running("ATTACH ':memory:' AS other"),
    "attach_amid_writes": running("INSERT INTO t VALUES (1, 'a')", "ATTACH ':memory:' AS other"),
    "temporary_table": running("CREATE TEMP TABLE u (a)"),
    "temporary_table_by_schema": running('CREATE TABLE "temp".u (a)'),
    "temporary_trigger": running(
        "CREATE TEMPORARY TRIGGER u AFTER DELETE ON t BEGIN SELECT 1; END"
    ),
    "script": lambda conn: conn.executescript("SELECT 1; CREATE TEMP TABLE u (a);"),
    "own_cursor": lambda conn: conn.cursor(sqlite3.Cursor).execute("PRAGMA foreign_keys=0"),
    "function": lambda conn: conn.create_function("f", 0, lambda: 1),
    "collation": lambda conn: conn.create_collation("c", lambda a, b: 0),
    "authorizer": lambda conn: conn.set_authorizer(lambda *_: sqlite3.SQLITE_DENY),
    "progress_handler": lambda conn: conn.set_progress_handler(lambda: 1, 1),
    "limit": lambda conn: conn.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1000),
    "deserialize": lambda conn: conn.deserialize(conn.serialize()),
}


@pytest.mark.parametrize("ends_well", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_session_changes(
    app: tuple[Flask, PooledDB], change: Callable[[Any], object], ends_well: bool
) -> None:
    """What a lease changed in its session does not reach the next one."""
    before = session()
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        change(conn)
        if not ends_well:
            raise LookupError
    assert session() == before
    assert app[1].stats().connects == 2


def test_session_unchanged(app: tuple[Flask, PooledDB]) -> None:
    """What changes no session costs no connection, nor do the options of a block."""
    for sql in (
        "SELECT 'temp', 'PRAGMA'",
        "INSERT INTO t VALUES (1, 'ATTACH')",
        "CREATE TABLE u (a)",
        "PRAGMA user_version=5",
        "PRAGMA defer_foreign_keys=1",
        "PRAGMA foreign_keys",
        "PRAGMA foreign_keys = ON",  # as they are
        "pragma foreign_keys(1);",
        "PRAGMA journal_mode=WAL",
        "SAVEPOINT a",
    ):
        query(sql)
    with db_connection_context(readonly=True) as conn:
        conn.execute("SELECT 1")
    with db_connection_context(statement_timeout=9) as conn:
        conn.execute("SELECT 1")
    assert query("PRAGMA query_only") == [(0,)]
    assert app[1].stats().connects == 1


@pytest.mark.usefixtures("app")
def test_foreign_keys_off() -> None:
    """A block whose first statement switches foreign keys off works without them."""
    with db_connection_context() as conn:
        conn.execute("CREATE TABLE child (t INTEGER REFERENCES t (id))")
    with db_connection_context() as conn:
        conn.execute("PRAGMA foreign_keys=OFF")
        conn.execute("INSERT INTO child VALUES (7)")
    with pytest.raises(sqlite3.IntegrityError), db_connection_context() as conn:
        conn.execute("INSERT INTO child VALUES (8)")


def test_setsession(file: Path) -> None:
    """What SETSESSION changes is part of each session, and costs no connection."""
    statements = ["PRAGMA foreign_keys=OFF", "CREATE TEMP TABLE u (a)", "PRAGMA cache_size=7"]
    with pooled_app(f"sqlite:///{file}", setsession=statements) as (_, db):
        for _ in range(3):
            assert query("PRAGMA foreign_keys") == [(0,)]
            assert query("PRAGMA cache_size") == [(7,)]
            assert query("SELECT name FROM sqlite_temp_master") == [("u",)]
        query("PRAGMA foreign_keys=OFF")
        assert db.stats().connects == 1
        query("PRAGMA foreign_keys=ON")
        assert query("PRAGMA foreign_keys") == [(0,)]


@pytest.mark.usefixtures("app")
def test_readonly_pragmas() -> None:
    """A readonly block can't be made to write, nor change what is persistent."""
    query("SELECT 1")
    with db_connection_context(readonly=True) as conn:
        for sql in ("PRAGMA query_only=0", "pragma main.query_only (off)"):
            with pytest.raises(UsageError, match="readonly=True"):
                conn.execute(sql)
        for sql in (
            "PRAGMA journal_mode=DELETE",
            "PRAGMA user_version=7",
            "CREATE TEMP TABLE u (a)",
        ):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                conn.execute(sql)
        assert conn.execute("PRAGMA query_only").fetchone() == (1,)
        assert conn.execute(
            "WITH x AS (SELECT 'a' AS b) SELECT replace(b, 'a', 'c') FROM x"
        ).fetchall()
    assert query("PRAGMA journal_mode") == [("wal",)]
    assert query("PRAGMA user_version") == [(0,)]


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("how", ["mode=ro", "immutable=1", "mode=ro&immutable=1"])
def test_database_opened_to_read(file: Path, mode: str, how: str) -> None:
    """A database that is opened for reading can be read, in every journal mode; a write is refused
    by SQLite.
    """
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("INSERT INTO t VALUES (1, 'a')")
        other.commit()
        other.execute(f"PRAGMA journal_mode={mode}")
    arguments = {"database": f"file:{file}?{how}", "uri": True}
    with pooled_app(creator=sqlite3, connect_args=arguments):
        assert query("SELECT id FROM t") == [(1,)]
        with db_connection_context() as conn, db_connection_context() as inner:
            assert inner.execute("SELECT id FROM t").fetchone() == (1,)
            assert conn.execute("WITH x AS (SELECT 1) SELECT replace(id, 1, 2) FROM t").fetchone()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            query("INSERT INTO t VALUES (2, 'b')")
        assert query("SELECT id FROM t") == [(1,)]
        with db_connection_context(readonly=True) as conn:
            assert conn.execute("SELECT id FROM t").fetchone() == (1,)


READ_AS_NOBODY = """
    import os, sqlite3, sys
    from flask_pooled_db import db_connection_context
    from tests.support.apps import pooled_app
    with pooled_app("sqlite://"), db_connection_context() as conn:
        conn.execute("SELECT 1")  # all is imported now: others may be kept from this Python's files
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    with pooled_app(f"sqlite:///{sys.argv[1]}"):
        with db_connection_context() as conn:
            print(conn.execute("SELECT id FROM t").fetchall())
        try:
            with db_connection_context() as conn:
                conn.execute("INSERT INTO t VALUES (2, 'b')")
        except sqlite3.OperationalError as error:
            print(error)
"""


@pytest.mark.parametrize(
    ("file_mode", "folder_mode"), [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)]
)
def test_database_without_write_permission(file_mode: int, folder_mode: int) -> None:
    """A database whose file or folder may not be written to can be read."""
    with tempfile.TemporaryDirectory() as folder:  # the parents of a `tmp_path` are their owner's
        path = Path(folder) / "shop.db"
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
            other.execute("INSERT INTO t VALUES (1, 'a')")
            other.commit()
        path.chmod(file_mode)
        path.parent.chmod(folder_mode)
        try:
            result = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(READ_AS_NOBODY), str(path)],
                capture_output=True,
                text=True,
                check=False,
                cwd=Path(__file__).parents[2],
            )
        finally:
            path.parent.chmod(0o755)
    lines = ["[(1,)]", "attempt to write a readonly database"]
    assert result.stdout.splitlines() == lines, result.stderr


SHARED = ("soft_heap_limit", "hard_heap_limit", "temp_store_directory", "data_store_directory")
SHARED_BY_CIPHER = ("cipher_log", "cipher_log_level", "cipher_memory_security", "cipher_profile")


@pytest.mark.parametrize("name", [*SHARED, *SHARED_BY_CIPHER])
@pytest.mark.parametrize("sql", ["PRAGMA {}='0'", 'pragma main . "{}" (0)', "EXPLAIN PRAGMA {}=0"])
def test_p9_of_process(tmp_path: Path, name: str, sql: str) -> None:
    """What a PRAGMA sets for the whole process is refused in a lease, whose end could not undo
    that for others; to ask for it takes no lock.
    """
    url = cipher.url_of(tmp_path / "a.db") if "cipher" in name else "sqlite://"
    with pooled_app(url) as (_, db):
        with pytest.raises(UsageError, match=f"PRAGMA {name} is a setting of the whole process"):
            query(sql.format(name))
        with db_connection_context(readonly=True) as conn:
            conn.execute(f"PRAGMA {name}").fetchall()
        assert query("SELECT 1") == [(1,)]
        assert db.stats().connects == 1


@pytest.mark.parametrize("name", ["soft_heap_limit", "cipher_memory_security"])
def test_of_process_in_setsession(tmp_path: Path, name: str) -> None:
    """SETSESSION may set it: that is the same for all connections."""
    with pooled_app(cipher.url_of(tmp_path / "a.db"), setsession=[f"PRAGMA {name}=0"]):
        assert query("SELECT 1") == [(1,)]
