"""What the commands and the health paths tell of the workers of a real gunicorn, of which one hangs
and is killed then.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands.servers import orphans
from flask_pooled_db.host import report
from harness.gunicorn import WAYS, GunicornServer
from harness.server import APP_USER, MariaDBServer
from harness.waiting import wait_until
from tests.support.pools import call

pytestmark = pytest.mark.slow

APP = "tests.support.holding_app"
WORKERS = 2
ALIVE = {"status": "alive"}
READY = {"status": "ready", "binds": {"default": "ok"}}


class Site:
    """An app on several workers, and the commands that look at them."""

    def __init__(self, mariadb: MariaDBServer, folder: Path, way: str) -> None:
        self.way = way
        self._mariadb, self._database = mariadb, mariadb.create_database()
        (folder / "run").mkdir(mode=0o700)
        keys = {
            "URL": mariadb.url("pymysql", self._database),
            "RUNTIME_DIR": str(folder / "run"),
            "MINCACHED": 2,
            "LEAK_THRESHOLD": 60,
        }
        self._app = Flask(APP, root_path=str(Path("tests/support").resolve()))
        self._app.config.update({f"POOLED_DB_{name}": value for name, value in keys.items()})
        self.db = PooledDB(self._app)
        options = [f"--workers={WORKERS}", "--timeout=60", *WAYS[way], f"{APP}:create_app()"]
        env = {f"FLASK_POOLED_DB_{name}": str(value) for name, value in keys.items()}
        self.gunicorn = GunicornServer(folder, options, env)

    def run(self, *args: str) -> Any:
        """What a command tells."""
        result = self._app.test_cli_runner().invoke(args=["pooled-db", *args, "--json"])
        return json.loads(result.stdout)

    def printed(self, *args: str) -> str:
        """What a command prints."""
        result: str = self._app.test_cli_runner().invoke(args=["pooled-db", *args]).stdout
        return result

    def ask(self, path: str) -> tuple[int, str]:
        """What a worker answers."""
        with closing(self.gunicorn.connect()) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def known(self, *args: str) -> dict[int, list[int]]:
        """The ids of connections by the process that has them, as `server` tells."""
        (server,) = self.run("server", *args)["servers"]
        found: dict[int, list[int]] = {}
        for one in server["sessions"]:
            found.setdefault(one["pid"], []).append(one["id"])
        return found

    def seen(self) -> set[int]:
        """The processes of which `status` knows."""
        return {one["pid"] for one in self.run("status")["processes"]}

    def wait_for(self, workers: set[int]) -> None:
        """Return when these have used their database, and all is known of them."""
        arbiter = {self.gunicorn.pid} if self.way == "preload" else set()  # it has used the pool

        def have_worked() -> bool:
            for caller in [call(self.ask, "/hold/0.2") for _ in range(6)]:
                caller.wait()
            seen, known = self.seen(), self.known()
            has_all = all(len(known.get(one, ())) >= 2 for one in workers)
            return has_all and seen == workers | arbiter and known.keys() == seen | {os.getpid()}

        wait_until(have_worked, "the workers")

    def open_ids(self) -> set[int]:
        """The app's connections, as the server has them."""
        return set(self._mariadb.connections(APP_USER, self._database))

    def check_binds(self) -> None:
        """`binds` has the processes that `status` has, and the connections of all of them."""
        (bind,) = self.run("binds")
        assert (bind["name"], bind["processes"]) == ("default", len(self.seen()))
        assert bind["open"] >= 2 * WORKERS  # each has MINCACHED of them

    def check_check(self) -> None:
        """`check` knows how many workers there are and how they run, and which connections of the
        server are not theirs.
        """

        def is_told() -> bool:
            checked = self.run("check")
            texts = [each["text"] for each in checked["findings"] if each["topic"] == "connections"]
            where = f"the command line of gunicorn, process {self.gunicorn.pid}"
            assert checked["gunicorn"]["workers"] == {"value": WORKERS, "where": where}
            if "--threads=4" in WAYS[self.way]:
                assert checked["gunicorn"]["threads"] == {"value": 4, "where": where}
            (text,) = texts
            total = "2 workers x 20 (MAXCONNECTIONS: 20 of 'default') = 40 connections; "
            others = len(self._mariadb.connections()) - len(self.open_ids())
            return total in text and f", of which others use {others} now" in text

        with closing(pymysql.connect(**self._mariadb.connect_args())):
            # Another connection of the shared server may begin or end in between.
            wait_until(is_told, "what is told of the connections")

    def check_health(self) -> None:
        """Whichever worker is asked lives, and is ready."""
        for path, wanted in [("live", ALIVE), ("ready", READY)] * WORKERS:
            status, text = self.ask(f"/healthz/{path}")
            assert (status, json.loads(text)) == (200, wanted)


@pytest.fixture(params=list(WAYS))
def site(
    request: pytest.FixtureRequest,
    mariadb: MariaDBServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    site = Site(mariadb, tmp_path, request.param)
    with site.gunicorn:
        yield site
    site.db.close()


def test_workers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers are seen, and what each of them has; the arbiter, which has used the pool under
    --preload, is none. One that hangs is said to be silent, and keeps what it has; one that was
    killed is gone, and another one takes its place. The others serve all the time.
    """
    site.wait_for(set(site.gunicorn.workers()))
    checks = (site.check_binds, site.check_check, site.check_health)
    for check in checks:
        check()
    holder = call(site.ask, "/hold/3.0")
    held: list[dict[str, Any]] = []

    def is_held() -> bool:
        held[:] = [one for one in site.run("top") if one["name"] == "endpoint 'hold'"]
        return len(held) == 1

    wait_until(is_held, "the lease")
    workers = site.gunicorn.workers()
    assert held[0]["pid"] in workers
    (other,) = {*workers} - {held[0]["pid"]}
    os.kill(other, signal.SIGSTOP)
    time.sleep(orphans.MARGIN + 1.1)
    monkeypatch.setattr(report, "SILENT_AFTER", 1.5)
    wait_until(lambda: f"Process {other} has published nothing" in site.printed("status"), "it")
    before = site.known()[other]
    assert site.run("server", "--kill-orphans", "--yes", "--idle=0")["ended"] == []
    assert site.known()[other] == before
    assert set(before) <= site.open_ids()
    holder.wait()
    for check in checks:
        check()
    os.kill(other, signal.SIGKILL)
    wait_until(lambda: other not in site.seen() | site.known().keys(), "its end")
    wait_until(lambda: len(site.gunicorn.workers()) == WORKERS, "another one")
    site.wait_for(set(site.gunicorn.workers()))
    for check in checks:
        check()
    wait_until(lambda: not set(before) & site.open_ids(), "the end of its connections")
