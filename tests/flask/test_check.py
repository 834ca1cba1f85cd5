"""`flask pooled-db check`: whether the configuration fits its servers and gunicorn."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pymysql
import pytest
from click.testing import Result
from flask import Flask

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands import probing
from harness.proxy import Proxy
from harness.server import APP_PASSWORD_WORD, MariaDBServer
from harness.sockets import free_port
from tests.support.apps import pooled_app

Found = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing around the test tells how gunicorn runs."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    monkeypatch.chdir(tmp_path)


@contextlib.contextmanager
def site(url: Any, folder: Path, **settings: Any) -> Iterator[Flask]:
    """An app that meets its processes in a folder of its own."""
    keys = {"runtime_dir": str(folder / "run"), "mincached": 0, **settings}
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    with pooled_app(url, **keys) as (app, _):
        yield app


def run(app: Flask, *args: str) -> Result:
    return app.test_cli_runner().invoke(args=["pooled-db", "check", *args])


def check(app: Flask, *args: str) -> dict[str, Any]:
    """What the command tells as JSON; its exit status is 1 exactly if there is an error."""
    result = run(app, "--json", *args)
    told: dict[str, Any] = json.loads(result.stdout)
    has_errors = any(one["severity"] == "error" for one in told["findings"])
    assert result.exit_code == int(has_errors), result.output
    return told


def found(told: dict[str, Any], topic: str, bind: str | None = None) -> Found:
    """The severities and texts of the findings of a topic."""
    return [
        (one["severity"], one["text"])
        for one in told["findings"]
        if one["topic"] == topic and bind in (None, one["bind"])
    ]


@pytest.fixture
def account(mariadb: MariaDBServer) -> Iterator[str]:
    """A user of the test's own that may have three connections: its name, and its password."""
    name = f"user_{uuid4().hex[:8]}"
    mariadb.execute(f"CREATE USER '{name}'@'%' WITH MAX_USER_CONNECTIONS 30")
    mariadb.execute(f"GRANT ALL ON `test_%`.* TO '{name}'@'%'")
    yield name
    mariadb.execute(f"DROP USER '{name}'@'%'")


# What servers tell


