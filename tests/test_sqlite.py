"""SQLite: the same SQL as on MariaDB, and a file that many threads write to."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from flask_pooled_db import (
    PooledDB,
    PoolTimeout,
    TransactionAborted,
    db_connection_context,
    get_db_connection,
)
from flask_pooled_db.drivers.sqlite import to_sqlite
from tests.support.apps import pooled_app
from tests.support.pools import Caller, call, open_pool, wait_until

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
MANY_ROWS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with an empty table."""
    path = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
    return path


@pytest.fixture
def app(file: Path) -> Iterator[tuple[Flask, PooledDB]]:
    """An app on that file, inside its context."""
    with pooled_app(f"sqlite:///{file}") as pair:
        yield pair


def query(sql: str, *params: Any) -> list[Any]:
    """All rows of a statement, in a scope of its own."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(sql, *params)
        return list(cur.fetchall())


def in_app(app: Flask, function: Any, *args: Any) -> Caller[Any]:
    """Call a function in a thread with an app context of its own."""

    def run() -> Any:
        with app.app_context():
            return function(*args)

    return call(run)


# Placeholders


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("sql", "params", "row"),
    [
        ("SELECT %s", ("a",), ("a",)),
        ("SELECT %s, %s", [1, None], (1, None)),
        ("SELECT %(a)s, %(b)s, %(a)s", {"a": 1, "b": "x"}, (1, "x", 1)),
        ("SELECT %s LIKE 'a%%'", ("abc",), (1,)),
        ("SELECT %s || '%%s'", ("a",), ("a%s",)),
        ("SELECT %s, '%%%%'", ("a",), ("a", "%%")),
        ("SELECT 5 %% %s", (3,), (2,)),
        ("SELECT ?", ("a",), ("a",)),
        ("SELECT :a", {"a": "x"}, ("x",)),
        ("SELECT '100%'", (), ("100%",)),
        ("SELECT 'a' LIKE 'a%'", None, (1,)),
        ("SELECT '%s'", None, ("%s",)),
    ],
)
def test_placeholders_are_those_of_mariadb_s_drivers(
    sql: str, params: Any, row: tuple[Any, ...]
) -> None:
    """`%s`, `%(name)s` and `%%` mean what they mean there; so do sqlite3's own."""
    if params == ():
        assert query(sql) == [row]
    else:
        assert query(sql, params) == [row]


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    "sql", ["SELECT %d, %s", "SELECT '100%', %s", "SELECT %s LIKE 'a%'", "SELECT %(a)d, %s", "%s %"]
)
def test_another_placeholder_is_an_error(sql: str) -> None:
    """A percent sign that MariaDB's drivers would refuse is refused, and the remedy is told."""
    with db_connection_context() as conn:
        with pytest.raises(conn.ProgrammingError, match="a percent sign is written %%"):
            conn.cursor().execute(sql, ("a",))


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("sql", "params"), [("SELECT %s", (1, 2)), ("SELECT %s, %s", (1,)), ("SELECT %(a)s", {})]
)
def test_the_wrong_number_of_parameters_is_an_error(sql: str, params: Any) -> None:
    """Nothing is run with a parameter missing, or one too many."""
    with db_connection_context() as conn, pytest.raises(conn.ProgrammingError):
        conn.cursor().execute(sql, params)


def test_executemany_takes_the_same_placeholders(app: tuple[Flask, PooledDB]) -> None:
    """So does a connection's own `execute`."""
    with db_connection_context() as conn:
        conn.cursor().executemany("INSERT INTO t VALUES (%s, %s)", [(1, "a"), (2, "b")])
        conn.execute("INSERT INTO t VALUES (%(id)s, %(name)s)", {"id": 3, "name": "50%"})
        conn.executemany("INSERT INTO t VALUES (%s, %s)", [(4, "d"), (5, "e")])
    assert query("SELECT id FROM t WHERE name LIKE %s ORDER BY id", ("%",)) == [
        (1,),
        (2,),
        (3,),
        (4,),
        (5,),
    ]


