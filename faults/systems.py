"""The pools that are put to the test, each with its own defaults and as its users use it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import quote

import mariadb
import psycopg
import psycopg_pool
import pymysql
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from faults.databases import MARIADB, POSTGRESQL, Place
from flask_pooled_db import (
    CommitOutcomeUnknown,
    ConnectFailed,
    PooledDB,
    PoolTimeout,
    TransactionAborted,
    db_connection_context,
    get_db_connection,
)
from harness.naive import NaiveDB
from harness.server import APP_PASSWORD, APP_USER

Work = Callable[[Any], object]


class System:
    """A pool under test."""

    title: ClassVar[str]
    is_ours: ClassVar[bool] = False
    database: ClassVar[str] = MARIADB
    """The kind of server that it is on."""
    app: Flask
    maxconnections: int
    """How many connections it may have open, in a process."""

    def __init__(self, place: Place, **settings: Any) -> None:
        """`settings`: `maxconnections`, and for the extension any key in lower case."""
        raise NotImplementedError

    def transact(self, work: Work) -> None:
        """Call `work(connection)` in a transaction of its own, inside an app context."""
        raise NotImplementedError

    def borrow(self) -> Any:
        """A connection that its user is to give back."""
        raise NotImplementedError

    def in_use(self) -> int:
        """How many connections are lent now."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what can be closed."""
        raise NotImplementedError


class Ours(System):
    """The extension, in plain scopes."""

    title = "flask_pooled_db"
    is_ours = True
    driver: ClassVar[str] = "pymysql"
    maxconnections = 20

    def __init__(self, place: Place, **settings: Any) -> None:
        self.app = Flask("faults")
        given = {"url": self._url(place), **settings}
        self.app.config.update({f"POOLED_DB_{name.upper()}": given[name] for name in given})
        self.db = PooledDB(self.app)
        with self.app.app_context():
            self._pool = self.db.pool()
        self.maxconnections = settings.get("maxconnections", self.maxconnections)

    def _url(self, place: Place) -> str:
        return place.url(self.driver)

    def transact(self, work: Work) -> None:
        with db_connection_context() as connection:
            work(connection)

    def borrow(self) -> Any:
        return get_db_connection()

    def in_use(self) -> int:
        return self._pool.stats().in_use

    def close(self) -> None:
        self.db.close(timeout=2.0)


class OursRetrying(Ours):
    """The extension, with `run_transaction`."""

    title = "flask_pooled_db, run_transaction"

    def transact(self, work: Work) -> None:
        self.db.run_transaction(work)


class OursOnConnector(Ours):
    """The extension on MariaDB Connector/Python."""

    title = "flask_pooled_db on mariadb"
    driver = "mariadbconnector"


class OursOnPsycopg(Ours):
    """The extension on psycopg."""

    title = "flask_pooled_db on psycopg"
    database = POSTGRESQL

    def _url(self, place: Place) -> str:
        return place.conninfo


class OursRetryingOnPsycopg(OursOnPsycopg, OursRetrying):
    """The extension on psycopg, with `run_transaction`."""

    title = "flask_pooled_db on psycopg, run_transaction"


class Naive(System):
    """DBUtils' `PooledDB` with the usual context manager, on PyMySQL."""

    title = "DBUtils"
    maxconnections = 20

    def __init__(self, place: Place, **settings: Any) -> None:
        self.app = Flask("faults")
        self.maxconnections = settings.get("maxconnections", self.maxconnections)
        self._db = NaiveDB(pymysql, maxconnections=self.maxconnections, **place.arguments)

    def transact(self, work: Work) -> None:
        with self._db.db_connection_context() as connection:
            work(connection)

    def borrow(self) -> Any:
        return self._db.pool.connection()

    def in_use(self) -> int:
        return int(self._db.pool._connections)

    def close(self) -> None:
        self._db.close()


