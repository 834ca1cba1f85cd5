"""`flask pooled-db check`: timeouts and threads against the server's and gunicorn's; SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.server import MariaDBServer
from tests.flask.checking import check, found, site

pytestmark = pytest.mark.usefixtures("surroundings")

# Time


@pytest.mark.parametrize(
    ("settings", "options", "topic", "severity", "text"),
    [
        ({}, (), "waiting", "ok", "10 s at most, less than gunicorn's timeout (30 s)"),
        ({"acquire_timeout": 30}, (), "waiting", "error", "set it to less than 30"),
        ({"acquire_timeout": 30}, ("--timeout=31",), "waiting", "warning", "graceful_timeout"),
        ({"acquire_timeout": 29}, ("--timeout=0",), "waiting", "ok", "29 s at most"),
        ({"acquire_timeout": 29}, ("--threads=4",), "waiting", "ok", "no gthread worker"),
        ({}, (), "statements", "warning", "nothing limits statements"),
        ({"statement_timeout": 19}, (), "statements", "ok", "19 s at most (STATEMENT_TIMEOUT)"),
        ({"statement_timeout": 20}, (), "statements", "warning", "STATEMENT_TIMEOUT is 20 s"),
        ({"request_deadline": 29}, (), "deadline", "ok", "29 s for its databases"),
        ({"request_deadline": 30}, (), "deadline", "error", "set it to less than 30"),
        ({}, (), "threads", "ok", "one thread can have one of its 20"),
        ({}, ("--threads=20",), "threads", "ok", "20 threads can each have one of its 20"),
        ({}, ("--threads=21",), "threads", "warning", "1 of them wait, for up to 10.0 s"),
        ({"blocking": False}, ("--threads=21",), "threads", "error", "beyond 20 fails"),
        ({}, ("--threads=9", "--per-request=2"), "threads", "ok", "each have 2 of its 20"),
        ({}, ("--threads=11", "--per-request=2"), "threads", "warning", "2 of them wait"),
        ({}, ("--threads=20", "--per-request=2"), "threads", "error", "threads to 10"),
        ({"max_waiting": 1}, ("--threads=22",), "threads", "error", "MAX_WAITING 1"),
        ({"max_waiting": 2}, ("--threads=22",), "threads", "warning", "2 of them wait"),
        ({}, (), "gunicorn", "warning", "1 is assumed; give --workers"),
        ({}, (), "sqlite", "ok", "one writer at a time: all 20 connections"),
    ],
)
def test_times_and_threads(
    settings: dict[str, Any],
    options: tuple[str, ...],
    topic: str,
    severity: str,
    text: str,
    url: str,
    tmp_path: Path,
) -> None:
    """Timeouts, threads and connections are compared with those of gunicorn, each with what to set:
    a sync worker is killed with its request, one with threads is not.
    """
    with site(url, tmp_path, **settings) as app:
        ((found_severity, found_text),) = found(check(app, *options), topic)
    assert (found_severity, text in found_text) == (severity, True), found_text


def test_threads_of_all_binds(url: str, tmp_path: Path) -> None:
    """All binds together may have fewer connections than a worker has threads: a warning."""
    with site(url, tmp_path, binds_maxconnections=5) as app:
        ((severity, text), _) = found(check(app, "--threads=6"), "threads")
        assert (severity, "set it to 6 at least" in text) == ("warning", True)
        assert len(found(check(app, "--threads=5"), "threads")) == 1


def test_deadline_bounds_all(url: str, tmp_path: Path) -> None:
    """A deadline of requests bounds their waits and statements."""
    with site(url, tmp_path, acquire_timeout=60, request_deadline=20) as app:
        told = check(app)
    assert not found(told, "waiting")
    assert not found(told, "statements")


@pytest.mark.parametrize(
    ("settings", "severity", "text"),
    [
        ({}, "warning", "for up to 1800 s (MAX_LIFETIME)"),
        ({"mincached": 0, "idle_timeout": 5}, "ok", "after 5 s, before the server's wait_timeout"),
        ({"mincached": 1, "idle_timeout": 5}, "warning", "MAX_LIFETIME to less than 9"),
        ({"mincached": 1, "drain_interval": 8}, "ok", "after 8 s"),
        ({"max_lifetime": 8}, "ok", "after 8 s"),
        ({"max_lifetime": 0}, "warning", "without a limit (MAX_LIFETIME is 0)"),
        ({"max_lifetime": 20, "ping_after": 9}, "error", "PING_AFTER is no less"),
        ({"max_lifetime": 20, "ping": 0}, "error", "PING has no flag 1"),
        ({"max_lifetime": 8, "ping": 0}, "ok", "after 8 s"),
    ],
)
def test_idle_connections(
    settings: dict[str, Any], severity: str, text: str, mariadb: MariaDBServer, tmp_path: Path
) -> None:
    """The pool closes idle connections before the server does, or finds them dead, or it is said
    what to set.
    """
    url = mariadb.url("pymysql", mariadb.create_database())
    keys = {"mincached": 1, "setsession": ["SET SESSION wait_timeout=9"], **settings}
    with site(url, tmp_path, **keys) as app:
        ((found_severity, found_text),) = found(check(app), "idle")
    assert (found_severity, text in found_text) == (severity, True), found_text


def test_limit_of_transactions(postgresql: str, tmp_path: Path) -> None:
    """When the server ends a transaction by itself is said; a time that requests may well need is
    a warning.
    """
    for seconds, severity in ((2, "warning"), (60, "ok")):
        setting = f"SET idle_in_transaction_session_timeout='{seconds}s'"
        with site(postgresql, tmp_path, setsession=[setting]) as app:
            ((found_severity, text),) = found(check(app), "transactions")
        assert found_severity == severity
        assert f"idle_in_transaction_session_timeout ({seconds} s)" in text
        assert ("raise it to 5 s at least, at the server or by SETSESSION" in text) == (seconds < 5)


@pytest.mark.parametrize("database", ["pymysql", "psycopg"])
def test_own_limit_of_transactions(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Where the app's own setting is what the server has, that is to be set to more."""
    url = request.getfixturevalue("postgresql")
    if database == "pymysql":
        mariadb: MariaDBServer = request.getfixturevalue("mariadb")
        url = mariadb.url("pymysql", mariadb.create_database())
    with site(url, tmp_path, transaction_timeout=1.5) as app:
        ((severity, text), *_) = found(check(app), "transactions")
    assert (severity, "; set TRANSACTION_TIMEOUT, which sets it, to 5" in text) == ("warning", True)


# SQLite


def test_database_in_memory(tmp_path: Path) -> None:
    """A database in memory is another one in each worker."""
    with site("sqlite://", tmp_path) as app:
        assert found(check(app, "--workers=2"), "sqlite")[0][0] == "error"
        assert found(check(app, "--workers=1"), "sqlite")[0][0] == "warning"


def test_journal_mode(tmp_path: Path) -> None:
    """A journal in which readers hold up writers is a warning, and so long a wait for the file that
    gunicorn kills the worker an error.
    """
    url = f"sqlite:///{tmp_path}/file?journal_mode=delete&timeout=30"
    with site(url, tmp_path) as app:
        (one, two, three) = found(check(app), "sqlite")
    assert [one[0], two[0], three[0]] == ["error", "warning", "ok"]
    assert "'timeout' to less" in one[1]
    assert "journal_mode to 'wal'" in two[1]
