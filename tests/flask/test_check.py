"""`flask pooled-db check`: what servers tell, and whether they have enough connections."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pymysql
import pytest

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands.servers import probing
from harness.proxy import Proxy
from harness.server import APP_PASSWORD_WORD, MariaDBServer
from harness.sockets import free_port
from tests.flask.checking import check, found, run, site

pytestmark = pytest.mark.usefixtures("surroundings")


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
        # What other tests have left open may look like the app's own.
        assert severity == ("error" if "others use" in text else "ok")
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


# Processes


def test_processes_that_can_not_be_read(url: str, tmp_path: Path) -> None:
    """Why the workers can't be seen is said."""
    with site(url, tmp_path, runtime_dir=False) as app:
        result = run(app)
    assert result.exit_code == 0, result.output
    assert "Other processes can't be seen: POOLED_DB_RUNTIME_DIR is False" in result.stdout
