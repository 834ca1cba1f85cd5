"""The attributes of a lent connection: what is passed on, what is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, UsageError, db_connection_context, get_db_connection
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call
from tests.support.sites import ids, insert

FORBIDDEN = ["autocommit", "isolation_level", "connect", "reconnect", "auto_reconnect"]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_attributes(any_app: PooledDB, name: str) -> None:
    """An attribute that would work against the scope can be neither read, called nor set; the error
    names it and the remedy.
    """
    with db_connection_context() as conn:
        with pytest.raises(UsageError, match=name):
            getattr(conn, name)
        with pytest.raises(UsageError, match=name):
            setattr(conn, name, True)
        insert(conn, 1)
    assert ids() == [1]


@pytest.mark.parametrize("name", ["database", "text_factory", "warnings", "anything"])
def test_setting_attributes_refused(any_app: PooledDB, name: str) -> None:
    """Setting an attribute of the connection is refused: the next caller would inherit it."""
    with db_connection_context() as conn:
        has_it = hasattr(conn.dbapi_connection, name)
        words = "CONNECT_ARGS, SETSESSION or a CREATOR" if has_it else "has no attribute"
        with pytest.raises(AttributeError, match=words):
            setattr(conn, name, 5)


def test_dir_lists_driver_attributes(any_app: PooledDB) -> None:
    """`dir()` lists the attributes of the driver's connection; a missing one
    raises AttributeError.
    """
    with db_connection_context() as conn:
        assert {"cursor", "commit", "IntegrityError", "rollback"} <= set(dir(conn))
        raw = any_app.pool().driver.connect()
        assert {name for name in dir(raw) if not name.startswith("_")} <= set(dir(conn))
        raw.close()
        assert not hasattr(conn, "anything")


class Wrapped:
    """A driver's connection in an object that passes everything on, as tracing tools make them."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def test_wrapped_connection_attributes(tmp_path: Path) -> None:
    """The attributes of a wrapped connection are passed on, even if they cannot be listed."""

    def connect() -> Wrapped:
        return Wrapped(sqlite3.connect(tmp_path / "db", check_same_thread=False))

    app = Flask("wrapped")
    app.config["POOLED_DB_CREATOR"] = connect
    db = PooledDB(app)
    with app.app_context():
        with db_connection_context() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
            assert conn.total_changes == 0
            assert not hasattr(conn, "anything")
            assert not hasattr(conn, "_raw")
        with pytest.raises(UsageError, match="was released"):
            conn.execute("SELECT 1")
    db.close()


def test_setting_cursor_attributes(site: tuple[Flask, PooledDB]) -> None:
    """A driver's own attribute can be set on a cursor, and ends with it."""
    with site[0].app_context():
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.row_factory = sqlite3.Row
            cur.execute("SELECT 1 AS a")
            assert cur.fetchone()["a"] == 1
        with pytest.raises(UsageError, match="was released"):
            cur.row_factory = None
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("SELECT 1 AS a")
            assert cur.fetchone() == (1,)


def test_cursor_connection_read_only(any_app: PooledDB) -> None:
    """`cursor.connection` is read-only."""
    with db_connection_context() as conn, conn.cursor() as cur:
        with pytest.raises(AttributeError):
            cur.connection = conn  # type: ignore[misc]
        assert cur.connection is conn


def test_ping(any_app: PooledDB) -> None:
    """`conn.ping()` works and does not reconnect."""
    with get_db_connection() as conn:
        conn.ping()
        conn.ping(True)
        conn.ping(reconnect=True)
    assert any_app.stats().connects == 1


def test_repr(any_app: PooledDB) -> None:
    """The repr of a connection names its driver and its state."""
    with db_connection_context() as conn:
        assert repr(conn) == f"<Lease of a {any_app.pool().driver.name} connection, in use>"
    assert repr(conn).endswith("released>")


def test_concurrent_threads_refused(
    mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """A thread that uses a connection while another thread uses it gets an error, and the other
    goes on.
    """
    with pooled_app(mariadb.url(mariadb_driver, database)), get_db_connection() as conn:
        lock = f"{database}_lock"
        assert mariadb.query("SELECT GET_LOCK(%s, 0)", lock) == [(1,)]
        caller = call(conn.cursor().execute, "SELECT GET_LOCK(%s, 30)", (lock,))
        waiting = "SELECT 1 FROM information_schema.processlist WHERE state = 'User lock'"
        try:
            wait_until(lambda: mariadb.query(waiting), "the statement runs")
            for use in (conn.cursor, conn.commit, conn.rollback, conn.ping, conn.begin):
                with pytest.raises(UsageError, match="in use by another thread"):
                    use()
        finally:
            mariadb.query("SELECT RELEASE_LOCK(%s)", lock)
        caller.result()
        conn.commit()
