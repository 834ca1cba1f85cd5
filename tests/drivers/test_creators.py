"""Creators of the application's own, and DB-API 2 modules of which nothing is known."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import TransactionAborted, UsageError, db_connection_context
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from harness.naive import DRIVERS
from harness.server import APP_USER, SCHEMES, MariaDBServer
from tests.support.apps import pooled_app
from tests.support.rawdb import rawdb


@pytest.mark.parametrize("kind", ["module", "its connect", "partial of it"])
def test_creator_forms(
    mariadb: MariaDBServer, database: str, mariadb_driver: str, kind: str
) -> None:
    """A creator may be a driver's module, its `connect`, or a partial of that."""
    module = DRIVERS[mariadb_driver]
    creator = {
        "module": module,
        "its connect": module.connect,
        "partial of it": functools.partial(module.connect, database=database),
    }[kind]
    arguments = mariadb.connect_args(None if "partial" in kind else database)
    with pooled_app(creator=creator, connect_args=arguments) as (_, db):
        with db_connection_context(readonly=True) as conn, conn.cursor() as cur:
            cur.execute("SELECT DATABASE()")
            assert cur.fetchone()[0] == database
            assert conn.Error is module.Error
        assert db.pool().driver.name == module.__name__


def test_creator_without_dbapi(raw_file: Path) -> None:
    """`conn.IntegrityError` of a creator without `dbapi` raises an error that names the remedy."""

    def connect(database: str) -> sqlite3.Connection:
        return sqlite3.connect(database, check_same_thread=False)

    with pooled_app(creator=connect, connect_args={"database": str(raw_file)}):
        with db_connection_context() as conn:
            with pytest.raises(AttributeError, match="attribute `dbapi`"):
                _ = conn.IntegrityError
    connect.dbapi = sqlite3  # type: ignore[attr-defined]
    with pooled_app(creator=connect, connect_args={"database": str(raw_file)}):
        with db_connection_context() as conn:
            assert conn.IntegrityError is sqlite3.IntegrityError


def test_t1_creator_with_autocommit(
    mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """A scope on a creator that asks for autocommit still rolls back."""
    mariadb.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    connect = functools.partial(DRIVERS[mariadb_driver].connect, autocommit=True)
    with pooled_app(creator=connect, connect_args=mariadb.connect_args(database)):
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            conn.cursor().execute("INSERT INTO t VALUES (1)")
            raise LookupError
    assert mariadb.query(f"SELECT id FROM `{database}`.t") == []


@pytest.fixture
def raw_file(tmp_path: Path) -> Path:
    """A file with an empty table."""
    path = tmp_path / "raw.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    return path


def committed(path: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [id_ for (id_,) in connection.execute("SELECT id FROM t ORDER BY id")]


@pytest.fixture
def raw_app(raw_file: Path) -> Iterator[Path]:
    """An app on such a module, inside its context; the file."""
    with pooled_app(creator=rawdb(), connect_args={"database": str(raw_file)}):
        yield raw_file


def test_t1_unknown_module(raw_app: Path) -> None:
    """A scope on an unknown module commits and rolls back."""
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (2)")
        raise LookupError
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (3)")
    assert committed(raw_app) == [1, 3]


def test_unknown_module_savepoint(raw_app: Path) -> None:
    """A nested scope on an unknown module is a savepoint."""
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            inner.cursor().execute("INSERT INTO t VALUES (2)")
            raise LookupError
    assert committed(raw_app) == [1]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"readonly": True}, "readonly=True"),
        ({"statement_timeout": 1.0}, "statement_timeout"),
        ({"isolation_level": "SERIALIZABLE"}, "isolation_level"),
    ],
)
def test_unknown_module_options(raw_app: Path, options: dict[str, Any], word: str) -> None:
    """An option that an unknown module does not support is refused by name, and
    no statement runs.
    """
    with pytest.raises(UsageError, match=f"rawdb does not support {word}: "):
        with db_connection_context(**options) as conn:
            conn.cursor().execute("INSERT INTO t VALUES (1)")
    assert committed(raw_app) == []


def test_refused_option(raw_app: Path) -> None:
    """A refused option leaves the connection unchanged for the next scope."""
    with pytest.raises(UsageError), db_connection_context(readonly=True) as conn:
        conn.cursor().execute("SELECT 1")
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
    assert committed(raw_app) == [1]


def test_t4_unknown_operational_error(raw_app: Path) -> None:
    """An OperationalError of an unknown module costs the connection."""

    def swallow() -> None:
        with db_connection_context() as conn:
            conn.cursor().execute("INSERT INTO t VALUES (1)")
            with contextlib.suppress(conn.OperationalError):
                conn.cursor().execute("SELECT * FROM nowhere")

    with pytest.raises(TransactionAborted):
        swallow()
    assert committed(raw_app) == []


def test_t4_unknown_integrity_error(raw_app: Path) -> None:
    """An IntegrityError of an unknown module costs only the statement."""
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
        with contextlib.suppress(conn.IntegrityError):
            conn.cursor().execute("INSERT INTO t VALUES (1)")
    assert committed(raw_app) == [1]


def test_psycopg_url() -> None:
    """A PostgreSQL URL gives psycopg its own argument names."""
    pytest.importorskip("psycopg")
    made = PoolConfig.from_mapping({"URL": "postgresql+psycopg://ann:pw@h:1/d?sslmode=require"})
    driver = make_driver(made)
    assert driver.name == "psycopg"
    assert driver._arguments == {
        "host": "h",
        "port": 1,
        "user": "ann",
        "password": "pw",
        "dbname": "d",
        "sslmode": "require",
    }


def test_schemes() -> None:
    """The URLs of the test server select the drivers they name."""
    for name, scheme in SCHEMES.items():
        url = f"{scheme}://{APP_USER}@h/d"
        driver = make_driver(PoolConfig.from_mapping({"URL": url}))
        assert driver.dbapi is DRIVERS[name]
