"""`flask pooled-db binds`: which databases are open, in all processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from flask import Flask

from flask_pooled_db.flask.context import AppState
from harness.server import MariaDBServer
from tests.flask.workers import Host
from tests.support.apps import pooled_app
from tests.support.page_scenes import host, pool, process

HEAD = ["BIND", "PROCESSES", "OPEN", "IN USE", "IDLE", "WAITING", "UNUSED FOR"]


def cells(printed: str) -> list[list[str]]:
    """The table that was printed."""
    lines = printed.splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def run(app: Flask, *args: str) -> str:
    """What the command prints."""
    result = app.test_cli_runner().invoke(args=["pooled-db", "binds", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_binds_of_all_processes(make_host: Callable[..., Host]) -> None:
    """A line for each database that some process has open, with the connections of all of them."""
    host = make_host()
    host.add(2)
    host.add(1, "other")
    worker = host.workers[2]
    with worker.connection_context("other") as conn:
        conn.execute("SELECT 1")
        worker.host_stats()
        printed = host.run("binds").stdout
    assert cells(printed) == [
        HEAD,
        ["'default'", "3", "4", "0", "4", "0"],
        ["'other'", "1", "2", "1", "1", "0", "in use"],
    ]
    worker.host_stats()
    (found,) = json.loads(host.run("binds", "--json", "--bind", "other").stdout)
    assert found["unused_for"] > 0.0
    assert (found["processes"], found["is_used"], found["idle"]) == (1, False, 2)
    worker.close_bind("other")
    worker.host_stats()
    assert len(cells(host.run("binds").stdout)) == 2


def test_binds_of_this_process(url: str, tmp_path: Path) -> None:
    """Where processes do not meet, it tells those of its own, and says so."""
    with pooled_app(url, runtime_dir=False) as (app, db):
        db.bind_loader(lambda name: f"sqlite:///{tmp_path / 'other'}")
        with db.connection_context("a\nb") as conn:
            conn.execute("SELECT 1")
            problem, *printed = run(app).splitlines()
        assert problem == "Other processes can't be seen: POOLED_DB_RUNTIME_DIR is False"
        assert cells("\n".join(printed)) == [
            HEAD,
            ["'default'", "1", "0", "0", "0", "0"],
            ["'a\\nb'", "1", "1", "1", "0", "0", "in use"],
        ]


def test_least_unused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unused since its last use in any process, up to now and not to when that was told."""

    def told(seconds: float) -> dict[str, object]:
        return {"north": {"is_used": False, "unused_for": seconds, "server": None}}

    ones = [
        process(7, age=1.0, pools={"north": pool(open=1)}, opened=told(90.0)),
        process(8, age=4.0, pools={"north": pool(open=2)}, opened=told(30.0)),
        process(9, age=0.0, pools={"north": pool(open=1)}, opened=told(300.0)),
    ]
    monkeypatch.setattr(AppState, "read_host", lambda self: host(*ones))
    with pooled_app(url) as (app, _):
        assert cells(run(app))[1:] == [["'north'", "3", "4", "0", "0", "0", "34.0 s"]]


def test_binds_of_tenants(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A tenant is listed with the bind whose connections it shares, where they are counted."""
    schema = mariadb.create_database()
    binds = {"server": {"URL": mariadb.url("pymysql", schema), "MINCACHED": 0}}
    with pooled_app(None, binds=binds, runtime_dir=tmp_path / "run") as (app, db), ExitStack() as s:
        db.bind_loader(lambda name: {"SERVER": "server", "SCHEMA": schema})
        for name in ("red", "blue"):
            s.enter_context(db.connection_context(name)).cursor().execute("SELECT 1")
        assert cells(run(app)) == [
            [*HEAD, "SHARES"],
            ["'blue'", "1", "in use", "'server'"],
            ["'red'", "1", "in use", "'server'"],
            ["'server'", "1", "2", "2", "0", "0"],
        ]
