"""The example app's page of the pools, and the trouble that one can make to see it work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app
from example_app.database import db
from flask_pooled_db.flask.page.blueprint import BEFORE
from harness.waiting import wait_until
from tests.example_app.requests import close

PAGES = ("/pooled-db/", "/pooled-db/data", "/trouble")


@pytest.fixture
def app(url: str, tmp_path: Any) -> Iterator[Flask]:
    """The app, whose trouble is short, and whose callers wait for less than that."""
    settings = {
        "POOLED_DB_URL": url,
        "POOLED_DB_RUNTIME_DIR": str(tmp_path / "run"),
        "POOLED_DB_ACQUIRE_TIMEOUT": 0.1,
        "POOLED_DB_MAXCONNECTIONS": 3,
        "TROUBLE_SECONDS": 4,  # an answer may be a second old
    }
    app = create_app(settings)
    with app.app_context():  # a busy machine connects in no 0.1 s
        wait_until(lambda: app.test_client().get("/healthz/ready").status_code == 200)
        wait_until(lambda: db.stats().idle == 3, "the pool's connections")
    yield app
    for lock in app.extensions["trouble"].values():
        with lock:  # it has ended
            pass
    close(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def view(client: FlaskClient, before: str = "") -> Any:
    return client.get("/pooled-db/data", headers={BEFORE: before}).json


class Visitor:
    """Remembers what it has seen first, as the page does."""

    def __init__(self, client: FlaskClient) -> None:
        self._client = client
        self._before = json.dumps(view(client)["sample"])

    def has_read(self, words: str) -> bool:
        """Whether these words are in what is wrong now."""
        found = view(self._client, self._before)["findings"]
        return words in "\n".join(one["title"] for one in found)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {"Host": "[::1]:8000"}, 200),
        ("10.0.0.7", {}, 403),
        ("", {}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.7"}, 403),
        ("127.0.0.1", {"Forwarded": "for=10.0.0.7"}, 403),
        ("127.0.0.1", {"Host": "rebound.example:8000"}, 403),
    ],
)
def test_local_alone(
    client: FlaskClient, path: str, address: str, headers: dict[str, str], status: int
) -> None:
    """The pages are for this machine: not for others, nor through a proxy, nor under a name that
    was made to mean it.
    """
    environ = {"REMOTE_ADDR": address}
    assert client.get(path, headers=headers, environ_base=environ).status_code == status


@pytest.mark.parametrize("kind", ["burst", "leak", "slow", "call"])
def test_trouble_of_others(client: FlaskClient, kind: str) -> None:
    """Nobody else can make trouble, nor can another site, and no link does."""
    path = f"/trouble/{kind}"
    remote = client.post(path, environ_base={"REMOTE_ADDR": "10.0.0.7"})
    crossing = client.post(path, headers={"Sec-Fetch-Site": "cross-site"})
    assert (remote.status_code, crossing.status_code) == (403, 403)
    assert client.get(path).status_code == 405


def test_burst(client: FlaskClient) -> None:
    """A burst uses the pool up; the page says so, and who holds it; then it is over."""
    visitor = Visitor(client)
    assert client.post("/trouble/burst").status_code == 303
    wait_until(lambda: visitor.has_read("has no free connection"), "the full pool", 0.05)
    wait_until(lambda: visitor.has_read("got no connection"), "the timeouts", 0.05)
    assert view(client)["leases"][0]["name"] == "endpoint 'trouble.call_something_slow'"
    wait_until(lambda: view(client)["binds"][0]["in_use"] == 0, "its end", 0.05)


def test_leak(client: FlaskClient) -> None:
    """What a view forgets is told; the job that keeps a connection is seen while it does."""
    visitor = Visitor(client)
    client.application.config["TROUBLE_SECONDS"] = 1.2
    client.post("/trouble/leak")
    wait_until(
        lambda: visitor.has_read("3 connections of the default database were never"), "", 0.05
    )
    wait_until(lambda: "thread 'leak'" in [one["name"] for one in view(client)["leases"]], "", 0.05)
    wait_until(lambda: view(client)["binds"][0]["in_use"] == 0, "its end", 0.05)
