"""Several workers under a real gunicorn, killed and reloaded under load."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from harness.gunicorn import WAYS, GunicornServer
from harness.waiting import wait_until
from tests.support.churn import churn
from tests.support.counting_app import checkouts

WORKERS = 2
LOAD = 1.2

pytestmark = pytest.mark.slow


@pytest.fixture(params=list(WAYS))
def gunicorn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GunicornServer]:
    """The app on several workers."""
    env = {
        "FLASK_POOLED_DB_URL": f"sqlite:///{tmp_path}/shop.sqlite",
        "FLASK_POOLED_DB_RUNTIME_DIR": str(tmp_path / "run"),
        "FLASK_POOLED_DB_MINCACHED": "0",
    }
    options = [f"--workers={WORKERS}", *WAYS[request.param]]
    config = ["--config", "python:tests.support.counting_app", "--graceful-timeout=5"]
    with GunicornServer(tmp_path, [*config, *options], env, ready="/all") as server:
        yield server


class Client:
    """Asks again and again, and notes what was told."""

    def __init__(self, server: GunicornServer) -> None:
        self._server = server
        self.answered = 0
        self.seen = 0
        self.went_back: list[tuple[int, int]] = []
        self.problems: set[str] = set()

    def ask(self, path: str) -> dict[str, Any] | None:
        """Return what a worker answers; None if it was killed meanwhile."""
        with closing(self._server.connect()) as connection:
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                return None
        assert answer.status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def work(self, until: float) -> None:
        while time.monotonic() < until:
            found = self.ask("/use")
            if found is None:
                continue
            self.answered += 1
            if found["all"] < self.seen:
                self.went_back.append((self.seen, found["all"]))
            self.seen = found["all"]


def test_workers(gunicorn: GunicornServer, tmp_path: Path) -> None:
    """Each worker tells the numbers of all. While workers are killed and all are reloaded, under
    load, nobody is ever told less than before; in the end, what was answered has been counted, the
    files of the dead are gone, and a process beside gunicorn sees it all.
    """
    clients = [Client(gunicorn) for _ in range(3)]
    churn(gunicorn, [each.work for each in clients], seconds=LOAD, turns=4)
    assert [each.went_back for each in clients] == [[], [], []]
    answered, seen = sum(each.answered for each in clients), max(each.seen for each in clients)
    assert seen >= answered > 0

    def sees_all() -> bool:
        """Whether a worker sees itself and the others, and nobody else but the arbiter."""
        found = clients[0].ask("/all")
        if found is None:
            return False
        assert found["problem"] is None
        assert found["all"] >= seen
        clients[0].ask("/use")  # a worker publishes once it has used its pool
        living = set(gunicorn.workers())
        return len(living) == WORKERS and living <= set(found["pids"]) <= {*living, gunicorn.pid}

    wait_until(sees_all, "all workers")
    gunicorn.stop()
    app = Flask("tests.support.counting_app", root_path=str(Path("tests/support").resolve()))
    app.config.update(
        POOLED_DB_URL=f"sqlite:///{tmp_path}/shop.sqlite", POOLED_DB_RUNTIME_DIR=tmp_path / "run"
    )
    stats = PooledDB(app).host_stats()
    assert stats.processes == ()
    assert checkouts(stats) >= seen
    (own,) = (tmp_path / "run").iterdir()
    assert {path.name for path in own.iterdir()} <= {"ended.json", "ended.lock"}
    for trouble in ("[ERROR]", "Traceback", "are not seen by others", "is ignored"):
        assert trouble not in gunicorn.log.replace("[ERROR] Worker (pid:", "Worker ("), gunicorn.log
