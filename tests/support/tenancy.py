"""Tenants by schema on a real server, each with a table of the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from harness.server import SCHEMES, MariaDBServer
from tests.support.apps import pooled_app

SERVER = "server"
TENANTS = ("red", "blue", "green")
BINDS = (*TENANTS, SERVER)


@dataclass(frozen=True)
class Tenancy:
    """Three tenants of a server, and the server's own bind; each has a table `t`."""

    driver: str
    app: Flask
    db: PooledDB
    schemas: Mapping[str, str]
    """The schema of each bind, the server's own one too."""
    query: Callable[[str], list[Any]]
    """Runs SQL on a connection that takes no part."""
    kill: Callable[[Any], None]
    """Ends a connection, given a cursor of it, from the server's side."""

    def committed(self) -> dict[str, list[str]]:
        """The rows of each bind's table."""
        return {
            bind: sorted(
                row[0] for row in self.query(f"SELECT v FROM {quoted(self.driver, name)}.t")
            )
            for bind, name in self.schemas.items()
        }

    def clear(self) -> None:
        """Leave every table empty."""
        for name in self.schemas.values():
            self.query(f"DELETE FROM {quoted(self.driver, name)}.t")

    def current(self, cursor: Any) -> str:
        """The schema that a cursor's connection is in."""
        function = "current_schema()" if self.driver == "psycopg" else "DATABASE()"
        cursor.execute(f"SELECT {function}")
        name: str = cursor.fetchone()[0]
        return name

    def where(self, bind: str, **options: Any) -> str:
        """The schema that a lease of a bind is in."""
        with self.db.connection_context(bind, **options) as conn, conn.cursor() as cur:
            return self.current(cur)


def quoted(driver: str, name: str) -> str:
    """The name as an identifier."""
    mark = '"' if driver == "psycopg" else "`"
    return mark + name.replace(mark, mark * 2) + mark


def insert(conn: Any, value: str) -> None:
    """Insert one row."""
    with conn.cursor() as cur:
        cur.execute("INSERT INTO t VALUES (%s)", (value,))


def binds_of(url: str, schemas: Mapping[str, str], **settings: Any) -> dict[str, Any]:
    """The configuration of a server at a URL, and of tenants in these schemas."""
    keys = {"MINCACHED": 0, **{name.upper(): value for name, value in settings.items()}}
    tenants = {
        bind: {"SERVER": SERVER, "SCHEMA": name} for bind, name in schemas.items() if bind != SERVER
    }
    return {SERVER: {"URL": url, **keys}, **tenants}


@contextmanager
def on_mariadb(server: MariaDBServer, driver: str, **settings: Any) -> Iterator[Tenancy]:
    """Tenants on a MariaDB. `port` among the settings is that of a proxy."""
    port = settings.pop("port", server.port)
    schemas = {bind: server.create_database() for bind in BINDS}
    for name in schemas.values():
        server.execute(f"CREATE TABLE `{name}`.t (v VARCHAR(20)) ENGINE=InnoDB")

    def kill(cursor: Any) -> None:
        cursor.execute("SELECT CONNECTION_ID()")
        server.kill_connection(cursor.fetchone()[0])

    def query(sql: str) -> list[Any]:
        return list(server.query(sql))

    url = server.url(driver, schemas[SERVER], port=port)
    with pooled_app(None, binds=binds_of(url, schemas, **settings)) as (app, db):
        yield Tenancy(driver, app, db, schemas, query, kill)


@contextmanager
def on_postgresql(url: str, **settings: Any) -> Iterator[Tenancy]:
    """Tenants on a PostgreSQL. `port` among the settings is that of a relay."""
    schemas = {bind: bind for bind in TENANTS} | {SERVER: "public"}
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as own:
        for name in schemas.values():
            own.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
            own.execute(f"CREATE SCHEMA {name}")
            own.execute(f"CREATE TABLE {name}.t (v VARCHAR(20))")

        def query(sql: str) -> list[Any]:
            cursor = own.execute(sql)
            return cursor.fetchall() if cursor.description else []

        def kill(cursor: Any) -> None:
            cursor.execute("SELECT pg_backend_pid()")
            query(f"SELECT pg_terminate_backend({cursor.fetchone()[0]}, 5000)")

        reached = url.replace(f":{own.info.port}/", f":{settings.pop('port', own.info.port)}/")
        with pooled_app(None, binds=binds_of(reached, schemas, **settings)) as (app, db):
            yield Tenancy("psycopg", app, db, schemas, query, kill)


Open = Callable[..., Any]

DRIVERS = [
    *(pytest.param(name, marks=pytest.mark.shared_server) for name in SCHEMES),
    "psycopg",
]


def opener(request: pytest.FixtureRequest, driver: str) -> Open:
    """What opens tenants on the shared server of a driver, given settings of its pool."""

    def open_(**settings: Any) -> Any:
        if driver == "psycopg":
            return on_postgresql(request.getfixturevalue("postgresql"), **settings)
        return on_mariadb(request.getfixturevalue("mariadb"), driver, **settings)

    return open_
