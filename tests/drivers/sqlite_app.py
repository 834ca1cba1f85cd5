"""Statements in an app on SQLite."""

from __future__ import annotations

from typing import Any

from flask import Flask

from flask_pooled_db import db_connection_context
from tests.support.pools import Caller, call


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
