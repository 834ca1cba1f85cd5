"""T7: what a connection and its cursors tell, and raise, after release or loss."""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import mariadb
import psycopg
import pymysql
import pytest
from sqlcipher3 import dbapi2 as sqlcipher3

from flask_pooled_db import (
    PooledDBError,
    TransactionAborted,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from tests.support.stages import ServerStage, Stage

CLOSED: dict[str, type[Exception]] = {
    "pymysql": pymysql.InterfaceError,
    "mariadbconnector": mariadb.ProgrammingError,
    "sqlite": sqlite3.ProgrammingError,
    "sqlcipher": sqlcipher3.ProgrammingError,
    "psycopg": psycopg.OperationalError,
}
LOST: dict[str, type[Exception]] = {
    "pymysql": pymysql.OperationalError,
    "mariadbconnector": mariadb.OperationalError,
    "psycopg": psycopg.OperationalError,
}
USES: list[Callable[[Any, Any], object]] = [
    lambda conn, _: conn.cursor(),
    lambda conn, _: conn.commit(),
    lambda conn, _: conn.rollback(),
    lambda _, cur: cur.execute("SELECT 1"),
    lambda _, cur: cur.fetchone(),
]


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


@pytest.mark.parametrize("use", USES)
def test_t7_error_after_release(any_stage: Stage, use: Callable[[Any, Any], object]) -> None:
    """Use after release raises a `UsageError` that is also of the class which the driver raises on
    a closed connection of its own, and says "closed".
    """
    with db_connection_context() as conn:
        cur = conn.cursor()
    with pytest.raises(UsageError, match="closed") as caught:
        use(conn, cur)
    assert isinstance(caught.value, CLOSED[any_stage.driver])
    assert isinstance(caught.value, conn.Error)
    assert type(caught.value).__name__ == "UsageError"


def test_t7_error_is_the_drivers(any_stage: Stage) -> None:
    """It is the class that the driver's own closed connection raises."""
    raw = any_stage.db.pool().driver.connect()
    raw.close()
    with pytest.raises(CLOSED[any_stage.driver]):
        raw.cursor().execute("SELECT 1")


def test_t7_error_after_loss(stage: ServerStage) -> None:
    """Use after a loss raises a `TransactionAborted` that is also the driver's `OperationalError`.
    Its copy in another process is one of ours alone.
    """
    conn = get_db_connection()
    stage.kill(conn)
    with contextlib.suppress(conn.Error):
        conn.cursor().execute("SELECT 1")
    with pytest.raises(LOST[stage.driver]) as caught:
        conn.cursor().execute("SELECT 1")
    conn.close()
    assert isinstance(caught.value, TransactionAborted)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is TransactionAborted
    assert copy.args == caught.value.args


def test_t7_closing_when_open(stage: ServerStage) -> None:
    """`finally: if not closed: close()` neither hides the error that it follows nor leaks."""

    def work() -> None:
        conn = get_db_connection()
        try:
            stage.kill(conn)
            conn.cursor().execute("SELECT 1")
        finally:
            if getattr(conn, "open", True):
                conn.close()

    with pytest.raises(stage.db.pool().driver.Error) as caught:
        work()
    assert not isinstance(caught.value, PooledDBError)
    assert stage.db.stats().in_use <= 1  # until the app context ends, if it was not closed


def ask(conn: Any, name: str) -> bool:
    value = getattr(conn, name)
    return bool(value() if callable(value) else value)


@pytest.mark.parametrize("is_lost", [False, True])
def test_t7_state_questions(stage: ServerStage, is_lost: bool) -> None:
    """Whether the connection is open can be asked in any state, and the answer is right."""
    conn = get_db_connection()
    names = [name for name in ("open", "closed", "broken", "is_connected") if hasattr(conn, name)]
    when_open = {"open": True, "closed": False, "broken": False, "is_connected": True}
    assert {name: ask(conn, name) for name in names} == {name: when_open[name] for name in names}
    if is_lost:
        stage.kill(conn)
        with pytest.raises(conn.Error):
            conn.cursor().execute("SELECT 1")
        for name in names:
            assert ask(conn, name) is not when_open[name]
    conn.close()
    for name in names:
        assert ask(conn, name) is not when_open[name]
    assert stage.db.stats().in_use == 0


@pytest.mark.parametrize("end", ["close", "scope"])
def test_t7_cursor_closed(any_stage: Stage, end: str) -> None:
    """`cursor.closed` is there if the driver has it, and tells of the end of its lease."""
    with db_connection_context() as conn, closing(any_stage.db.pool().driver.connect()) as raw:
        cur = conn.cursor()
        has_it = hasattr(raw.cursor(), "closed")
        assert hasattr(cur, "closed") is has_it
        if has_it:
            assert cur.closed is False
            other = conn.cursor()
            other.close()
            assert other.closed is True
    if has_it:
        assert cur.closed is True


def test_t7_no_error_of_ours_is_retried(any_stage: Stage) -> None:
    """`run_transaction()` does not start over for a connection that is closed."""
    old = get_db_connection()
    old.close()
    calls = []

    def work(conn: Any) -> None:
        calls.append(conn)
        old.cursor()

    with pytest.raises(UsageError):
        any_stage.db.run_transaction(work)
    assert len(calls) == 1
    assert issubclass(UsageError, PooledDBError)
