"""Which database a pool is of, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from flask_pooled_db.config import DatabaseURL, PoolConfig
from flask_pooled_db.drivers import Driver
from flask_pooled_db.telemetry.conventions import POOL_NAME

_SYSTEMS = {
    **dict.fromkeys(("mysql", "MySQLdb", "pymysql", "mysql.connector"), "mysql"),
    "mariadb": "mariadb",
    **dict.fromkeys(("postgresql", "psycopg", "psycopg2", "pg8000"), "postgresql"),
    **dict.fromkeys(("sqlite", "sqlite3", "sqlcipher", "sqlcipher3"), "sqlite"),
}
_DATABASE_ARGUMENTS = ("database", "db", "dbname")
_IS_NO_NAME = re.compile(r"[=@]|://")  # but a DSN, which may hold a password

Attributes = dict[str, Any]


class Site:
    """The database of a pool, as those who watch it are told of it: without any password."""

    def __init__(self, bind: str, config: PoolConfig, driver: Driver) -> None:
        url, given = config.url, config.connect_args
        # If a function tells its URL, the first connect tells which one it is.
        self._driver = driver
        url = url if isinstance(url, DatabaseURL) else DatabaseURL("")
        self._servers: list[tuple[Any, Any]] = [
            (host, port) for host, port in url.hosts if _plain(host)
        ]
        host, port = url.hosts[0] if len(url.hosts) == 1 else (None, None)
        found = {
            POOL_NAME: bind,
            "db.system.name": _SYSTEMS.get(url.dialect),
            "db.namespace": _name_of(url.database or _database_in(given)),
            "server.address": host or _plain(given.get("host")) or _plain(given.get("unix_socket")),
            "server.port": port or given.get("port"),
        }
        self.attributes = {name: value for name, value in found.items() if value is not None}

    def at(self, where: Mapping[str, Any], **more: Any) -> Attributes:
        """Return the attributes of a span of a connection to one of several servers."""
        attributes = {"db.system.name": self._system, **self.attributes, **more}
        for name, key in (("server.address", "host"), ("server.port", "port")):
            if where.get(key) is not None:
                attributes[name] = where[key]
        return attributes

    @property
    def _system(self) -> str:
        return _SYSTEMS.get(self._driver.name, "other_sql")

    @property
    def label(self) -> str:
        """What people are shown: the system, the servers, the database."""
        known = self.attributes
        address = known.get("server.address"), known.get("server.port")
        servers = self._servers or ([] if address[0] is None else [address])
        where = ",".join(str(host) if port is None else f"{host}:{port}" for host, port in servers)
        database = known.get("db.namespace")
        place = where if database is None else f"{where}/{database}" if where else database
        return f"{known.get('db.system.name', self._system)} {place}".rstrip()

    def named(self, operation: str | None) -> str:
        """Return the name of a span."""
        known = self.attributes
        target = known.get("db.namespace") or known.get("server.address")
        parts = [str(part) for part in (operation, target) if part]
        return " ".join(parts) or str(known.get("db.system.name", self._system))


def _database_in(given: Mapping[str, Any]) -> Any:
    return next((given[name] for name in _DATABASE_ARGUMENTS if name in given), None)


def _name_of(database: Any) -> str | None:
    """Return the name of a database; that of a file without its folders."""
    if not isinstance(database, str) or _IS_NO_NAME.search(database):
        return None
    return PurePath(database).name or None


def _plain(value: Any) -> str | None:
    return value if isinstance(value, str) and not _IS_NO_NAME.search(value) else None
