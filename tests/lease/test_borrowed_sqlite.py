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
from tests.lease.borrowed_steps import (
    BROKEN_SCRIPT,
    INSERT,
    PROGRAMS,
    SCHEMA,
    WITH_INSERT,
    Step,
    commit,
    execute,
    rollback,
    script,
)
from tests.support.apps import pooled_app
from tests.support.pools import open_pool


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


@pytest.mark.parametrize("by", ["the same cursor", "another cursor"])
def test_t10_script_amid_unread_rows(tmp_path: Path, by: str) -> None:
    """A script that can't commit, for rows of what wrote are left, fails as with sqlite3, and the
    rows and the transaction are still there.
    """

    def steps(conn: Any) -> list[Any]:
        cursor = conn.cursor()
        cursor.execute(f"{INSERT} RETURNING id")
        other = cursor if by == "the same cursor" else conn.cursor()
        with pytest.raises(sqlite3.OperationalError, match="in progress"):
            other.executescript("CREATE TABLE u (a)")
        rows = [conn.in_transaction, cursor.fetchall()]
        other.executescript("CREATE TABLE v (a)")
        return [*rows, conn.in_transaction]

    expected = stored_by_sqlite3(tmp_path / "bare.db", [steps])
    assert stored_by_lease(tmp_path / "db", [steps], BORROWING["connection"]) == expected


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
