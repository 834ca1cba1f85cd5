"""`/metrics` of several workers under a real gunicorn, killed and reloaded under load."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.gunicorn import GunicornServer
from harness.waiting import wait_until
from tests.support.churn import churn
from tests.support.scrapes import POOL, Samples, samples, value

WORKERS = 2
LOAD = 1.2

CHECKOUTS = "db_client_connection_wait_time_seconds_count"

_COUNTER = re.compile(r"_total$|_seconds_(count|sum|bucket)$")

pytestmark = pytest.mark.slow


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[GunicornServer]:
    """The app on several workers."""
    env = {
        "FLASK_POOLED_DB_URL": f"sqlite:///{tmp_path}/shop.sqlite",
        "FLASK_POOLED_DB_RUNTIME_DIR": str(tmp_path / "run"),
        "FLASK_POOLED_DB_MINCACHED": "0",
    }
    options = [f"--workers={WORKERS}", "--worker-class=gthread", "--threads=4"]
    config = ["--config", "python:tests.support.scraped_app", "--graceful-timeout=5"]
    with GunicornServer(tmp_path, [*config, *options], env, ready="/metrics") as server:
        yield server


class Client:
    """Uses the app and scrapes it, again and again."""

    def __init__(self, server: GunicornServer) -> None:
        self._server = server
        self.used = 0
        self.seen: Samples = {}
        self.went_back: list[object] = []

    def ask(self, path: str) -> str | None:
        """Return what a worker answers; None if it was killed meanwhile."""
        with closing(self._server.connect()) as connection:
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                text = answer.read().decode()
            except (OSError, http.client.HTTPException):
                return None
        assert answer.status == 200, text
        return text

    def scrape(self) -> Samples | None:
        """Return all counters, and note which ones went back or have gone."""
        text = self.ask("/metrics")
        if text is None:
            return None
        found = samples(text)
        counters = {key: each for key, each in found.items() if _COUNTER.search(key[0])}
        for key, before in self.seen.items():
            if counters.get(key, -1.0) < before:
                self.went_back.append((key, before, counters.get(key)))
        self.seen = counters
        return found

    def work(self, until: float) -> None:
        while time.monotonic() < until:
            self.used += self.ask("/use") is not None
            self.scrape()


def test_workers(gunicorn: GunicornServer) -> None:
    """While workers are killed and all are reloaded, under load, no counter ever goes back or goes
    away, whichever worker answers; in the end, what was answered has been counted. With the label,
    those that have ended are a worker of their own, and the sum is the same.
    """
    clients = [Client(gunicorn) for _ in range(2)]
    churn(gunicorn, [each.work for each in clients], seconds=LOAD, turns=3)
    assert [each.went_back for each in clients] == [[], []]
    while sum(each.used for each in clients) <= 10:  # a busy machine may have served few so far
        clients[0].used += clients[0].ask("/use") is not None
    used = sum(each.used for each in clients)

    def tells_all() -> bool:
        """Whether all workers that live are told, and the counters of those that have ended."""
        clients[0].ask("/use")
        plain, labelled = clients[0].scrape(), clients[0].ask("/labelled/metrics")
        if plain is None or labelled is None:
            return False
        found = samples(labelled)
        workers = {dict(labels)["worker"] for name, labels in found if name == CHECKOUTS}
        assert value(plain, CHECKOUTS) >= used > 10
        assert value(found, CHECKOUTS) >= value(plain, CHECKOUTS)
        assert value(found, "pooled_db_lease_seconds_total", endpoint="use") > 0
        return workers == {"ended", *map(str, gunicorn.workers())}

    wait_until(tells_all, "all workers")
    found = clients[0].scrape()
    assert found is not None
    assert value(found, "db_client_connection_max", **{POOL: "default"}) == 20 * WORKERS
    assert clients[0].went_back == []
