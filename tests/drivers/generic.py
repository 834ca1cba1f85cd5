"""PostgreSQL through modules that the package does not know."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pg8000.dbapi
import psycopg2

MODULES: dict[str, Any] = {"psycopg2": psycopg2, "pg8000": pg8000.dbapi}


def arguments(url: str) -> dict[str, Any]:
    """The connect arguments for a throw-away server; both modules take the same ones."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    return {"host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres"}


def keys(module: ModuleType, url: str) -> dict[str, Any]:
    """The configuration keys of a pool of such a module."""
    return {"creator": module, "connect_args": arguments(url)}


def value(conn: Any, sql: str) -> Any:
    """The first value that a query returns."""
    cursor = conn.cursor()
    cursor.execute(sql)
    row = cursor.fetchone()
    cursor.close()
    return row[0]
