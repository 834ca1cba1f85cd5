"""An app in which everything has happened that is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask

from flask_pooled_db import PooledDB, PoolTimeout, TransactionAborted, get_db_connection

ANY = 1e-9
"""Seconds that every statement takes."""


@contextlib.contextmanager
def busy_app(folder: Path, **settings: Any) -> Iterator[tuple[Flask, PooledDB]]:
    """The app, in which a request has done all kinds of things, and the endpoint `busy` with it."""
    given = {"maxconnections": 1, "slow_statement": ANY, "runtime_dir": folder, "mincached": 0}
    url = {"url": f"sqlite:///{folder}/busy.sqlite"}
    app = Flask("busy")
    for name, value in {**url, **given, **settings}.items():
        app.config[f"POOLED_DB_{name.upper()}"] = value
    db = PooledDB(app)
    app.register_blueprint(db.metrics_blueprint())
    app.add_url_rule("/busy", "busy", lambda: work(db))
    try:
        app.test_client().get("/busy")
        yield app, db
    finally:
        db.close()


def work(db: PooledDB) -> str:
    """Do what is counted, each in one way at least."""
    with db.connection_context() as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER)")
        conn.execute("INSERT INTO t VALUES (1)")
        with contextlib.suppress(PoolTimeout), db.connection_context(independent=True, timeout=0):
            pass
    with contextlib.suppress(ZeroDivisionError), db.connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (2)")
        _fail()
    with contextlib.suppress(TransactionAborted), db.connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (3)")
        with contextlib.suppress(ZeroDivisionError), db.connection_context(savepoint=False):
            _fail()
    with db.connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (4)")
        conn.execute("COMMIT")
    db.pool().drain()
    get_db_connection().execute("SELECT 1")  # and forgets it
    return "done"


def _fail() -> None:
    raise ZeroDivisionError
