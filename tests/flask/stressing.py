"""Running `flask pooled-db stress`, and looking at what it does."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result
from flask import Flask

from flask_pooled_db import PooledDB
from harness.server import MariaDBServer

SHORT = ("--seconds=0.5", "--clients=4")

Site = tuple[Flask, PooledDB]
Disturb = Callable[[Site, Callable[[], None], Callable[[], object]], Result]


def make(**settings: Any) -> Site:
    app = Flask("app_under_test")
    keys = {"mincached": 0, "runtime_dir": False, **settings}
    app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in keys.items()})
    return app, PooledDB(app)


def stress(site: Site, *args: str) -> Result:
    """Run the command on a database, or what `args` say."""
    return site[0].test_cli_runner().invoke(args=["pooled-db", "stress", *args])


def told(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def tables(file: Path) -> list[str]:
    """The tables of an SQLite file."""
    with contextlib.closing(sqlite3.connect(file)) as other:
        rows = other.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return [name for (name,) in rows]


def made(file: Path) -> bool:
    """Whether the command has made its tables, and filled them."""
    if not file.exists() or len(tables(file)) < 2:
        return False
    with contextlib.closing(sqlite3.connect(file)) as other:
        return bool(other.execute(f"SELECT COUNT(*) FROM {tables(file)[1]}").fetchone()[0])


def tables_on(server: MariaDBServer, database: str) -> list[str]:
    """The tables of a database."""
    listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
    return sorted(table for (table,) in server.query(listed, database))


def has_moved(server: MariaDBServer, database: str) -> bool:
    """Whether the command is at work there."""
    return moves(server, database) > 0


def moves(server: MariaDBServer, database: str) -> int:
    """How many moves have been committed there."""
    found = tables_on(server, database)
    if len(found) != 2:
        return 0
    ((count,),) = server.query(f"SELECT COUNT(*) FROM `{database}`.{found[1]}")
    return int(count)
