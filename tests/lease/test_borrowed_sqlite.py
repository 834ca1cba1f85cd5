"""SQLite: what a borrowed connection stores without commit() is what sqlite3 itself would."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_pooled_db import PooledDB, UsageError, db_connection_context, get_db_connection
from flask_pooled_db.lease.state import State
from tests.support.apps import pooled_app
from tests.support.pools import open_pool

SCHEMA = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, data BLOB);
    INSERT INTO t VALUES (0, 'z', x'00');
"""
INSERT = "INSERT INTO t (id) VALUES (1)"
WITH_INSERT = "WITH x AS (SELECT 2) INSERT INTO t (id) SELECT * FROM x"
BROKEN_SCRIPT = """
    CREATE TABLE u (a);
    INSERT INTO t (id) VALUES (7);
    INSERT INTO nowhere VALUES (1);
    CREATE TABLE v (a);
"""

Step = Callable[[Any], Any]


def execute(sql: str, *params: Any) -> Step:
    def step(conn: Any) -> Any:
        return conn.execute(sql, *params).fetchall()

    return step


def by_cursor(sql: str, *params: Any) -> Step:
    def step(conn: Any) -> Any:
        cur = conn.cursor()
        cur.execute(sql, *params)
        return cur.fetchall()

    return step


def many(sql: str, sets: Any) -> Step:
    return lambda conn: conn.executemany(sql, sets).rowcount


def script(text: str) -> Step:
    return lambda conn: conn.executescript(text) and None


def script_by_cursor(text: str) -> Step:
    return lambda conn: conn.cursor().executescript(text) and None


def half_read(sql: str) -> Step:
    return lambda conn: conn.execute(sql).fetchone()


def blob(conn: Any) -> None:
    with conn.blobopen("t", "data", 0) as opened:
        opened.write(b"!")


def commit(conn: Any) -> None:
    conn.commit()


def rollback(conn: Any) -> None:
    conn.rollback()


