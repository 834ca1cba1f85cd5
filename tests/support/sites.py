"""Apps with a table, for the tests of what a view does with the extension."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_pooled_db import PooledDB, PoolStats, db_connection_context
from harness.waiting import PATIENCE

CREATE = "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(20))"


def insert(conn: Any, id_: int) -> None:
    """A row, in the connection's transaction."""
    with conn.cursor() as cur:
        cur.execute("INSERT INTO t VALUES (%s, %s)", (id_, "x"))


def ids(bind: str | None = None) -> list[int]:
    """What is committed, or what the block around sees."""
    with db_connection_context(bind) as conn, conn.cursor() as cur:
        cur.execute("SELECT id FROM t ORDER BY id")
        return [id_ for (id_,) in cur.fetchall()]


@contextlib.contextmanager
def bare_app(**settings: Any) -> Iterator[tuple[Flask, PooledDB]]:
    """An app with the table `t`, outside of its context; the pools are closed at the end."""
    app = Flask("app_under_test")
    keys = {"mincached": 0, **settings}
    app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in keys.items()})
    db = PooledDB(app)
    try:
        # With patience, also where the settings give callers little time.
        with app.app_context(), db_connection_context(timeout=PATIENCE) as conn:
            conn.cursor().execute(CREATE)
        yield app, db
    finally:
        db.close()


def pool_of(app: Flask, db: PooledDB) -> PoolStats:
    with app.app_context():
        return db.stats()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the extension warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "flask_pooled_db" and record.levelno >= logging.WARNING
    ]


def serve(app: Flask, path: str, view: Callable[..., Any], **options: Any) -> FlaskClient:
    """The client of an app with this view."""
    app.add_url_rule(path, view_func=view, **options)
    return app.test_client()


def line_of(function: Callable[..., object], offset: int) -> str:
    """The place of a line of a function, as messages name it."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno + offset}"
