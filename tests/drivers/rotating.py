"""Servers with a user whose password rotates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from harness.server import SCHEMES, MariaDBServer

USER = "rotating"
DATABASES = ["pymysql", "mariadbconnector", "psycopg"]


@dataclass(frozen=True)
class Rotating:
    """A server with the user whose password rotates."""

    parts: dict[str, Any]
    """The parts of its URL, without the password."""
    set_password: Callable[[str], object]


@contextlib.contextmanager
def on_postgresql(url: str) -> Iterator[Rotating]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as own:
        alter = psycopg.sql.SQL("ALTER USER {} PASSWORD {}").format
        name = psycopg.sql.Identifier(USER)
        parts = {"host": "127.0.0.1", "port": own.info.port, "database": "postgres"}
        yield Rotating(
            {"drivername": "postgresql", "username": USER, **parts},
            lambda password: own.execute(alter(name, password)),
        )


@contextlib.contextmanager
def on_mariadb(server: MariaDBServer, driver: str) -> Iterator[Rotating]:
    server.execute(f"CREATE USER '{USER}'@'%'")
    try:
        where = {"host": server.host, "port": server.port}
        yield Rotating(
            {"drivername": SCHEMES[driver], "username": USER, **where},
            lambda password: server.execute(f"ALTER USER '{USER}'@'%%' IDENTIFIED BY %s", password),
        )
    finally:
        server.execute(f"DROP USER '{USER}'@'%'")
