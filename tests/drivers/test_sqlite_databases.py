"""SQLite: databases in files and in memory."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from flask_pooled_db import (
    db_connection_context,
    get_db_connection,
)
from harness.waiting import wait_until
from tests.drivers.sqlite_app import in_app, query
from tests.support.apps import pooled_app
from tests.support.pools import open_pool


@pytest.mark.usefixtures("app")
def test_the_file_is_in_wal_mode_with_foreign_keys_and_patience() -> None:
    """Readers don't wait for the writer, references hold, and who finds it locked waits 5 s."""
    assert query("PRAGMA journal_mode") == [("wal",)]
    assert query("PRAGMA foreign_keys") == [(1,)]
    assert query("PRAGMA busy_timeout") == [(5000,)]


@pytest.mark.usefixtures("app")
def test_foreign_keys_hold() -> None:
    """A row that refers to nothing is refused."""
    with db_connection_context() as conn:
        conn.execute("CREATE TABLE child (t INTEGER REFERENCES t (id))")
    with pytest.raises(sqlite3.IntegrityError), db_connection_context() as conn:
        conn.execute("INSERT INTO child VALUES (7)")


@pytest.mark.parametrize("how", ["query", "CONNECT_ARGS"])
def test_the_busy_timeout_can_be_set(file: Path, how: str) -> None:
    """`timeout` is sqlite3's own argument, in the URL or in CONNECT_ARGS."""
    url = f"sqlite:///{file}"
    keys = {"connect_args": {"timeout": 0.25}} if how == "CONNECT_ARGS" else {}
    with pooled_app(f"{url}?timeout=0.25" if how == "query" else url, **keys):
        assert query("PRAGMA busy_timeout") == [(250,)]


def test_a_relative_path_is_relative(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sqlite:///file` is a file in the current directory."""
    monkeypatch.chdir(file.parent)
    with pooled_app("sqlite:///shop.db"):
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_an_absolute_path_has_four_slashes(file: Path) -> None:
    """`sqlite:////path/file` is that file."""
    url = f"sqlite:///{file}"
    assert url.startswith("sqlite:////")
    with pooled_app(url):
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_a_path_may_be_percent_encoded(tmp_path: Path) -> None:
    """Any character may stand in a file's name."""
    with pooled_app(f"sqlite:///{tmp_path}/a%3Fb%23c%25%20d.db"):
        assert query("SELECT 1") == [(1,)]
    assert (tmp_path / "a?b#c% d.db").exists()


def test_an_sqlite_uri_may_be_the_database(file: Path) -> None:
    """SQLite's own URIs are taken with `uri=true`, here to open a file that can't be written."""
    with pooled_app(f"sqlite:///file:{file}?uri=true"):
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_a_file_that_can_not_be_opened_is_told_at_once(tmp_path: Path) -> None:
    """A directory that isn't there won't come to be by waiting."""
    with pooled_app(f"sqlite:///{tmp_path}/nowhere/shop.db", acquire_timeout=30):
        started = time.monotonic()
        with pytest.raises(Exception, match="won't help"), db_connection_context():
            pass
        assert time.monotonic() - started < 15


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_in_memory_all_leases_share_one_database(url: str) -> None:
    """What one lease committed is there for another one that is out at the same time."""
    with pooled_app(url):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (id INTEGER)")
            conn.execute("INSERT INTO t VALUES (1)")
        first, second = get_db_connection(), get_db_connection()
        rows = [conn.execute("SELECT id FROM t").fetchall() for conn in (first, second)]
        first.close()
        second.close()
    assert rows == [[(1,)], [(1,)]]


def test_in_memory_threads_share_one_database() -> None:
    """Also those that come at the same moment, before there is any connection."""
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


def test_in_memory_the_database_outlives_its_connections() -> None:
    """It is there although every connection was closed for having been idle."""
    with pooled_app("sqlite://", idle_timeout=0.05) as (_, db):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (id INTEGER)")
            conn.execute("INSERT INTO t VALUES (1)")
        wait_until(lambda: db.stats().open == 0, "all connections are closed")
        assert query("SELECT id FROM t") == [(1,)]
        assert db.stats().connects >= 2


def test_in_memory_each_pool_has_its_own_database() -> None:
    """Two apps, or two binds, have nothing to do with each other."""
    with open_pool(url="sqlite://") as first, open_pool(url="sqlite://") as second:
        one, other = first.lease(), second.lease()
        one.execute("CREATE TABLE t (id INTEGER)")
        one.commit()
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            other.execute("SELECT * FROM t")
        one.close()
        other.close()


def test_in_memory_closing_the_pool_ends_the_database() -> None:
    """Nothing of it stays behind."""
    with open_pool(url="sqlite://") as pool:
        lease = pool.lease()
        lease.execute("CREATE TABLE t (id INTEGER)")
        lease.commit()
        lease.close()
        pool.close()
        assert pool.driver._anchor is None  # type: ignore[attr-defined]
