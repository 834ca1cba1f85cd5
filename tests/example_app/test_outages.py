"""The example app while its database is away, or a connection is lost."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from example_app import create_app
from harness.proxy import Proxy
from harness.server import MariaDBServer
from tests.example_app.requests import SCAN, close, counters


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/orders"),
        ("GET", "/orders/A-1001"),
        ("GET", "/scans"),
        ("POST", "/scans"),
    ],
)
def test_database_away(tmp_path: Path, method: str, path: str) -> None:
    """503 as JSON with Retry-After and no word of the driver's; the page loads all the same."""
    url = f"sqlite:///{tmp_path / 'missing' / 'secret.sqlite'}"
    app = create_app({"POOLED_DB_URL": url, "POOLED_DB_ACQUIRE_TIMEOUT": 0.2})
    client = app.test_client()
    answer = client.open(path, method=method, json=SCAN if method == "POST" else None)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert list(answer.get_json()) == ["error"]
    assert "secret" not in answer.text
    assert client.get("/").status_code == 200
    health = client.get("/healthz/ready")
    assert (health.status_code, health.get_json()["status"]) == (503, "down")
    assert "secret" not in health.text
    close(app)


def test_locked_database(url: str, client: FlaskClient, file: Path) -> None:
    """503 while somebody else holds SQLite's lock for long; then the same scan goes in."""
    app = create_app({"POOLED_DB_URL": f"{url}?timeout=0.05"})
    impatient = app.test_client()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = impatient.post("/scans", json=SCAN)
        assert (answer.status_code, list(answer.get_json())) == (503, ["error"])
        other.execute("ROLLBACK")
    assert impatient.post("/scans", json=SCAN).status_code == 201
    assert counters(client) == (1, 0)
    close(app)


@pytest.mark.parametrize("driver", ["pymysql", "mariadbconnector"])
def test_lost_answer_to_commit(server: MariaDBServer, proxy: Proxy, driver: str) -> None:
    """503 asks for the scan again, and the second try finds it saved, and counted once."""
    app = create_app(
        {"POOLED_DB_URL": server.url(driver, server.create_database(), port=proxy.port)}
    )
    assert app.test_cli_runner().invoke(args=["init-db"]).exit_code == 0
    client = app.test_client()
    proxy.hold_replies_to(b"COMMIT")
    answer = client.post("/scans", json=SCAN)
    assert answer.status_code == 503
    assert "again" in answer.get_json()["error"]
    assert "Nothing was saved" not in answer.text
    assert client.post("/scans", json=SCAN).status_code == 409
    assert counters(client) == (1, 0)
    close(app)


@pytest.mark.parametrize("driver", ["pymysql", "mariadbconnector"])
def test_connection_lost_in_a_transaction(server: MariaDBServer, proxy: Proxy, driver: str) -> None:
    """A scan whose connection is lost between UPDATE and INSERT is started over: 201, once."""
    app = create_app(
        {"POOLED_DB_URL": server.url(driver, server.create_database(), port=proxy.port)}
    )
    assert app.test_cli_runner().invoke(args=["init-db"]).exit_code == 0
    client = app.test_client()
    proxy.cut_before(b"INSERT")
    assert client.post("/scans", json=SCAN).status_code == 201
    assert counters(client) == (1, 0)
    proxy.cut_before(b"INSERT", times=10)
    answer = client.post("/scans", json={**SCAN, "box": "BOX-2"})
    assert (answer.status_code, list(answer.get_json())) == (503, ["error"])
    assert counters(client) == (1, 0)
    close(app)