def test_check(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """For each bind it prints the server, its version, TLS, latency, limits, and what it found."""
    url = mariadb.url("pymysql", mariadb.create_database())
    with site(url, tmp_path, binds={"log": "sqlite:///log.db"}) as app:
        result = run(app, "--workers", "2")
    assert result.exit_code == 0, result.output
    head, first, second, *_ = result.stdout.splitlines()
    assert head.split() == [
        *("BIND", "DATABASE", "SERVER", "TLS", "LATENCY", "CONNECTIONS"),
        *("MAX_CONNECTIONS", "IDLE", "TIMEOUT"),
    ]
    assert first.startswith("'default'  mysql 127.0.0.1:")
    assert "MariaDB 1" in first
    assert first.split()[-3:] == ["151", "28800", "s"]
    assert " none " in first
    assert second.startswith("'log'      sqlite log.db")
    assert "SQLite 3" in second
    assert "gunicorn: workers 2 (--workers)" in result.stdout
    assert "2 workers x 20 (MAXCONNECTIONS: 20 of 'default') = 40 connections" in result.stdout
    assert APP_PASSWORD_WORD not in result.output


def test_check_over_tls(tls_mariadb: MariaDBServer, tmp_path: Path) -> None:
    """TLS is told with its protocol and cipher."""
    url = tls_mariadb.url("pymysql", tls_mariadb.create_database())
    with site(url, tmp_path) as app:
        (bind,) = check(app)["binds"]
    assert bind["server"]["tls"].startswith("TLSv1.")
    assert bind["latency"] > 0


def test_check_postgresql(postgresql: str, tmp_path: Path) -> None:
    """PostgreSQL's reserved connections are none of the app's, and its connections are told from
    others' by what they call themselves.
    """
    with site(postgresql, tmp_path, maxconnections=97) as app:
        told = check(app, "--workers", "1")
        ((severity, text),) = found(told, "connections")
        used = told["binds"][0]["server"]["connections"] - 1
        assert severity == ("error" if used else "ok")
        assert "the server has 100 (max_connections), of which 3 are reserved" in text
        assert "by what they call themselves" in found(told, "others")[0][1]
        assert found(check(app, "--workers", "2"), "connections")[0][0] == "error"


def test_bind_that_is_away(url: str, tmp_path: Path) -> None:
    """A bind that can't be reached is an error, with its cause and a remedy, and the others are
    checked all the same.
    """
    away = f"mysql+pymysql://app:Kolibri7Geheim@127.0.0.1:{free_port()}/shop"
    with site(away, tmp_path, binds={"log": url}, connect_timeout=0.5) as app:
        told = check(app)
        result = run(app)
    ((severity, text),) = found(told, "reachable", "default")
    assert severity == "error"
    assert text.startswith("it can't be reached: OperationalError 2003; nothing answers")
    assert found(told, "sqlite", "log")
    assert "Kolibri7Geheim" not in result.output


def test_wrong_password(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """So is one that refuses the app."""
    with site(mariadb.url("pymysql", password="Wrong7Geheim"), tmp_path) as app:
        ((_, text),) = found(check(app), "reachable")
        assert "1045; the server refuses the user or the password" in text
        assert "Wrong7Geheim" not in run(app).output


def test_plaintext_where_tls_was_asked_for(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Plaintext where TLS was asked for is a bind that can't be reached, with the remedy."""
    url = mariadb.url("mariadbconnector", ssl="true")
    with site(url, tmp_path) as app:
        ((severity, text),) = found(check(app), "reachable")
    assert severity == "error"
    assert "TLS was asked for" in text


def test_server_that_hangs(mariadb: MariaDBServer, url: str, tmp_path: Path) -> None:
    """A server that takes connections and says nothing, or stops answering, costs a limited time,
    and the others are checked meanwhile.
    """
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        away = f"mysql+pymysql://app:x@127.0.0.1:{deaf.getsockname()[1]}/shop"
        with site(away, tmp_path, binds={"log": url}, connect_timeout=0.3) as app:
            told = check(app)
        assert len(found(told, "reachable", "default")) == 1
        assert found(told, "sqlite", "log")


def test_server_that_stops_answering(
    mariadb: MariaDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does one that stops answering."""
    monkeypatch.setattr(probing, "PATIENCE", 0.3)
    with Proxy(mariadb.host, mariadb.port) as proxy:
        proxy.hold_replies_to(b"SHOW VARIABLES")
        with site(mariadb.url("pymysql", port=proxy.port), tmp_path) as app:
            ((severity, _),) = found(check(app), "reachable")
    assert severity == "error"


def test_url_of_function(url: str, tmp_path: Path) -> None:
    """Where a function tells the URL, it is asked."""
    with site(lambda: url, tmp_path) as app:
        (bind,) = check(app)["binds"]
    assert bind["server"]["product"] == "SQLite"


def test_binds_by_name(url: str, tmp_path: Path) -> None:
    """`--bind` names any bind. Without it those are checked that the configuration names, and
    those that a process of this host has open; a loader that fails is an error of its bind.
    """
    with site(url, tmp_path) as app:
        db: PooledDB = app.extensions["pooled_db"].extension

        @db.bind_loader
        def load(name: str) -> str:
            if name == "bad":
                raise RuntimeError("Kolibri7Geheim")
            return f"sqlite:///{tmp_path / name}.db"

        assert [one["bind"] for one in check(app, "--bind", "north")["binds"]] == ["north"]
        with app.app_context(), db.connection_context("south") as conn:
            conn.cursor().execute("SELECT 1")
            names = {one["bind"] for one in check(app)["binds"]}
        assert names >= {"default", "south"}
        ((severity, text),) = found(check(app, "--bind", "bad"), "reachable")
        assert (severity, text) == ("error", "it can't be reached: RuntimeError")
    with site(url, tmp_path) as app:
        result = run(app, "--bind", "nowhere")
        assert result.exit_code == 1
        assert "no bind 'nowhere'" in result.stderr


def test_tenants(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A tenant has its server's connections: they are counted once."""
    database = mariadb.create_database()
    binds = {"north": {"SERVER": "default", "SCHEMA": database}}
    with site(mariadb.url("pymysql", database), tmp_path, binds=binds) as app:
        for args in ((), ("--bind", "north")):
            told = check(app, *args)
            assert [one["bind"] for one in told["binds"]] == ["default"]
            assert " = 20 connections" in found(told, "connections")[0][1]


def test_unknown_driver(tmp_path: Path) -> None:
    """Of a server that nobody knows how to ask, that is said."""

    class Connection:
        def cursor(self) -> Any:
            return self

        def execute(self, *_: object) -> None:
            pass

        close = commit = rollback = lambda self: None

    with site(None, tmp_path, creator=Connection) as app:
        ((severity, text),) = found(check(app), "server")
    assert (severity, "nobody knows how to ask" in text) == ("warning", True)


# Connections


def test_account_that_is_too_small(mariadb: MariaDBServer, account: str, tmp_path: Path) -> None:
    """All workers together must not open more than the account may, on all of its binds; what to
    set is told, and is right.
    """
    url = mariadb.url("pymysql", mariadb.create_database(), user=account, password="")
    settings = {"maxconnections": 10, "binds": {"log": url}}
    with site(url, tmp_path, **settings) as app:
        ((severity, text), _) = found(check(app, "--workers", "2"), "connections")
        assert severity == "error"
        assert "2 workers x 20 (MAXCONNECTIONS: 10 of 'default', 10 of 'log') = 40" in text
        assert "max_user_connections allows 30: set MAXCONNECTIONS so that a worker has 15" in text
        assert text.endswith(" in all, or raise max_user_connections to 40")
        told = found(check(app, "--workers", "1"), "connections")
        assert [severity for severity, _ in told] == ["ok", "ok"]
    with site(url, tmp_path, **settings, binds_maxconnections=15) as app:
        told = found(check(app, "--workers", "2"), "connections")
        assert [severity for severity, _ in told] == ["ok", "ok"]
        assert "2 workers x 15 (BINDS_MAXCONNECTIONS) = 30" in told[0][1]


def test_server_that_others_use(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """What others use of a server is not there for the app; its own connections are no others'."""
    url = mariadb.url("pymysql", mariadb.create_database())
    ((_, limit),) = mariadb.query("SHOW VARIABLES LIKE 'max_connections'")
    with site(url, tmp_path, maxconnections=1) as app:
        db: PooledDB = app.extensions["pooled_db"].extension
        used = len(mariadb.connections())
        workers = int(limit) - used - 10
        with app.app_context(), db.connection_context() as conn:
            conn.cursor().execute("SELECT 1")
            told = check(app, "--workers", str(workers))
            assert [severity for severity, _ in found(told, "connections")] == ["ok"]
            with contextlib.ExitStack() as stack:
                for _ in range(20):
                    other = pymysql.connect(**mariadb.connect_args())
                    stack.enter_context(contextlib.closing(other))
                told = check(app, "--workers", str(workers))
        ((severity, text),) = found(told, "connections")
    assert severity == "error"
    assert re.search(r"others use 2\d now, which leaves \d+: run fewer workers, or raise", text)


def test_limit_of_role(postgresql: str, tmp_path: Path) -> None:
    """PostgreSQL's limit of a role counts as well, and who may not see others is told what for."""
    name = f"role_{uuid4().hex[:8]}"
    url = postgresql.replace("postgres@", f"{name}@")
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 5".encode())
        with site(url, tmp_path, maxconnections=3) as app:
            told = check(app, "--workers", "2")
        connection.execute(f"DROP ROLE {name}".encode())
    ((severity, text), _) = found(told, "connections")
    assert severity == "error"
    assert "CONNECTION LIMIT allows 5" in text
    assert "without pg_monitor" in found(told, "others")[0][1]


def test_replica(
    mariadb: MariaDBServer, tls_mariadb: MariaDBServer, account: str, tmp_path: Path
) -> None:
    """A replica has a pool of its own, and its own server's limits."""
    url = mariadb.url("pymysql", mariadb.create_database(), user=account, password="")
    binds = {"ro": {"URL": tls_mariadb.url("pymysql"), "MAXCONNECTIONS": 200}}
    with site(url, tmp_path, maxconnections=30, binds=binds, replica="ro") as app:
        told = check(app, "--workers", "1")
    assert [severity for severity, _ in found(told, "connections", "default")] == ["ok", "ok"]
    ((severity, text),) = found(told, "connections", "ro")
    assert severity == "error"
    assert "200 of 'ro') = 200 connections" in text
    assert ": set MAXCONNECTIONS to 1" in text


def test_any_number(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A pool without a limit is a warning; a limit of all binds together is one."""
    url = mariadb.url("pymysql", mariadb.create_database())
    with site(url, tmp_path, maxconnections=0) as app:
        ((severity, text),) = found(check(app), "connections")
        assert (severity, "any number (MAXCONNECTIONS is 0)" in text) == ("warning", True)
    with site(url, tmp_path, maxconnections=0, binds_maxconnections=9) as app:
        assert found(check(app), "connections")[0][0] == "ok"


def test_max_binds(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Binds by name count as often as they may be open."""
    url = mariadb.url("pymysql", mariadb.create_database())
    with site(url, tmp_path, maxconnections=20, max_binds=9) as app:
        db: PooledDB = app.extensions["pooled_db"].extension
        db.bind_loader(lambda name: url)
        told = check(app, "--bind", "north", "--workers", "1")
        ((severity, text),) = found(told, "connections")
    assert severity == "error"
    assert "1 worker x 180 (MAXCONNECTIONS: 20 each of 9 binds by name, at most) = 180" in text


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


# Processes


def test_processes_that_can_not_be_read(url: str, tmp_path: Path) -> None:
    """Why the workers can't be seen is said."""
    with site(url, tmp_path, runtime_dir=False) as app:
        result = run(app)
    assert result.exit_code == 0, result.output
    assert "Other processes can't be seen: POOLED_DB_RUNTIME_DIR is False" in result.stdout