@given(st.text())
def test_a_text_without_a_percent_sign_is_left_as_it_is(text: str) -> None:
    """And one with every percent sign doubled comes out as it was."""
    assert to_sqlite(text.replace("%", "%%")) == text


# How a connection is set up


@pytest.mark.usefixtures("app")
def test_the_file_is_in_wal_mode_with_foreign_keys_and_patience() -> None:
    """Readers don't wait for the writer, references hold, and who finds it locked waits 5 s."""
    assert query("PRAGMA journal_mode") == [("wal",)]
    assert query("PRAGMA foreign_keys") == [(1,)]
    assert query("PRAGMA busy_timeout") == [(5000,)]


@pytest.mark.usefixtures("app")
def test_foreign_keys_hold() -> None:
    """A row that refers to nothing is refused."""
    with db_connection_context() as conn:
        conn.execute("CREATE TABLE child (t INTEGER REFERENCES t (id))")
    with pytest.raises(sqlite3.IntegrityError), db_connection_context() as conn:
        conn.execute("INSERT INTO child VALUES (7)")


@pytest.mark.parametrize("how", ["query", "CONNECT_ARGS"])
def test_the_busy_timeout_can_be_set(file: Path, how: str) -> None:
    """`timeout` is sqlite3's own argument, in the URL or in CONNECT_ARGS."""
    url = f"sqlite:///{file}"
    keys = {"connect_args": {"timeout": 0.25}} if how == "CONNECT_ARGS" else {}
    with pooled_app(f"{url}?timeout=0.25" if how == "query" else url, **keys):
        assert query("PRAGMA busy_timeout") == [(250,)]