PROGRAMS: dict[str, list[Step]] = {
    "nothing": [],
    "insert": [execute(INSERT)],
    "insert, commit": [execute(INSERT), commit],
    "insert, rollback": [execute(INSERT), rollback],
    "update": [execute("UPDATE t SET name = 'a'")],
    "delete": [execute("  \n\t\f DELETE FROM t")],
    "replace": [execute("rEpLaCe INTO t (id) VALUES (0)")],
    "insert returning": [execute(f"{INSERT} RETURNING id")],
    "many": [many("INSERT INTO t (id) VALUES (?)", [(1,), (2,)])],
    "many of none": [many("INSERT INTO t (id) VALUES (?)", [])],
    "comment, insert": [execute(f"/* a */ -- b\n {INSERT}")],
    "slash, insert": [execute(f"/*/ a */{INSERT}")],
    "semicolon, insert": [execute(f";{INSERT}")],
    "mark, insert": [execute(f"\ufeff{INSERT}")],
    "with insert": [execute(WITH_INSERT)],
    "with insert returning": [execute(f"{WITH_INSERT} RETURNING id")],
    "with insert returning, half read": [half_read(f"{WITH_INSERT} RETURNING id")],
    "with update": [execute("WITH x AS (SELECT 2) UPDATE t SET name = 'a'")],
    "with delete": [execute("WITH x AS (SELECT 2) DELETE FROM t")],
    "explain insert": [execute(f"EXPLAIN QUERY PLAN {INSERT}")],
    "select": [execute("SELECT id FROM t")],
    "create": [execute("CREATE TABLE u (a)")],
    "create by cursor": [by_cursor("CREATE TABLE u (a)")],
    "create, insert": [execute("CREATE TABLE u (a)"), execute("INSERT INTO u VALUES (1)")],
    "insert, create": [execute(INSERT), execute("CREATE TABLE u (a)")],
    "insert, create, commit": [execute(INSERT), execute("CREATE TABLE u (a)"), commit],
    "insert, create, rollback": [execute(INSERT), execute("CREATE TABLE u (a)"), rollback],
    "create, rollback": [execute("CREATE TABLE u (a)"), rollback],
    "create as select": [execute("CREATE TABLE u AS SELECT * FROM t")],
    "create twice": [execute("CREATE TABLE u (a)"), execute("CREATE TABLE u (a)")],
    "create index": [execute("CREATE INDEX i ON t (name)")],
    "create view": [execute("CREATE VIEW w AS SELECT 1")],
    "create trigger": [
        execute("CREATE TRIGGER tr AFTER UPDATE ON t BEGIN DELETE FROM t; END"),
        execute("WITH x AS (SELECT 2) UPDATE t SET name = 'a'"),
    ],
    "create virtual table": [execute("CREATE VIRTUAL TABLE f USING fts5(a)")],
    "drop": [execute("DROP TABLE t")],
    "drop, insert": [execute("DROP TABLE t"), execute(INSERT)],
    "alter": [execute("ALTER TABLE t ADD COLUMN more")],
    "analyze": [execute("ANALYZE")],
    "reindex": [execute("REINDEX")],
    "vacuum": [execute("VACUUM")],
    "user_version": [execute("PRAGMA user_version=7")],
    "user_version in a transaction": [execute(INSERT), execute("PRAGMA user_version=7")],
    "foreign_keys": [execute("PRAGMA foreign_keys=OFF"), execute(INSERT)],
    "begin": [execute("BEGIN"), execute("CREATE TABLE u (a)")],
    "begin, commit": [execute("BEGIN"), execute("CREATE TABLE u (a)"), execute("COMMIT")],
    "begin, method": [execute("BEGIN IMMEDIATE"), execute("CREATE TABLE u (a)"), commit],
    "begin, rollback": [execute("BEGIN"), execute("CREATE TABLE u (a)"), execute("ROLLBACK")],
    "insert, text commit": [execute(INSERT), execute("COMMIT"), execute("DELETE FROM t")],
    "commit without": [execute("COMMIT"), execute("CREATE TABLE u (a)")],
    "savepoint": [execute("SAVEPOINT a"), execute(INSERT), execute("RELEASE a")],
    "savepoint alone": [execute("SAVEPOINT a"), execute(INSERT)],
    "savepoint, back": [
        *(execute("SAVEPOINT a"), execute(INSERT), execute("ROLLBACK TO a"), execute("RELEASE a")),
        execute("CREATE TABLE u (a)"),
    ],
    "attach": [execute("ATTACH ':memory:' AS m"), execute("CREATE TABLE m.u (a)"), execute(INSERT)],
    "temp": [execute("CREATE TEMP TABLE u (a)"), execute("INSERT INTO u VALUES (1)")],
    "blob": [blob],
    "blob in a transaction": [execute(INSERT), blob],
    "blob, insert": [blob, execute(INSERT)],
    "error": [execute("CREATE TABLE t (a)"), execute("CREATE TABLE u (a)")],
    "failed insert": [execute("INSERT INTO t (id) VALUES (0)"), execute("CREATE TABLE u (a)")],
    "failed with insert": [
        execute("WITH x AS (SELECT 5 UNION SELECT 0) INSERT OR FAIL INTO t (id) SELECT * FROM x"),
        execute("CREATE TABLE u (a)"),
    ],
    "script": [script("CREATE TABLE u (a); INSERT INTO u VALUES (1)")],
    "script by cursor": [script_by_cursor("CREATE TABLE u (a); INSERT INTO u VALUES (1);")],
    "empty script": [execute(INSERT), script("")],
    "script of a comment": [execute(INSERT), script("-- nothing;\n")],
    "script of reads": [execute(INSERT), script("SELECT 1; SELECT * FROM t")],
    "insert, script": [execute(INSERT), script("CREATE TABLE u (a)")],
    "insert, script by cursor": [execute(INSERT), script_by_cursor("CREATE TABLE u (a)")],
    "script, insert": [script("CREATE TABLE u (a)"), execute(INSERT)],
    "script, rollback": [script("CREATE TABLE u (a)"), rollback],
    "insert, script, rollback": [execute(INSERT), script("CREATE TABLE u (a)"), rollback],
    "script with begin": [script("CREATE TABLE u (a); BEGIN; INSERT INTO u VALUES (1)")],
    "script with begin, commit": [script("BEGIN; CREATE TABLE u (a);"), commit],
    "script with begin, rollback": [script("BEGIN; CREATE TABLE u (a);"), rollback],
    "script with a transaction": [script("BEGIN; CREATE TABLE u (a); COMMIT; BEGIN; DROP TABLE u")],
    "script that rolls back": [
        execute(INSERT),
        script("BEGIN; CREATE TABLE u (a); ROLLBACK; CREATE TABLE v (a)"),
    ],
    "script with commit": [execute(INSERT), script("COMMIT")],
    "script with begin, script": [
        script("BEGIN; CREATE TABLE u (a)"),
        script("CREATE TABLE v (a)"),
    ],
    "script with a trigger": [
        script(
            "CREATE TRIGGER r AFTER DELETE ON t BEGIN SELECT 1; END; DELETE FROM t; DROP TABLE t"
        )
    ],
    "script with a savepoint": [script("SAVEPOINT a; CREATE TABLE u (a); RELEASE a")],
    "broken script": [script(BROKEN_SCRIPT)],
    "broken script by cursor": [script_by_cursor(BROKEN_SCRIPT)],
    "insert, broken script": [execute(INSERT), script(BROKEN_SCRIPT), execute("DROP TABLE u")],
    "broken script, rollback": [script(BROKEN_SCRIPT), rollback],
    "broken script with begin": [script(f"BEGIN; {BROKEN_SCRIPT}")],
    "broken script with begin, commit": [script(f"BEGIN; {BROKEN_SCRIPT}"), commit],
    "script without sense": [execute(INSERT), script("CREATE TABLE u (a); sense")],
    "script without end": [script("CREATE TABLE u (a); SELECT '")],
    "script with pragmas": [
        script("PRAGMA foreign_keys=OFF; PRAGMA user_version=5; DROP TABLE t;")
    ],
}


