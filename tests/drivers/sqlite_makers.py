"""Functions of an application's own that connect to SQLite."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

connect_by_name = sqlite3.connect  # as an application may import it by name


class OwnConnection(sqlite3.Connection):
    """An application's own class of connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.row_factory = sqlite3.Row

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        return super().cursor(factory)

    def double(self, value: int) -> int:
        """Return twice the value, as the database has it."""
        (result,) = self.execute("SELECT 2 * ?", (value,)).fetchone()
        return int(result)


Maker = Callable[[Path], Any]


def bare(path: Path) -> Any:
    return lambda: sqlite3.connect(path)


def of_database(path: Path) -> Any:
    def connect(database: str) -> Any:
        return sqlite3.connect(database, 5.0, sqlite3.PARSE_DECLTYPES, check_same_thread=False)

    return connect


def with_own_class(path: Path) -> Any:
    return lambda: sqlite3.connect(path, factory=OwnConnection)


def with_own_class_by_position(path: Path) -> Any:
    arguments: Any = (path, 5.0, 0, "", True, OwnConnection, 16)
    return lambda: sqlite3.dbapi2.connect(*arguments)


def with_settings(path: Path) -> Any:
    def connect() -> Any:
        conn = sqlite3.connect(path, isolation_level=None, cached_statements=0)
        conn.row_factory = sqlite3.Row
        conn.create_function("twice", 1, lambda value: 2 * value)
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute("PRAGMA synchronous = OFF")
        return conn

    return connect


def with_keywords(path: Path) -> Any:
    def connect(**kwargs: Any) -> Any:
        assert "factory" not in kwargs
        return sqlite3.connect(path, **kwargs)

    return connect


def with_factory(path: Path) -> Any:
    def connect(factory: Any) -> Any:
        return connect_by_name(path, factory=factory)

    return connect


def with_class_of_factory(path: Path) -> Any:
    def connect(factory: Any = sqlite3.Connection) -> Any:
        return connect_by_name(path, factory=type("Both", (OwnConnection, factory), {}))

    return connect


def partial(path: Path) -> Any:
    return functools.partial(sqlite3.connect, path, timeout=1)


def partial_with_own_class(path: Path) -> Any:
    return functools.partial(sqlite3.connect, path, factory=OwnConnection)


def creator_object(path: Path) -> Any:
    class Creator:
        """An object with a method that connects."""

        dbapi = sqlite3
        threadsafety = 1

        def connect(self) -> Any:
            """Connect."""
            return sqlite3.connect(path)

    return Creator()


MAKERS: list[Maker] = [
    *(bare, of_database, with_own_class, with_own_class_by_position, with_settings, with_keywords),
    *(with_factory, with_class_of_factory, partial, partial_with_own_class, creator_object),
]