def test_a_relative_path_is_relative(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sqlite:///file` is a file in the current directory."""
    monkeypatch.chdir(file.parent)
    with pooled_app("sqlite:///shop.db"):
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_an_absolute_path_has_four_slashes(file: Path) -> None:
    """`sqlite:////path/file` is that file."""
    url = f"sqlite:///{file}"
    assert url.startswith("sqlite:////")
    with pooled_app(url):
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_a_path_may_be_percent_encoded(tmp_path: Path) -> None:
    """Any character may stand in a file's name."""
    with pooled_app(f"sqlite:///{tmp_path}/a%3Fb%23c%25%20d.db"):
        assert query("SELECT 1") == [(1,)]
    assert (tmp_path / "a?b#c% d.db").exists()


def test_an_sqlite_uri_may_be_the_database(file: Path) -> None:
    """SQLite's own URIs are taken with `uri=true`, here to open a file that can't be written."""
    with pooled_app(f"sqlite:///file:{file}?uri=true"):
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_a_file_that_can_not_be_opened_is_told_at_once(tmp_path: Path) -> None:
    """A directory that isn't there won't come to be by waiting."""
    with pooled_app(f"sqlite:///{tmp_path}/nowhere/shop.db", acquire_timeout=30):
        started = time.monotonic()
        with pytest.raises(Exception, match="won't help"), db_connection_context():
            pass
        assert time.monotonic() - started < 15


# In memory


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_in_memory_all_leases_share_one_database(url: str) -> None:
    """What one lease committed is there for another one that is out at the same time."""
    with pooled_app(url):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (id INTEGER)")
            conn.execute("INSERT INTO t VALUES (1)")
        first, second = get_db_connection(), get_db_connection()
        rows = [conn.execute("SELECT id FROM t").fetchall() for conn in (first, second)]
        first.close()
        second.close()
    assert rows == [[(1,)], [(1,)]]


def test_in_memory_threads_share_one_database() -> None:
    """Also those that come at the same moment, before there is any connection."""
    barrier = threading.Barrier(8)
    with pooled_app("sqlite://") as (app, _):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (id INTEGER)")

        def insert(number: int) -> None:
            barrier.wait(20)
            with db_connection_context() as conn:
                conn.execute("INSERT INTO t VALUES (%s)", (number,))

        for caller in [in_app(app, insert, number) for number in range(8)]:
            caller.result()
        assert query("SELECT COUNT(*) FROM t") == [(8,)]


def test_in_memory_the_database_outlives_its_connections() -> None:
    """It is there although every connection was closed for having been idle."""
    with pooled_app("sqlite://", idle_timeout=0.05) as (_, db):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (id INTEGER)")
            conn.execute("INSERT INTO t VALUES (1)")
        wait_until(lambda: db.stats().open == 0, "all connections are closed")
        assert query("SELECT id FROM t") == [(1,)]
        assert db.stats().connects >= 2


def test_in_memory_each_pool_has_its_own_database() -> None:
    """Two apps, or two binds, have nothing to do with each other."""
    with open_pool(url="sqlite://") as first, open_pool(url="sqlite://") as second:
        one, other = first.lease(), second.lease()
        one.execute("CREATE TABLE t (id INTEGER)")
        one.commit()
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            other.execute("SELECT * FROM t")
        one.close()
        other.close()


def test_in_memory_closing_the_pool_ends_the_database() -> None:
    """Nothing of it stays behind."""
    with open_pool(url="sqlite://") as pool:
        lease = pool.lease()
        lease.execute("CREATE TABLE t (id INTEGER)")
        lease.commit()
        lease.close()
        pool.close()
        assert pool.driver._anchor is None  # type: ignore[attr-defined]


# Options


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
def test_readonly_refuses_writes(sql: str) -> None:
    """A write fails, and nothing of it is there; the next lease may write."""
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        with db_connection_context(readonly=True) as conn:
            conn.execute(sql)
    assert query("SELECT name FROM sqlite_master") == [("t",)]
    assert query("SELECT * FROM t") == []
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (2, 'b')")
    assert query("SELECT id FROM t") == [(2,)]


@pytest.mark.usefixtures("app")
def test_readonly_sees_what_was_committed_meanwhile() -> None:
    """Each statement reads what is there now: no snapshot is kept."""
    with db_connection_context(readonly=True) as reader:
        assert reader.execute("SELECT COUNT(*) FROM t").fetchone() == (0,)
        with db_connection_context(independent=True) as writer:
            writer.execute("INSERT INTO t VALUES (1, 'a')")
        assert reader.execute("SELECT COUNT(*) FROM t").fetchone() == (1,)


@pytest.mark.usefixtures("app")
def test_statement_timeout_interrupts_a_statement() -> None:
    """A statement that takes longer fails, and is given no more time than it was allowed."""
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        with db_connection_context(statement_timeout=0.05) as conn:
            conn.execute(ENDLESS).fetchall()
    assert query("SELECT 1") == [(1,)]


@pytest.mark.usefixtures("app")
def test_statement_timeout_is_for_each_statement() -> None:
    """Its clock starts anew with every statement."""
    with db_connection_context(statement_timeout=0.5) as conn:
        deadline = time.monotonic() + 0.7
        while time.monotonic() < deadline:
            conn.execute(MANY_ROWS).fetchone()


@pytest.mark.usefixtures("app")
def test_t4_an_interrupted_write_aborts_what_it_was_a_part_of() -> None:
    """SQLite rolls the transaction back by itself then: nothing of it is committed."""
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
def test_a_savepoint_is_undone_alone() -> None:
    """A nested block that fails costs its own work."""
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            inner.execute("INSERT INTO t VALUES (2, 'b')")
            raise LookupError
        with db_connection_context() as inner:
            inner.execute("INSERT INTO t VALUES (3, 'c')")
    assert query("SELECT id FROM t ORDER BY id") == [(1,), (3,)]


@pytest.mark.usefixtures("app")
def test_a_savepoint_that_comes_first_commits_nothing() -> None:
    """The end of a nested block is not that of the transaction, also where it wrote first."""
    with contextlib.suppress(LookupError), db_connection_context():
        with db_connection_context() as inner:
            inner.execute("INSERT INTO t VALUES (1, 'a')")
        raise LookupError
    assert query("SELECT * FROM t") == []


# Threads


def test_writers_in_threads_wait_for_each_other(app: tuple[Flask, PooledDB]) -> None:
    """No writer is told that the database is locked, and no increment is lost."""
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, '0')")
    barrier = threading.Barrier(4)

    def count_up() -> None:
        barrier.wait(20)
        for _ in range(10):
            with db_connection_context() as conn:
                conn.execute("UPDATE t SET name = name + 1 WHERE id = 1")

    for caller in [in_app(app[0], count_up) for _ in range(4)]:
        caller.result()
    assert query("SELECT name FROM t") == [("40",)]