class OnSQLAlchemy(System):
    """Flask-SQLAlchemy's engine with raw connections, on PyMySQL."""

    title = "Flask-SQLAlchemy"
    maxconnections = 15

    def __init__(self, place: Place, **settings: Any) -> None:
        self.app = Flask("faults")
        password = quote(APP_PASSWORD, safe="")
        host, port = place.hosts[0]
        self.app.config["SQLALCHEMY_DATABASE_URI"] = (
            f"mysql+pymysql://{APP_USER}:{password}@{host}:{port}/{place.database}"
        )
        if "maxconnections" in settings:
            self.maxconnections = settings["maxconnections"]
            sizes = {"pool_size": self.maxconnections, "max_overflow": 0}
            self.app.config["SQLALCHEMY_ENGINE_OPTIONS"] = sizes
        self.db = SQLAlchemy(self.app)
        with self.app.app_context():
            self._engine = self.db.engine

    def transact(self, work: Work) -> None:
        connection = self.db.engine.raw_connection()
        try:
            work(connection)
            connection.commit()
        except Exception:
            connection.rollback()
            raise
        finally:
            connection.close()

    def borrow(self) -> Any:
        return self.db.engine.raw_connection()

    def in_use(self) -> int:
        return int(self._engine.pool.checkedout())  # type: ignore[attr-defined]

    def close(self) -> None:
        self._engine.dispose()


class ConnectorPool(System):
    """MariaDB Connector/Python's own pool."""

    title = "mariadb.ConnectionPool"
    maxconnections = 10
    _numbers = itertools.count()

    def __init__(self, place: Place, **settings: Any) -> None:
        self.app = Flask("faults")
        self.maxconnections = settings.get("maxconnections", self.maxconnections)
        self._pool = mariadb.ConnectionPool(
            pool_name=f"faults_{os.getpid()}_{next(self._numbers)}",
            pool_size=self.maxconnections,
            **place.arguments,
        )

    def transact(self, work: Work) -> None:
        connection = self._pool.get_connection()
        try:
            work(connection)
            connection.commit()
        except Exception:
            connection.rollback()
            raise
        finally:
            connection.close()

    def borrow(self) -> Any:
        return self._pool.get_connection()

    def in_use(self) -> int:
        return len(self._pool._connections_used)

    def close(self) -> None:
        self._pool.close()


class PsycopgPool(System):
    """psycopg's own pool, in its own block."""

    title = "psycopg_pool"
    database = POSTGRESQL
    maxconnections = 4
    check: Callable[[Any], None] | None = None

    def __init__(self, place: Place, **settings: Any) -> None:
        self.app = Flask("faults")
        self.maxconnections = settings.get("maxconnections", self.maxconnections)
        self._pool = psycopg_pool.ConnectionPool(
            place.conninfo, min_size=self.maxconnections, check=self.check, open=True
        )

    def transact(self, work: Work) -> None:
        with self._pool.connection() as connection:
            work(connection)

    def borrow(self) -> Any:
        return self._pool.getconn()

    def in_use(self) -> int:
        stats = self._pool.get_stats()
        return stats["pool_size"] - stats["pool_available"]

    def close(self) -> None:
        self._pool.close()


class CheckingPsycopgPool(PsycopgPool):
    """The same, looking at each connection that it lends by a round trip."""

    title = "psycopg_pool, check"
    check = staticmethod(psycopg_pool.ConnectionPool.check_connection)


SYSTEMS: dict[str, type[System]] = {
    "ours": Ours,
    "ours-retrying": OursRetrying,
    "ours-mariadb": OursOnConnector,
    "dbutils": Naive,
    "sqlalchemy": OnSQLAlchemy,
    "mariadb-pool": ConnectorPool,
    "ours-psycopg": OursOnPsycopg,
    "ours-psycopg-retrying": OursRetryingOnPsycopg,
    "psycopg-pool": PsycopgPool,
    "psycopg-pool-check": CheckingPsycopgPool,
}

_DOCUMENTED = (
    pymysql.err.Error,
    mariadb.Error,
    psycopg.Error,
    PoolTimeout,
    ConnectFailed,
    TransactionAborted,
    CommitOutcomeUnknown,
)


def is_documented(error: BaseException) -> bool:
    """Whether the extension's documentation names this class of errors."""
    return isinstance(error, _DOCUMENTED)


def name_of(error: BaseException) -> str:
    """The error's class, and its number where it has one; what it was called elsewhere."""
    if hasattr(error, "called"):
        return str(error.called)
    number = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    suffix = f" {number}" if isinstance(number, int) else ""
    return f"{type(error).__name__}{suffix}"
