"""POOLED_DB_RECORD_STATEMENTS: what an app context ran is on record in it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import (
    DeadlineExceeded,
    PooledDB,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from flask_pooled_db.telemetry.recording import LONGEST, MOST, REPEATS
from tests.support.sites import serve, warnings_in
from tests.support.stages import ENDLESS


@contextmanager
def recorded_app(url: str = "sqlite://", **config: Any) -> Iterator[tuple[Flask, PooledDB]]:
    """An app that is tested, outside of its context."""
    app = Flask("app_under_test")
    app.config.update({"TESTING": True, "POOLED_DB_URL": url, "POOLED_DB_MINCACHED": 0, **config})
    db = PooledDB(app)
    try:
        yield app, db
    finally:
        db.close()


def texts(db: PooledDB) -> list[str]:
    return [statement.text for statement in db.recorded_statements()]


def test_recorded_statement() -> None:
    """A statement is on record with its text, its rows, its duration, file and line, and whether
    its block waited for a connection.
    """
    with recorded_app() as (app, db), app.app_context():
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("CREATE TABLE t (a)")
        with db_connection_context() as conn, conn.cursor() as cur:
            line = sys._getframe().f_lineno + 1
            cur.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)])
            cur.execute("SELECT a FROM t WHERE a < %s", (3,))
            assert db.recorded_statements()[-1].rows == 0
            cur.fetchall()
        with pytest.raises(Exception, match="nowhere"):
            db.fetch_all("SELECT * FROM nowhere")
        first, insert, select, failed = db.recorded_statements()
    assert (insert.text, insert.rows) == ("INSERT INTO t VALUES (?)", 2)
    assert (insert.file, insert.line) == (__file__, line)
    assert (select.text, select.rows, select.error) == ("SELECT a FROM t WHERE a < ?", 2, None)
    assert (failed.rows, failed.error, failed.bind) == (None, "OperationalError", "default")
    assert all(statement.duration > 0 for statement in (first, insert, select, failed))
    assert (first.waited, insert.waited) == (True, False)  # the first opened the connection


@pytest.mark.parametrize(
    ("config", "is_recorded"),
    [
        ({}, True),
        ({"TESTING": False}, False),
        ({"TESTING": False, "DEBUG": True}, True),
        ({"POOLED_DB_RECORD_STATEMENTS": False}, False),
        ({"TESTING": False, "POOLED_DB_RECORD_STATEMENTS": True}, True),
    ],
)
def test_when_recorded(config: dict[str, Any], is_recorded: bool) -> None:
    """It is on while the app is tested or debugged, unless the key says otherwise; an app that does
    not record has nothing on record.
    """
    with recorded_app(**config) as (app, db), app.app_context():
        db.fetch_all("SELECT 1")
        assert texts(db) == (["SELECT 1"] if is_recorded else [])


def test_tested_later() -> None:
    """An app may be said to be tested after `init_app`, and not to be any more."""
    with recorded_app(TESTING=False) as (app, db), app.app_context():
        app.testing = True
        db.fetch_all("SELECT 1")
        app.testing = False
        db.fetch_all("SELECT 2")
        assert texts(db) == ["SELECT 1"]


def test_outside_of_context() -> None:
    """Outside of an app context there is nothing to record in, and to ask is an error."""
    with recorded_app() as (app, db):
        with db.connection_context() as conn:
            conn.execute("SELECT 1")
        with pytest.raises(UsageError, match="no application context"):
            db.recorded_statements()
        with app.app_context():
            assert texts(db) == []


def test_requests_and_threads() -> None:
    """Each app context has its own record; a thread's statements belong to the context it is in."""
    with recorded_app() as (app, db):
        seen: dict[str, list[str]] = {}

        def view(name: str) -> str:
            db.fetch_all(f"SELECT '{name}'")
            together.wait(10)
            seen[name] = texts(db)
            return ""

        together = threading.Barrier(2)
        client = serve(app, "/<name>", view)
        threads = [threading.Thread(target=client.get, args=(f"/{name}",)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert seen == {"a": ["SELECT 'a'"], "b": ["SELECT 'b'"]}
        with app.app_context():
            context = contextvars.copy_context()
            worker = threading.Thread(target=context.run, args=(db.fetch_all, "SELECT 'copied'"))
            worker.start()
            worker.join(10)
            stranger = threading.Thread(target=db.fetch_all, args=("SELECT 'alone'",))
            stranger.start()
            stranger.join(10)
            assert texts(db) == ["SELECT 'copied'"]


def test_two_apps() -> None:
    """A statement on another app's database is not on record in this app's context."""
    with recorded_app() as (one, first), recorded_app() as (_, second):
        with one.app_context():
            pool = next(iter(second.states)).pool(None)
            with pool.connection() as conn:
                conn.execute("SELECT 1")
            assert texts(first) == []


def test_async_view(url: str) -> None:
    """What a task runs is on record in the context of its request, with its own line."""
    with recorded_app(url) as (app, db), app.app_context():
        line = sys._getframe().f_lineno

        async def work() -> None:
            async with db.async_connection_context() as conn, conn.cursor() as cur:
                await asyncio.gather(cur.execute("SELECT 1"), asyncio.sleep(0))

        asyncio.run(work())
        [statement] = db.recorded_statements()
    assert (statement.file, statement.line) == (__file__, line + 4)


def test_bounds() -> None:
    """A context keeps a thousand statements, and ten thousand characters of each."""
    with recorded_app() as (app, db), app.app_context():
        with db_connection_context() as conn:
            conn.execute(f"SELECT '{'x' * (LONGEST + 10)}'")
            for _ in range(MOST + 5):
                conn.execute("SELECT 1")
        recorded = db.recorded_statements()
    assert (len(recorded), len(recorded[0].text)) == (MOST, LONGEST) == (1000, 10_000)


def repeats(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in warnings_in(caplog) if text.startswith("N+1")]


def test_repeats(caplog: pytest.LogCaptureFixture) -> None:
    """A statement that one line ran more than ten times in a request is logged, once, at the end of
    the request, with how often and where.
    """
    with recorded_app() as (app, db):
        lines: list[int] = []

        def page(count: int) -> str:
            for _ in range(3):
                for number in range(count):
                    lines[:] = [sys._getframe().f_lineno + 1]
                    db.fetch_all("SELECT %s, 'other'" if number % 2 else "SELECT %s", (number,))
            return ""

        client = serve(app, "/<int:count>", page)
        client.get("/6")  # nine times each
        assert repeats(caplog) == []
        client.get("/9")
        [text] = repeats(caplog)
    assert text == (
        f"N+1: a statement was run 15 times by endpoint 'page' at {__file__}:{lines[0]}, on "
        "bind 'default': fetch what it asks for in one statement, or use executemany(): SELECT ?"
    )


def test_repeats_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    """The same statement from several lines, or in several requests, is none; nor is one
    executemany(), whatever it does.
    """
    with recorded_app() as (app, db):
        for _ in range(REPEATS + 1):
            with app.app_context():
                db.fetch_all("SELECT 1")
        with app.app_context(), db_connection_context() as conn:
            conn.execute("CREATE TABLE t (a)")
            conn.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(50)])
            for _ in range(REPEATS):
                conn.execute("SELECT 2")
            for _ in range(REPEATS):
                conn.execute("SELECT 2")
    assert repeats(caplog) == []


def test_repeats_of_leaked_connection(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged also if the request fails, and has left a connection behind."""
    with recorded_app(TESTING=False, POOLED_DB_RECORD_STATEMENTS=True) as (app, _):

        def page() -> str:
            conn = get_db_connection()
            for _ in range(REPEATS + 1):
                conn.execute("SELECT 1")
            raise LookupError

        assert serve(app, "/", page).get("/").status_code == 500
    [line] = repeats(caplog)
    assert "was run 11 times by endpoint 'page' at" in line


def test_a_statement_that_a_deadline_ends() -> None:
    """A statement that a deadline has ended is on record, with its error; one that the deadline has
    kept from being sent is not.
    """
    with recorded_app() as (app, db), app.app_context(), db.deadline(0.2):
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                db.fetch_all(ENDLESS)
        (statement,) = db.recorded_statements()
    assert (statement.text, statement.error) == (ENDLESS, "DeadlineExceeded")
    assert statement.duration > 0.1
