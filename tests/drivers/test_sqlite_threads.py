"""SQLite: a file that many threads write to."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, PoolTimeout, db_connection_context
from tests.drivers.sqlite_app import in_app, query
from tests.support.apps import pooled_app


def test_writers(app: tuple[Flask, PooledDB]) -> None:
    """Writers in threads wait for each other, and no increment is lost."""
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, '0')")
    barrier = threading.Barrier(4)

    def count_up() -> None:
        barrier.wait(20)
        for _ in range(10):
            with db_connection_context() as conn:
                conn.execute("UPDATE t SET name = name + 1 WHERE id = 1")

    for caller in [in_app(app[0], count_up) for _ in range(4)]:
        caller.result()
    assert query("SELECT name FROM t") == [("40",)]


def test_read_then_write(
    app: tuple[Flask, PooledDB],
) -> None:
    """A transaction that reads first can write later."""
    both_have_read = threading.Barrier(2)

    def read_then_write(number: int) -> None:
        with db_connection_context() as conn:
            conn.execute("SELECT COUNT(*) FROM t").fetchone()
            both_have_read.wait(20)
            conn.execute("INSERT INTO t VALUES (%s, 'x')", (number,))

    for caller in [in_app(app[0], read_then_write, number) for number in (1, 2)]:
        caller.result()
    assert query("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_readers_during_write(app: tuple[Flask, PooledDB]) -> None:
    """Readers see what was committed before, without waiting for a writer."""
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1, 'a')")
        assert in_app(app[0], query, "SELECT COUNT(*) FROM t").result() == [(0,)]


def test_busy_timeout_exceeded(file: Path) -> None:
    """A lock held beyond `timeout` raises "database is locked", and the connection stays usable."""
    with pooled_app(f"sqlite:///{file}?timeout=0.05") as (app, _):
        with db_connection_context() as conn:
            conn.execute("INSERT INTO t VALUES (1, 'a')")
            caller = in_app(app, query, "INSERT INTO t VALUES (2, 'b') RETURNING id")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                caller.result()
        assert query("SELECT id FROM t") == [(1,)]


@pytest.mark.usefixtures("app")
def test_connection_serves_threads(app: tuple[Flask, PooledDB]) -> None:
    """A connection opened by one thread may be lent to another."""
    query("SELECT 1")
    assert in_app(app[0], query, "SELECT 2").result() == [(2,)]
    assert app[1].stats().connects == 1


def test_exhausted_pool(file: Path) -> None:
    """The pool's limit holds on SQLite."""
    with pooled_app(f"sqlite:///{file}", maxconnections=1):
        with db_connection_context(), pytest.raises(PoolTimeout):
            with db_connection_context(independent=True, timeout=0):
                pass
