"""A Flask application with the extension, for tests of what the extension does inside one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask

from flask_pooled_db import PooledDB


@contextmanager
def pooled_app(url: Any = None, **settings: Any) -> Iterator[tuple[Flask, PooledDB]]:
    """An application and its extension, inside an app context; the pools are closed at the end.

    `settings` are configuration keys without their prefix, in lower case. Nothing is opened ahead
    unless they say so: a test counts what it caused itself.
    """
    app = Flask("app_under_test")
    given = {"mincached": 0, **settings} | ({"url": url} if url else {})
    app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in given.items()})
    db = PooledDB(app)
    try:
        with app.app_context():
            yield app, db
    finally:
        db.close()
