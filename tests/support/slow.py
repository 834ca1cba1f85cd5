"""Databases with a statement that takes as long as it likes: for limits of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from tests.support.apps import pooled_app
from tests.support.stages import ENDLESS, ON_SHARED_SERVER

EVERY_DRIVER = ["sqlite", "psycopg", *ON_SHARED_SERVER]
"""The drivers, as parameters of what calls `slow_site()`."""

_SLOW = {"sqlite": ENDLESS, "psycopg": "SELECT pg_sleep(60)"}


@dataclass(frozen=True)
class Slow:
    """An app, and a statement for its database that takes longer than any test."""

    driver: str
    app: Flask
    db: PooledDB
    statement: str

    def ids(self) -> list[int]:
        """What is committed, or what the block around sees."""
        return [row[0] for row in self.db.fetch_all("SELECT id FROM slow ORDER BY id")]


def insert(conn: Any, number: int) -> None:
    """A row, in the connection's transaction."""
    with conn.cursor() as cur:
        cur.execute("INSERT INTO slow VALUES (%s)", (number,))


def run(conn: Any, sql: str) -> Any:
    """Run a statement, and return its rows."""
    with conn.cursor() as cur:
        cur.execute(sql)
        return cur.fetchall()


@contextmanager
def slow_site(request: pytest.FixtureRequest, folder: Path, **settings: Any) -> Iterator[Slow]:
    """The app with a driver, which the parameter of a fixture names, and the empty table `slow`."""
    driver: str = request.param
    if driver == "sqlite":
        url = f"sqlite:///{folder / 'slow.db'}"
    elif driver == "psycopg":
        url = request.getfixturevalue("shared_postgresql")
    else:
        server = request.getfixturevalue("mariadb")
        url = server.url(driver, server.create_database())
    with pooled_app(url, **settings) as (app, db):
        db.execute("DROP TABLE IF EXISTS slow")
        db.execute("CREATE TABLE slow (id INT PRIMARY KEY)")
        yield Slow(driver, app, db, _SLOW.get(driver, "SELECT SLEEP(60)"))