def dump(path: Path) -> Any:
    """What is stored in a file."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        version = conn.execute("PRAGMA user_version").fetchone()
        tables = conn.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
        rows = conn.execute("SELECT * FROM t").fetchall() if ("t",) in tables else None
        return version, tables, rows


def play(conn: Any, steps: list[Step]) -> list[Any]:
    """What comes of each step, and whether a transaction is open after it."""
    seen = []
    for step in steps:
        try:
            result = step(conn)
        except sqlite3.Error as error:
            result = type(error), re.sub(r"token: .*", "token", str(error))
        seen.append((result, conn.in_transaction))
    return seen


def stored_by_sqlite3(path: Path, steps: list[Step]) -> Any:
    with contextlib.closing(sqlite3.connect(path)) as bare:
        bare.executescript(f"PRAGMA journal_mode=WAL; {SCHEMA}")
    with contextlib.closing(sqlite3.connect(path)) as bare:
        bare.execute("PRAGMA foreign_keys=ON")
        return play(bare, steps), dump(path)


def stored_by_lease(path: Path, steps: list[Step], borrow: Callable[[Any], Any]) -> Any:
    with contextlib.closing(sqlite3.connect(path)) as bare:
        bare.executescript(SCHEMA)
    with pooled_app(f"sqlite:///{path}") as (_, db):
        conn = borrow(db)
        seen = play(conn, steps), dump(path)
        conn.close()
        assert dump(path) == seen[1]
    return seen


BORROWING: dict[str, Callable[[PooledDB], Any]] = {
    "get_db_connection": lambda db: get_db_connection(),
    "connection": lambda db: db.pool().connection(),
    "dedicated_connection": lambda db: db.pool().dedicated_connection(),
    "steady_connection": lambda db: db.pool().steady_connection(),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_t10_stored_as_by_sqlite3(tmp_path: Path, program: str) -> None:
    """A borrowed connection stores without `commit()` what sqlite3 does, at the same moment, and
    raises the same errors.
    """
    steps = PROGRAMS[program]
    expected = stored_by_sqlite3(tmp_path / "bare.db", steps)
    assert stored_by_lease(tmp_path / "db", steps, BORROWING["get_db_connection"]) == expected


@pytest.mark.parametrize("face", BORROWING)
@pytest.mark.parametrize("program", ["insert, script", "insert, create", "create, insert"])
def test_t10_stored_by_each_way_to_borrow(tmp_path: Path, face: str, program: str) -> None:
    """So does one that DBUtils' methods of the pool lend."""
    steps = PROGRAMS[program]
    expected = stored_by_sqlite3(tmp_path / "bare.db", steps)
    assert stored_by_lease(tmp_path / "db", steps, BORROWING[face]) == expected


