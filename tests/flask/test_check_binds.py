"""`flask pooled-db check` of several binds: those by name, tenants, others on the same server."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_pooled_db import PooledDB
from harness.server import MariaDBServer
from harness.sockets import free_port
from tests.flask.checking import check, found, run, site

pytestmark = pytest.mark.usefixtures("surroundings")


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
        assert severity == "error"
        assert text.startswith("it can't be reached: RuntimeError, which the app's own code raised")
        assert text.endswith(": correct its bind_loader")
    with site(url, tmp_path) as app:
        result = run(app, "--bind", "nowhere")
        assert result.exit_code == 1
        assert "no bind 'nowhere'" in result.stderr


def test_max_binds(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Binds by name count as often as they may be open."""
    url = mariadb.url("pymysql", mariadb.create_database())
    with site(url, tmp_path, maxconnections=20, max_binds=9) as app:
        db: PooledDB = app.extensions["pooled_db"].extension
        db.bind_loader(lambda name: url)
        told = check(app, "--bind", "north", "--workers", "1")
        ((severity, text),) = found(told, "connections")
    assert severity == "error"
    assert "1 worker x 200 (MAXCONNECTIONS: 20 of 'default', 20 each of 9 binds by name" in text
    assert text.startswith("'north', 'default': ")


def test_binds_by_name_that_are_not_open(url: str, tmp_path: Path) -> None:
    """Before a deployment none is open: that none of them is counted is a warning, with what to
    do, until one is asked for, or open.
    """
    with site(url, tmp_path, max_binds=9) as app:
        db: PooledDB = app.extensions["pooled_db"].extension
        assert found(check(app), "connections") == []
        db.bind_loader(lambda name: f"sqlite:///{tmp_path / name}.db")
        for args in ((), ("--bind", "default")):
            ((severity, text),) = found(check(app, *args), "connections")
            assert severity == "warning"
            assert "as many as 9 (MAX_BINDS) of its binds may be open in a worker; none is" in text
            assert text.endswith(": give --bind with the name of one")
        assert found(check(app, "--bind", "north"), "connections") == []
    with site(url, tmp_path) as app:
        db = app.extensions["pooled_db"].extension
        db.bind_loader(lambda name: f"sqlite:///{tmp_path / name}.db")
        ((_, text),) = found(check(app), "connections")
        assert "any number (MAX_BINDS is 0)" in text
        assert text.endswith(", and set MAX_BINDS")
        with app.app_context(), db.connection_context("south") as conn:
            conn.cursor().execute("SELECT 1")
            assert found(check(app), "connections") == []


def test_tenants(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A tenant has its server's connections: they are counted once."""
    database = mariadb.create_database()
    binds = {"north": {"SERVER": "default", "SCHEMA": database}}
    with site(mariadb.url("pymysql", database), tmp_path, binds=binds) as app:
        for args in ((), ("--bind", "north")):
            told = check(app, *args)
            assert [one["bind"] for one in told["binds"]] == ["default"]
            assert " = 20 connections" in found(told, "connections")[0][1]


def test_tenants_by_name(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Tenants have no connections of their own: those of their server are counted."""
    database = mariadb.create_database()
    with site(mariadb.url("pymysql", database), tmp_path) as app:
        db: PooledDB = app.extensions["pooled_db"].extension
        db.bind_loader(lambda name: {"SERVER": "default", "SCHEMA": database})
        assert [one[0] for one in found(check(app), "connections")] == ["warning", "ok"]
        assert [one[0] for one in found(check(app, "--bind", "a"), "connections")] == ["ok"]
        db.fetch_value("SELECT 1", bind="b")
        assert [one[0] for one in found(check(app), "connections")] == ["ok"]


def test_other_binds_of_a_server(mariadb: MariaDBServer, account: str, tmp_path: Path) -> None:
    """With `--bind` the app's other binds on the same server count as well, open or not; nothing
    else is told of them, and those elsewhere do not count.
    """
    url = mariadb.url("pymysql", mariadb.create_database())
    log = mariadb.url("pymysql", mariadb.create_database(), user=account, password="")
    away = f"mysql+pymysql://app:x@127.0.0.1:{free_port()}/shop"
    binds = {"log": {"URL": log, "MAXCONNECTIONS": 7}, "file": "sqlite:///file.db", "away": away}
    with site(url, tmp_path, binds=binds, connect_timeout=0.5) as app:
        db: PooledDB = app.extensions["pooled_db"].extension
        with app.app_context(), db.connection_context("default") as conn:
            conn.cursor().execute("SELECT 1")
            told = check(app, "--workers", "2", "--bind", "log")
    assert [one["bind"] for one in told["binds"]] == ["log"]
    assert {one["bind"] for one in told["findings"]} <= {"log", None}
    server, of_account = found(told, "connections")
    whole = "2 workers x 27 (MAXCONNECTIONS: 7 of 'log', 20 of 'default') = 54 connections"
    assert server[1].startswith(f"'log', 'default': {whole}")
    assert "2 workers x 7 (MAXCONNECTIONS: 7 of 'log') = 14 connections; max_user" in of_account[1]