def test_a_transaction_that_reads_first_and_writes_then_is_not_locked_out(
    app: tuple[Flask, PooledDB],
) -> None:
    """Reading takes no snapshot that a later write would fail on."""
    both_have_read = threading.Barrier(2)

    def read_then_write(number: int) -> None:
        with db_connection_context() as conn:
            conn.execute("SELECT COUNT(*) FROM t").fetchone()
            both_have_read.wait(20)
            conn.execute("INSERT INTO t VALUES (%s, 'x')", (number,))

    for caller in [in_app(app[0], read_then_write, number) for number in (1, 2)]:
        caller.result()
    assert query("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_readers_go_on_while_somebody_writes(app: tuple[Flask, PooledDB]) -> None:
    """In WAL mode a reader sees what was committed before, without waiting."""
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        assert in_app(app[0], query, "SELECT COUNT(*) FROM t").result() == [(0,)]


def test_a_lock_that_is_held_too_long_is_an_error_of_the_driver(file: Path) -> None:
    """After `timeout` seconds: "database is locked", and the connection is still good."""
    with pooled_app(f"sqlite:///{file}?timeout=0.05") as (app, _):
        with db_connection_context() as conn:
            conn.execute("INSERT INTO t VALUES (1, 'a')")
            caller = in_app(app, query, "INSERT INTO t VALUES (2, 'b') RETURNING id")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                caller.result()
        assert query("SELECT id FROM t") == [(1,)]


# Leases


def test_unread_rows_keep_no_snapshot_for_the_next_lease(app: tuple[Flask, PooledDB]) -> None:
    """A cursor that was left half read is closed with its lease: the next one reads what is there
    then, and who writes is not in its way.
    """
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
def test_t7_a_cursor_made_by_the_connection_s_execute_ends_with_the_lease() -> None:
    """`conn.execute()`, which sqlite3 has beyond the standard, returns a cursor like any other."""
    with db_connection_context() as conn:
        cursor = conn.execute("SELECT 1 UNION SELECT 2")
        assert cursor.connection is conn
        assert list(cursor) == [(1,), (2,)]
    for use in (cursor.fetchone, cursor.fetchall, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(Exception, match="was released"):
            use()


@pytest.mark.usefixtures("app")
def test_a_script_is_a_part_of_the_scope() -> None:
    """`executescript` commits nothing before its time."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        conn.cursor().executescript("INSERT INTO t VALUES (2, 'b;c'); INSERT INTO t VALUES (3, '')")
        conn.executescript("INSERT INTO t VALUES (4, 'd');\n-- the end;\n")
        assert conn.execute("SELECT COUNT(*) FROM t").fetchone() == (4,)
        raise LookupError
    assert query("SELECT * FROM t") == []


@pytest.mark.usefixtures("app")
def test_a_connection_serves_threads_one_after_the_other(app: tuple[Flask, PooledDB]) -> None:
    """A connection opened by one thread may be lent to another."""
    query("SELECT 1")
    assert in_app(app[0], query, "SELECT 2").result() == [(2,)]
    assert app[1].stats().connects == 1


def test_an_exhausted_pool_says_so(file: Path) -> None:
    """The pool's limit holds on SQLite too."""
    with pooled_app(f"sqlite:///{file}", maxconnections=1):
        with db_connection_context(), pytest.raises(PoolTimeout):
            with db_connection_context(independent=True, timeout=0):
                pass