STEPS = [step for steps in PROGRAMS.values() for step in steps]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=6))
def test_t10_stored_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    """So does any sequence of such steps."""
    folder = tmp_path_factory.mktemp("any")
    expected = stored_by_sqlite3(folder / "bare.db", steps)
    assert stored_by_lease(folder / "db", steps, BORROWING["get_db_connection"]) == expected


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A file with a table, of an app whose context is entered."""
    path = tmp_path / "db"
    with contextlib.closing(sqlite3.connect(path)) as bare:
        bare.executescript(SCHEMA)
    with pooled_app(f"sqlite:///{path}", maxconnections=1):
        yield path


def tables(path: Path) -> list[str]:
    return [name for (name,) in dump(path)[1]]


@pytest.mark.parametrize("step", [execute("CREATE TABLE u (a)"), script("CREATE TABLE u (a)")])
def test_t1_scope_after_a_borrowed_lease(file: Path, step: Step) -> None:
    """A scope on the same connection is one transaction again, scripts included."""
    conn = get_db_connection()
    conn.execute("DROP TABLE IF EXISTS u")
    conn.close()
    with contextlib.suppress(LookupError), db_connection_context() as inner:
        inner.execute(INSERT)
        step(inner)
        assert inner.in_transaction
        raise LookupError
    assert tables(file) == ["t"]
    with contextlib.suppress(LookupError), db_connection_context() as inner:
        step(inner)
        raise LookupError
    assert tables(file) == ["t"]


def test_init_db_of_the_tutorial(tmp_path: Path) -> None:
    """The command of Flask's tutorial, which commits nothing, stores its tables."""
    (tmp_path / "schema.sql").write_text("DROP TABLE IF EXISTS user;\nCREATE TABLE user (id);\n")
    app = Flask("tutorial", root_path=str(tmp_path), instance_path=str(tmp_path))
    app.config.update(POOLED_DB_URL=f"sqlite:///{tmp_path}/db", POOLED_DB_MINCACHED=0)
    pooled = PooledDB(app)

    @app.cli.command("init-db")
    def init_db() -> None:
        db = get_db_connection()
        with app.open_resource("schema.sql") as f:
            db.executescript(f.read().decode("utf8"))  # type: ignore[attr-defined]
        db.close()

    result = app.test_cli_runner().invoke(args=["init-db"])
    pooled.close()
    assert result.exception is None
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as bare:
        assert bare.execute("SELECT name FROM sqlite_master").fetchall() == [("user",)]


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(
    ("steps", "is_called"),
    [
        ([execute("CREATE TABLE u (a)")], True),
        ([execute(INSERT), script("CREATE TABLE u (a)")], True),
        ([script("CREATE TABLE u (a)")], True),
        ([execute(INSERT), script("BEGIN; CREATE TABLE u (a)")], True),
        ([execute(INSERT), script("sense")], True),
        ([script("BEGIN; CREATE TABLE u (a)")], False),
        ([script("BEGIN; CREATE TABLE u (a)"), commit], True),
        ([script("BEGIN; CREATE TABLE u (a)"), rollback], False),
        ([script("sense")], False),
        ([execute(INSERT)], False),
        ([execute(INSERT), execute("CREATE TABLE u (a)")], False),
        ([execute("SELECT 1")], False),
        ([execute("SELECT 1"), commit], True),
        ([commit], True),
        ([], False),
    ],
)
def test_t10_on_commit_of_what_is_stored(steps: list[Step], is_called: bool) -> None:
    """What was to be done after COMMIT is done when SQLite has stored the work without one."""
    called = []
    conn = get_db_connection()
    conn.on_commit(lambda: called.append(1))
    play(conn, steps)
    conn.close()
    assert called == [1] * is_called


@pytest.mark.usefixtures("file")
def test_t10_state_after_a_store() -> None:
    """A lease whose work was stored has no transaction, and says so."""
    conn = get_db_connection()
    for step in (execute("CREATE TABLE u (a)"), script("CREATE TABLE v (a)"), execute(WITH_INSERT)):
        step(conn)
        assert conn.state is State.IDLE
        assert not conn.has_work
    for step in (execute(INSERT), script("BEGIN; DROP TABLE u")):
        step(conn)
        assert conn.state is State.IN_TRANSACTION
    with contextlib.suppress(sqlite3.Error):
        script(BROKEN_SCRIPT)(conn)
    conn.rollback()
    conn.begin()
    conn.close()


@pytest.mark.usefixtures("file")
def test_t6_half_read_store() -> None:
    """What the rows of a statement are not read of is stored with the end of the lease."""
    conn = get_db_connection()
    conn.execute(f"{WITH_INSERT} RETURNING id")
    conn.close()
    with db_connection_context(readonly=True) as reader:
        assert reader.execute("SELECT id FROM t").fetchall() == [(0,), (2,)]


def test_t10_driver_connection_stores(tmp_path: Path) -> None:
    """The driver's own connection, asked of a borrowed lease, keeps sqlite3's rules too."""
    with open_pool(url=f"sqlite:///{tmp_path}/db") as pool:
        conn = pool.connection()
        conn.execute("CREATE TABLE t (id)")
        raw = conn.dbapi_connection
        raw.execute(INSERT)
        raw.executescript("CREATE TABLE u (a)")
        conn.close()
    assert dump(tmp_path / "db")[1:] == ([("t",), ("u",)], [(1,)])


@pytest.mark.usefixtures("file")
def test_t7_script_after_release() -> None:
    """A script after the end of its lease is refused like any other statement."""
    conn = get_db_connection()
    cursor = conn.cursor()
    conn.close()
    for use in (conn, cursor):
        with pytest.raises(UsageError, match="was released"):
            use.executescript("CREATE TABLE u (a)")
