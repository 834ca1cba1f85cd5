"""The reference of what goes wrong: the pool and the context manager that people write by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import mariadb
import pymysql
from dbutils.pooled_db import PooledDB

from harness.processes import Managed
from harness.server import MariaDBServer

DRIVERS: dict[str, ModuleType] = {"pymysql": pymysql, "mariadbconnector": mariadb}


class NaiveDB(Managed):
    """DBUtils' `PooledDB` as its documentation shows it, and a context manager around it.

    `creator` is a DB-API 2 module and `connect_args` are its own. Nothing here is made worse on
    purpose, and nothing better: what the extension promises is what this does not hold.
    """

    def __init__(
        self,
        creator: ModuleType,
        *,
        mincached: int = 0,
        maxcached: int = 10,
        maxconnections: int = 20,
        **connect_args: Any,
    ) -> None:
        self.pool = PooledDB(
            creator=creator,
            mincached=mincached,
            maxcached=maxcached,
            maxconnections=maxconnections,
            blocking=True,
            ping=1,
            **connect_args,
        )

    @classmethod
    def on_mariadb(
        cls, server: MariaDBServer, driver: str, database: str, *, port: int | None = None
    ) -> NaiveDB:
        """One for a database of a test server, by the driver's name in URLs."""
        return cls(DRIVERS[driver], **server.connect_args(database, port=port))

    @classmethod
    def on_sqlite(cls, path: Path) -> NaiveDB:
        """One for a SQLite file."""
        return cls(sqlite3, database=str(path), check_same_thread=False)

    def close(self) -> None:
        """Close the idle connections; those in use close when they are given back."""
        self.pool.close()

    @contextmanager
    def db_connection_context(self, bind: str | None = None, **ignored: object) -> Iterator[Any]:
        """Lend a connection, commit or roll back; takes the extension's options, ignores them."""
        connection = self.pool.connection()
        try:
            yield connection
            connection.commit()
        except Exception:
            connection.rollback()
            raise
        finally:
            connection.close()

    # The extension's method has this name.
    connection_context = db_connection_context
