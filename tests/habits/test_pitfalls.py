"""The pitfalls of docs/moving.md: each of its messages comes when the page says so."""

from __future__ import annotations

import gc
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask, g, stream_with_context

from flask_pooled_db import PooledDB, get_db_connection
from tests.habits.page import PAGE
from tests.support.apps import pooled_app
from tests.support.sites import CREATE, warnings_in

INSERT = "INSERT INTO t VALUES (1, 'x')"
SHOWN = re.findall(r"^\| `(.+?)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """An app with two tables; a request may hold one connection, and gets no second one.

    Where the app was started there is a file that sqlite3 would have opened.
    """
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("shop.db")) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    app = Flask("app_under_test", instance_path=str(tmp_path / "instance"))
    app.config["POOLED_DB_URL"] = "sqlite:///shop.db"
    app.config["POOLED_DB_MAXCONNECTIONS"] = 1
    app.config["POOLED_DB_ACQUIRE_TIMEOUT"] = 0.1
    app.config["PROPAGATE_EXCEPTIONS"] = True
    db = PooledDB(app)
    db.run_script(f"{CREATE}; CREATE TABLE item (t_id INTEGER REFERENCES t (id))")
    yield app
    db.close()


def forget_close(db: PooledDB) -> None:
    g.kept = get_db_connection()


def forget_commit(db: PooledDB) -> None:
    conn = get_db_connection()
    conn.cursor().execute(INSERT)
    conn.close()


def switch_autocommit_on(db: PooledDB) -> None:
    db.connection.autocommit = True


def stream(db: PooledDB) -> Any:
    conn = get_db_connection()
    return stream_with_context(str(row) for row in conn.cursor().execute(INSERT))


def use_after_with(db: PooledDB) -> None:
    g.db = get_db_connection()
    with g.db:
        g.db.cursor().execute(INSERT)
    g.db.cursor()


def take_two(db: PooledDB) -> None:
    db.connection.cursor().execute(INSERT)
    db.fetch_all("SELECT * FROM t")


def join_by_name(db: PooledDB) -> None:
    with db.connection_context(rows="dict") as conn, conn.cursor() as cur:
        cur.execute("SELECT 1 AS id, 2 AS id")
        cur.fetchall()


def break_reference(db: PooledDB) -> None:
    db.execute("INSERT INTO item VALUES (99)")


def run_without_context(db: PooledDB) -> None:
    get_db_connection()


def drop_app(db: PooledDB) -> None:
    db = PooledDB()
    db.init_app(Flask("app_under_test"))
    gc.collect()
    db.execute(INSERT)


def go_on_after_error(db: PooledDB) -> None:
    cur = db.connection.cursor()
    cur.execute("CREATE TABLE only_one (id INTEGER PRIMARY KEY)")
    for _ in range(3):
        with suppress(db.connection.IntegrityError):
            cur.execute("INSERT INTO only_one VALUES (1)")


def look_elsewhere(db: PooledDB) -> None:
    db.execute("INSERT INTO orders VALUES (1)")


IN_A_VIEW: dict[str, Callable[[PooledDB], Any]] = {
    "was not given back by": forget_close,
    "was rolled back: the connection taken at": forget_commit,
    "autocommit can't be set": switch_autocommit_on,
    "was taken back when its app context ended": stream,
    "this connection was released": use_after_with,
    "no connection in": take_two,
    "have the same name": join_by_name,
    "FOREIGN KEY constraint failed": break_reference,
    "no such table": look_elsewhere,
}
OUTSIDE: dict[str, Callable[[PooledDB], Any]] = {
    "there is no application context": run_without_context,
    "this PooledDB serves no app": drop_app,
}
ON_POSTGRESQL = {"current transaction is aborted": go_on_after_error}


def test_pitfalls_listed() -> None:
    """The page's messages are those that are tested."""
    assert sorted(SHOWN) == sorted(IN_A_VIEW | OUTSIDE | ON_POSTGRESQL)


@pytest.mark.parametrize("message", list(IN_A_VIEW))
def test_pitfalls_in_view(message: str, app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A view that does what the page says is told so, by an error or in the log."""
    db = app.extensions["pooled_db"].extension
    app.add_url_rule("/", view_func=lambda: IN_A_VIEW[message](db) or "", endpoint="view")
    errors = []
    with caplog.at_level(logging.WARNING, "flask_pooled_db"):
        try:
            app.test_client().get("/")
        except Exception as error:
            errors.append(str(error))
    assert message in "\n".join([*errors, *warnings_in(caplog)])


@pytest.mark.parametrize("message", list(OUTSIDE))
def test_pitfalls_outside(message: str, app: Flask) -> None:
    """What runs without an app context, and can't, is told so."""
    db = app.extensions["pooled_db"].extension
    with pytest.raises(RuntimeError, match=message):
        OUTSIDE[message](db)


@pytest.mark.parametrize("message", list(ON_POSTGRESQL))
def test_pitfalls_on_postgresql(message: str, postgresql: str) -> None:
    """Work that goes on after an error is told that it can't."""
    with pooled_app(postgresql) as (_, db), pytest.raises(psycopg.Error, match=message):
        ON_POSTGRESQL[message](db)
