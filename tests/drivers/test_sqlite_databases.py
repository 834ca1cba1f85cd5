"""SQLite: databases in files and in memory."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from flask_pooled_db import ConfigError, db_connection_context, get_db_connection
from harness.waiting import wait_until
from tests.drivers.sqlite_app import in_app, query
from tests.support.apps import pooled_app
from tests.support.pools import open_pool


@pytest.mark.usefixtures("app")
def test_pragmas() -> None:
    """A file has WAL mode, foreign keys, and a busy timeout of 5 s."""
    assert query("PRAGMA journal_mode") == [("wal",)]
    assert query("PRAGMA foreign_keys") == [(1,)]
    assert query("PRAGMA busy_timeout") == [(5000,)]


@pytest.mark.usefixtures("app")
def test_foreign_keys() -> None:
    """A row that refers to nothing is refused."""
    with db_connection_context() as conn:
        conn.execute("CREATE TABLE child (t INTEGER REFERENCES t (id))")
    with pytest.raises(sqlite3.IntegrityError), db_connection_context() as conn:
        conn.execute("INSERT INTO child VALUES (7)")


@pytest.mark.parametrize("how", ["query", "CONNECT_ARGS"])
def test_busy_timeout(file: Path, how: str) -> None:
    """`timeout`, in the URL or in CONNECT_ARGS, sets the busy timeout."""
    url = f"sqlite:///{file}"
    keys = {"connect_args": {"timeout": 0.25}} if how == "CONNECT_ARGS" else {}
    with pooled_app(f"{url}?timeout=0.25" if how == "query" else url, **keys):
        assert query("PRAGMA busy_timeout") == [(250,)]


def test_absolute_path(file: Path) -> None:
    """`sqlite:////path/file` is that file."""
    url = f"sqlite:///{file}"
    assert url.startswith("sqlite:////")
    with pooled_app(url):
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_percent_encoded_path(tmp_path: Path) -> None:
    """A path may be percent-encoded."""
    with pooled_app(f"sqlite:///{tmp_path}/a%3Fb%23c%25%20d.db"):
        assert query("SELECT 1") == [(1,)]
    assert (tmp_path / "a?b#c% d.db").exists()


def test_sqlite_uri(file: Path) -> None:
    """With `uri=true` the database is an SQLite URI, here of a read-only file."""
    with pooled_app(f"sqlite:///file:{file}?uri=true"):
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_missing_directory(tmp_path: Path) -> None:
    """A file in a missing directory is an error at once."""
    with pooled_app(f"sqlite:///{tmp_path}/nowhere/shop.db", acquire_timeout=30):
        started = time.monotonic()
        with pytest.raises(Exception, match="won't help"), db_connection_context():
            pass
        assert time.monotonic() - started < 15


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_in_memory_leases(url: str) -> None:
    """All leases share one database in memory."""
    with pooled_app(url):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (id INTEGER)")
            conn.execute("INSERT INTO t VALUES (1)")
        first, second = get_db_connection(), get_db_connection()
        rows = [conn.execute("SELECT id FROM t").fetchall() for conn in (first, second)]
        first.close()
        second.close()
    assert rows == [[(1,)], [(1,)]]


def test_in_memory_threads() -> None:
    """Threads share one database in memory, even if they start at the same moment."""
    barrier = threading.Barrier(8)
    with pooled_app("sqlite://") as (app, _):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (id INTEGER)")

        def insert(number: int) -> None:
            barrier.wait(20)
            with db_connection_context() as conn:
                conn.execute("INSERT INTO t VALUES (%s)", (number,))

        for caller in [in_app(app, insert, number) for number in range(8)]:
            caller.result()
        assert query("SELECT COUNT(*) FROM t") == [(8,)]


def test_in_memory_idle_timeout() -> None:
    """A database in memory survives the closing of all idle connections."""
    with pooled_app("sqlite://", idle_timeout=0.05) as (_, db):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (id INTEGER)")
            conn.execute("INSERT INTO t VALUES (1)")
        wait_until(lambda: db.stats().open == 0, "all connections are closed")
        assert query("SELECT id FROM t") == [(1,)]
        assert db.stats().connects >= 2


def test_in_memory_pools() -> None:
    """Each pool has its own database in memory."""
    with open_pool(url="sqlite://") as first, open_pool(url="sqlite://") as second:
        one, other = first.lease(), second.lease()
        one.execute("CREATE TABLE t (id INTEGER)")
        one.commit()
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            other.execute("SELECT * FROM t")
        one.close()
        other.close()


def test_in_memory_close() -> None:
    """Closing the pool removes its database in memory."""
    with open_pool(url="sqlite://") as pool:
        lease = pool.lease()
        lease.execute("CREATE TABLE t (id INTEGER)")
        lease.commit()
        lease.close()
        pool.close()
        assert pool.driver._shared.anchor is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "x", ""])
def test_wrong_busy_timeout(file: Path, seconds: str) -> None:
    """A `timeout` in the URL that is no number of seconds is refused."""
    with pytest.raises(ConfigError, match="must be a number"):
        with open_pool(url=f"sqlite:///{file}?timeout={seconds}"):
            pass
