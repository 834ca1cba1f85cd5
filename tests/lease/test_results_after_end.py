"""T7: what a cursor tells of its last statement after the end of its lease."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import mysql.connector
import psycopg
import pytest

from flask_pooled_db import UsageError, db_connection_context, get_db_connection
from harness.postgres import postgres
from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.drivers.generic import MODULES, keys
from tests.support.apps import pooled_app
from tests.support.stages import ON_FILES, ServerStage, Stage

CREATE = "CREATE TABLE notes (id INTEGER PRIMARY KEY {}, n INTEGER)"
INSERT = "INSERT INTO notes (n) VALUES (7)"


@pytest.fixture
def notes(any_stage: Stage) -> Stage:
    """A stage with a table that numbers its rows, one of which is there."""
    with db_connection_context() as conn:
        run(conn, CREATE.format("" if any_stage.driver in ON_FILES else "AUTO_INCREMENT"))
        run(conn, INSERT)
    return any_stage


def others() -> None:
    """What the next request does with the same connection."""
    with db_connection_context() as conn:
        add(conn, 1, 0)
        run(conn, INSERT)
        run(conn, INSERT)


def told(cur: Any) -> tuple[int, Any, Any]:
    names = cur.description and [column[0] for column in cur.description]
    return cur.rowcount, cur.lastrowid, names


ENDS = ["scope", "with", "commit and close", "cursor's block", "cursor's close"]


def execute(sql: str, end: str, kind: Any = None) -> Any:
    """A cursor that has run a statement in a block which has ended."""
    arguments = () if kind is None else (kind,)
    if end == "scope":
        with db_connection_context() as conn:
            cur = conn.cursor(*arguments)
            cur.execute(sql)
    elif end == "with":
        with get_db_connection() as conn:
            cur = conn.cursor(*arguments)
            cur.execute(sql)
    elif end == "commit and close":
        conn = get_db_connection()
        cur = conn.cursor(*arguments)
        cur.execute(sql)
        conn.commit()
        conn.close()
    else:
        with db_connection_context() as conn:
            if end == "cursor's block":
                with conn.cursor(*arguments) as cur:
                    cur.execute(sql)
            else:
                cur = conn.cursor(*arguments)
                cur.execute(sql)
                cur.close()
            add(conn, 2, 0)
    return cur


@pytest.mark.parametrize("end", ENDS)
def test_t7_results_after_end(notes: Stage, end: str) -> None:
    """`lastrowid`, `rowcount` and `description` can be read after the block, whatever the next one
    does on the same connection.
    """
    cur = execute(INSERT, end)
    others()
    assert told(cur) == (1, 2, None)
    cur = execute("UPDATE notes SET n = n + 1", end)
    others()
    assert cur.rowcount == 4
    cur = execute("SELECT id, n FROM notes", end)
    others()
    assert told(cur)[2] == ["id", "n"]
    assert cur.rowcount in (6, -1)


@pytest.mark.parametrize("end", ENDS)
def test_t7_rows_after_end(notes: Stage, end: str) -> None:
    """Rows can't be read after the block, and the error says to fetch them inside."""
    cur = execute("SELECT id, n FROM notes", end)
    for read in (cur.fetchone, cur.fetchall, lambda: cur.fetchmany(2), lambda: next(cur)):
        with pytest.raises(UsageError, match="fetch the rows, inside the block"):
            read()


@pytest.mark.parametrize("end", ENDS)
def test_t7_streams_after_end(stage: ServerStage, end: str) -> None:
    """So it is with streaming cursors."""
    with db_connection_context() as conn:
        kind = type(stage.streaming_cursor(conn).driver_cursor)
    cur = execute("UPDATE accounts SET balance = balance + 1", end, kind)
    with db_connection_context() as conn:
        add(conn, 1, 0)
    assert cur.rowcount == 4


def test_t7_results_in_block(notes: Stage) -> None:
    """Inside the block they are those of the last statement, also after a commit() between."""
    with get_db_connection() as conn:
        cur = conn.cursor()
        cur.execute(INSERT)
        conn.commit()
        assert cur.lastrowid == 2
        cur.execute("UPDATE notes SET n = 1")
        assert cur.rowcount == 2
        conn.commit()
        cur.execute("DELETE FROM notes WHERE id = 1")
    assert cur.rowcount == 1


def test_t7_no_statement(any_stage: Stage) -> None:
    """A cursor that has run nothing tells nothing."""
    with db_connection_context() as conn:
        cur = conn.cursor()
    assert (cur.rowcount, cur.description) == (-1, None)
    assert not cur.lastrowid


def test_t7_after_failed_statement(any_stage: Stage) -> None:
    """Nor does one whose last statement has failed, and it does not end the process."""
    with contextlib.suppress(any_stage.db.pool().driver.Error), db_connection_context() as conn:
        cur = conn.cursor()
        cur.execute("NO SQL")
    assert cur.description is None
    assert cur.rowcount in (-1, 0)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a PostgreSQL server of this module's own."""
    with postgres() as url:
        yield url


@pytest.mark.parametrize("module", ["psycopg", *MODULES])
@pytest.mark.parametrize("end", ENDS)
def test_t7_results_after_end_on_postgresql(url: str, module: str, end: str) -> None:
    """PostgreSQL's drivers tell the same; what they do not have, a cursor has not either."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as own:
        own.execute("DROP TABLE IF EXISTS accounts")
        own.execute("CREATE TABLE accounts (id INT, balance INT)")
        own.execute("INSERT INTO accounts VALUES (1, 1), (2, 2), (3, 3)")
    found = {"url": url} if module == "psycopg" else keys(MODULES[module], url)
    with pooled_app(maxconnections=1, **found):
        cur = execute("UPDATE accounts SET balance = 0 WHERE id < 3", end)
        reader = execute("SELECT id, balance FROM accounts", end)
        with db_connection_context() as conn:
            add(conn, 1, 0)
        assert (cur.rowcount, cur.description) == (2, None)
        assert [column[0] for column in reader.description] == ["id", "balance"]
        assert hasattr(cur, "lastrowid") is (module == "psycopg2")


@pytest.mark.parametrize("end", ENDS)
def test_t7_results_after_end_of_mysql_connector(mariadb: MariaDBServer, end: str) -> None:
    """A module that the package does not know is asked in time."""
    database = mariadb.create_database()
    mariadb.execute(f"CREATE TABLE `{database}`.notes (id INT PRIMARY KEY AUTO_INCREMENT, n INT)")
    mariadb.execute(f"CREATE TABLE `{database}`.accounts (id INT, balance INT)")
    arguments = mariadb.connect_args(database)
    with pooled_app(creator=mysql.connector, connect_args=arguments, maxconnections=1):
        cur = execute(INSERT, end)
        others()
        assert told(cur) == (1, 1, None)
