"""What the commands `check` and `server` tell of workers under a real gunicorn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pymysql
import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands.servers import orphans
from harness.gunicorn import GunicornServer
from harness.server import APP_USER, MariaDBServer
from harness.waiting import wait_until
from tests.support.pools import call

pytestmark = pytest.mark.slow

APP = "tests.support.holding_app"


def test_workers(mariadb: MariaDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`server` knows each worker's connections; `check` how many workers there are, and how they
    run; the arbiter, which has used the pool under --preload, is none. A worker that is stopped
    keeps what it has, and one that was killed knows nothing any more.
    """
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    database = mariadb.create_database()
    (tmp_path / "run").mkdir(mode=0o700)
    keys = {
        "URL": mariadb.url("pymysql", database),
        "RUNTIME_DIR": str(tmp_path / "run"),
        "MINCACHED": 2,
    }
    app = Flask(APP, root_path=str(Path("tests/support").resolve()))
    app.config.update({f"POOLED_DB_{name}": value for name, value in keys.items()})
    db = PooledDB(app)

    def run(*args: str) -> dict[str, Any]:
        result = app.test_cli_runner().invoke(args=["pooled-db", *args, "--json"])
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    def known(*args: str) -> dict[int, list[int]]:
        """The ids of connections by the worker that has them."""
        (server,) = run("server", *args)["servers"]
        found: dict[int, list[int]] = {}
        for one in server["sessions"]:
            found.setdefault(one["pid"], []).append(one["id"])
        return found

    options = ["--workers=2", "--threads=3", "--preload", f"{APP}:create_app()"]
    env = {f"FLASK_POOLED_DB_{name}": str(value) for name, value in keys.items()}
    with GunicornServer(tmp_path, options, env) as gunicorn:
        workers = gunicorn.workers()

        def request() -> None:
            with contextlib.closing(gunicorn.connect()) as connection:
                connection.request("GET", "/hold/0.2")
                connection.getresponse().read()

        def have_worked() -> bool:
            for caller in [call(request) for _ in range(6)]:
                caller.wait()
            return all(len(known().get(one, ())) >= 2 for one in workers)

        wait_until(have_worked, "both workers")
        processes = {*workers, gunicorn.pid, os.getpid()}
        wait_until(lambda: set(known()) == processes, "what is opened is published")
        with contextlib.closing(pymysql.connect(**mariadb.connect_args())):
            checked = run("check")
            others = len(mariadb.connections()) - len(mariadb.connections(APP_USER, database))
        (text,) = [one["text"] for one in checked["findings"] if one["topic"] == "connections"]
        assert "2 workers x 20 (MAXCONNECTIONS: 20 of 'default') = 40 connections; " in text
        assert f", of which others use {others} now" in text
        told = checked["gunicorn"]
        where = f"the command line of gunicorn, process {gunicorn.pid}"
        assert told["workers"] == {"value": 2, "where": where}
        assert told["threads"] == {"value": 3, "where": where}
        os.kill(workers[0], signal.SIGSTOP)
        time.sleep(orphans.MARGIN + 1.1)
        before = known()
        assert run("server", "--kill-orphans", "--yes", "--idle=0")["ended"] == []
        assert known()[workers[0]] == before[workers[0]]
        assert set(before[workers[0]]) <= set(mariadb.connections(APP_USER, database))
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: workers[0] not in known(), "its end")
    db.close()
