"""The example app, through Flask's test client: on SQLite, and where it matters on MariaDB too."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

import example_app
from example_app import create_app
from example_app.database import SAMPLE_ORDERS, db
from example_app.parsing import QUALITIES
from tests.support.pools import PATIENCE, fail_to_connect
from tests.support.proxy import Proxy
from tests.support.server import MariaDBServer
from tests.support.sockets import free_port
from tests.support.stages import ON_SHARED_SERVER

NOT_TEXT: list[object] = ["", "  ", None, 7, True, [], {"a": 1}]
PACKAGE = Path(example_app.__file__).parent
SCAN = {"order": "A-1001", "box": "BOX-1", "quality": "ok", "operator": "Ann"}


EVERY_DATABASE = pytest.mark.parametrize("url", ["sqlite", *ON_SHARED_SERVER], indirect=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The SQLite file of a test that runs on SQLite."""
    return tmp_path / "scans.sqlite"


@pytest.fixture
def url(request: pytest.FixtureRequest, file: Path) -> str:
    """The database of the app: SQLite, unless the test asks for a driver."""
    driver = getattr(request, "param", "sqlite")
    if driver == "sqlite":
        return f"sqlite:///{file}"
    server: MariaDBServer = request.getfixturevalue("mariadb")
    return server.url(driver, server.create_database())


@pytest.fixture
def app(url: str) -> Iterator[Flask]:
    app = create_app({"POOLED_DB_URL": url, "TESTING": True})
    yield app
    close(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    assert app.test_cli_runner().invoke(args=["init-db"]).exit_code == 0
    return app.test_client()


def close(app: Flask) -> None:
    # Connects that are under way in the background end first, and the proxy they may go through
    # after them.
    with app.app_context():
        db.close(timeout=PATIENCE)


def counters(client: FlaskClient, order: str = "A-1001") -> tuple[int, int]:
    answer = client.get(f"/orders/{order}").get_json()
    return answer["approved"], answer["rejected"]


def rows(file: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute(sql).fetchall()


def test_init_db_runs_twice(app: Flask, file: Path) -> None:
    """A second init-db succeeds and changes nothing, counters included."""
    runner = app.test_cli_runner()
    assert "ready" in runner.invoke(args=["init-db"]).output
    assert app.test_client().post("/scans", json=SCAN).status_code == 201
    before = rows(file, "SELECT * FROM orders"), rows(file, "SELECT * FROM scans")
    second = runner.invoke(args=["init-db"])
    assert (second.exit_code, second.exception) == (0, None)
    assert (rows(file, "SELECT * FROM orders"), rows(file, "SELECT * FROM scans")) == before
    assert len(before[0]) == len(SAMPLE_ORDERS)


def test_init_db_without_a_database_says_so() -> None:
    """Nobody listens: one line says so, with the driver's error and without the password."""
    away = create_app(
        {
            "POOLED_DB_URL": f"mariadb+pymysql://scan:geheim@127.0.0.1:{free_port()}/scans",
            "POOLED_DB_ACQUIRE_TIMEOUT": 0.2,
        }
    )
    fail_to_connect(away.extensions["pooled_db"].pool(None))
    result = away.test_cli_runner().invoke(args=["init-db"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: no connection in 0.")
    assert "OperationalError 2003" in result.output
    assert "geheim" not in result.output
    close(away)


def test_page(client: FlaskClient) -> None:
    """The page is HTML, offers every quality, and lets nothing in from elsewhere."""
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.mimetype == "text/html"
    assert answer.headers["Content-Security-Policy"] == "default-src 'self'"
    assert all(f'<option value="{quality}">' in answer.text for quality in QUALITIES)
    assert "http://" not in answer.text
    assert "https://" not in answer.text


@pytest.mark.parametrize("name", sorted(path.name for path in (PACKAGE / "static").iterdir()))
def test_static_files(client: FlaskClient, name: str) -> None:
    """What the page refers to is served."""
    with client.get(f"/static/{name}") as answer:
        assert answer.status_code == 200


@EVERY_DATABASE
def test_scan_is_saved_and_counted(client: FlaskClient) -> None:
    """201 answers with the scan and with the counters it led to."""
    answer = client.post("/scans", json=SCAN)
    assert answer.status_code == 201
    body = answer.get_json()
    assert body["order"] == {"code": "A-1001", "target": 48, "approved": 1, "rejected": 0}
    saved = body["scan"]
    assert saved == {**SCAN, "number": 1, "saved_at": saved["saved_at"]}
    assert datetime.fromisoformat(saved["saved_at"]).utcoffset() == timedelta(0)
    assert client.get("/scans").get_json()["scans"] == [saved]
    assert counters(client) == (1, 0)


@pytest.mark.parametrize("quality", QUALITIES)
def test_quality_decides_the_counter(client: FlaskClient, quality: str) -> None:
    """`ok` is approved, each defect is rejected."""
    client.post("/scans", json={**SCAN, "quality": quality})
    assert counters(client) == ((1, 0) if quality == "ok" else (0, 1))


@EVERY_DATABASE
def test_codes_are_normalised(client: FlaskClient) -> None:
    """Case and outer blanks make no other order and no other box, on any database."""
    scan = {"order": " a-1001 ", "box": "\tbox-1\n", "quality": "ok", "operator": " Ann "}
    body = client.post("/scans", json=scan).get_json()
    assert (body["scan"]["order"], body["scan"]["box"]) == ("A-1001", "BOX-1")
    assert body["scan"]["operator"] == "Ann"
    assert client.post("/scans", json=SCAN).status_code == 409
    assert client.get("/orders/a-1001").get_json()["approved"] == 1


@EVERY_DATABASE
def test_box_scanned_twice(client: FlaskClient) -> None:
    """409 answers with the scan that stands, and nothing is counted."""
    first = client.post("/scans", json=SCAN).get_json()["scan"]
    answer = client.post("/scans", json={**SCAN, "quality": "dent", "operator": "Bob"})
    assert answer.status_code == 409
    assert answer.get_json()["scan"] == first
    assert counters(client) == (1, 0)


@EVERY_DATABASE
def test_same_box_in_another_order(client: FlaskClient) -> None:
    """A box is unique within its order only."""
    assert client.post("/scans", json=SCAN).status_code == 201
    assert client.post("/scans", json={**SCAN, "order": "A-1002"}).status_code == 201


def test_unknown_order(client: FlaskClient, file: Path) -> None:
    """404, and no row."""
    answer = client.post("/scans", json={**SCAN, "order": "NOPE"})
    assert (answer.status_code, answer.get_json()) == (404, {"error": "There is no order NOPE."})
    assert rows(file, "SELECT * FROM scans") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in SCAN for value in NOT_TEXT),
        ("order", "A" * 33),
        ("box", "B" * 65),
        ("operator", "n" * 65),
        ("order", "A 1001"),
        ("box", "BÖX"),
        ("box", "ß"),
        ("box", "-1"),
        ("box", "B\x001"),
        ("quality", "OK"),
        ("quality", "fine"),
        ("operator", "An\x00n"),
        ("operator", "\ud800"),
        ("operator", "two\nlines"),
    ],
)
def test_bad_field(client: FlaskClient, field: str, value: object) -> None:
    """400 names the bad field, that one alone, and nothing is counted."""
    answer = client.post("/scans", json={**SCAN, field: value})
    assert answer.status_code == 400
    assert list(answer.get_json()["fields"]) == [field]
    assert counters(client) == (0, 0)


def test_every_bad_field_is_named(client: FlaskClient) -> None:
    """One answer names them all."""
    answer = client.post("/scans", json={"quality": "fine"})
    assert answer.status_code == 400
    assert set(answer.get_json()["fields"]) == {"order", "box", "quality", "operator"}


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"[]", "application/json"),
        (b'"text"', "application/json"),
        (b"null", "application/json"),
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"", "application/json"),
        (b"order=A-1001", "application/x-www-form-urlencoded"),
        (b'{"order": "A-1001"}', "text/plain"),
        (b"", None),
    ],
)
def test_body_of_another_shape(client: FlaskClient, data: bytes, content_type: str | None) -> None:
    """400 for anything but a JSON object sent as JSON."""
    answer = client.post("/scans", data=data, content_type=content_type)
    assert answer.status_code == 400
    assert list(answer.get_json()["fields"]) == ["body"]


def test_body_too_large(client: FlaskClient) -> None:
    """413, as JSON."""
    answer = client.post("/scans", json={**SCAN, "operator": "n" * 20_000})
    assert answer.status_code == 413
    assert "error" in answer.get_json()


@EVERY_DATABASE
def test_longest_values_fit(client: FlaskClient) -> None:
    """What the checks let through, the columns hold."""
    operator = "Ñ" * 63 + "😀"
    scan = {"order": "A-1001", "box": "b" * 64, "quality": "label", "operator": operator}
    answer = client.post("/scans", json=scan)
    assert answer.status_code == 201
    assert answer.get_json()["scan"]["operator"] == operator


@EVERY_DATABASE
def test_counters_agree_after_errors(client: FlaskClient) -> None:
    """Whatever failed in between, approved + rejected is the number of scans."""
    for box in range(5):
        client.post("/scans", json={**SCAN, "box": f"B{box}", "quality": "ok"})
        client.post("/scans", json={**SCAN, "box": f"B{box}", "quality": "dent"})
        client.post("/scans", json={**SCAN, "box": f"D{box}", "quality": "dent"})
        client.post("/scans", json={**SCAN, "box": f"X{box}", "order": "NOPE"})
        client.post("/scans", json={**SCAN, "box": ""})
    assert counters(client) == (5, 5)
    scans = client.get("/scans?order=A-1001&limit=500").get_json()["scans"]
    assert [scan["number"] for scan in scans] == list(range(10, 0, -1))
    assert [scan["quality"] for scan in scans] == ["dent", "ok"] * 5


def test_failing_insert_undoes_the_count(client: FlaskClient, file: Path) -> None:
    """An error after the UPDATE leaves the counters as they were."""
    rows(file, "DROP TABLE scans")
    client.application.testing = False
    assert client.post("/scans", json=SCAN).status_code >= 500
    assert counters(client) == (0, 0)


@EVERY_DATABASE
def test_list_scans(client: FlaskClient) -> None:
    """The newest first, of all orders or of one, as many as asked for."""
    for number, order in enumerate(["A-1001", "A-1002", "A-1001", "A-1001"]):
        client.post("/scans", json={**SCAN, "order": order, "box": f"B{number}"})

    def boxes(query: str) -> list[str]:
        return [scan["box"] for scan in client.get(f"/scans{query}").get_json()["scans"]]

    assert boxes("") == ["B3", "B2", "B1", "B0"]
    assert boxes("?limit=2") == ["B3", "B2"]
    assert boxes("?order=A-1001") == ["B3", "B2", "B0"]
    assert boxes("?order=a-1001&limit=1") == ["B3"]
    assert boxes("?order=A-1002&limit=500") == ["B1"]
    assert boxes("?order=NOPE") == []


@pytest.mark.parametrize(
    ("query", "bad"),
    [
        ("limit=0", {"limit"}),
        ("limit=501", {"limit"}),
        ("limit=-1", {"limit"}),
        ("limit=ten", {"limit"}),
        ("limit=", {"limit"}),
        ("limit=²", {"limit"}),
        ("limit=" + "9" * 5000, {"limit"}),
        ("order=", {"order"}),
        ("order=' OR 1=1", {"order"}),
        ("order=%20&limit=x", {"order", "limit"}),
    ],
)
def test_list_scans_bad_query(client: FlaskClient, query: str, bad: set[str]) -> None:
    """400 names each bad parameter."""
    answer = client.get(f"/scans?{query}")
    assert answer.status_code == 400
    assert set(answer.get_json()["fields"]) == bad


@EVERY_DATABASE
def test_orders(client: FlaskClient) -> None:
    """All orders by code, and each by itself."""
    listed = client.get("/orders").get_json()["orders"]
    assert [(order["code"], order["target"]) for order in listed] == list(SAMPLE_ORDERS)
    for order in listed:
        assert client.get(f"/orders/{order['code']}").get_json() == order


@EVERY_DATABASE
@pytest.mark.parametrize("code", ["NOPE", "%20", "A-1001%20x", "A" * 200, "%C3%89", "%00"])
def test_no_such_order(client: FlaskClient, code: str) -> None:
    """404, as JSON."""
    answer = client.get(f"/orders/{code}")
    assert answer.status_code == 404
    assert "error" in answer.get_json()


def test_unknown_path_and_method(client: FlaskClient) -> None:
    """Flask's own errors are JSON too, with their headers."""
    assert client.get("/nowhere").get_json()["error"]
    answer = client.delete("/scans")
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert answer.get_json()["error"]


@EVERY_DATABASE
def test_healthz(client: FlaskClient) -> None:
    """200 while the database answers."""
    answer = client.get("/healthz")
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/healthz"),
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


def test_default_database(tmp_path: Path) -> None:
    """Without any setting, init-db makes an SQLite file in the instance folder, wherever it is."""
    project = tmp_path / "my app %41?"
    shutil.copytree(PACKAGE, project / PACKAGE.name)
    env = {name: value for name, value in os.environ.items() if name != "POOLED_DB_URL"}
    env["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-m", "flask", "--app", "example_app", "init-db"]
    subprocess.run(command, cwd=project, env=env, check=True, timeout=30)
    assert len(list((project / "instance").glob("*.sqlite"))) == 1


def test_config_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLASK_ variables and POOLED_DB_URL count, and the argument outranks both."""
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    monkeypatch.setenv("FLASK_POOLED_DB_MAXCONNECTIONS", "7")
    monkeypatch.setenv("FLASK_POOLED_DB_URL", "sqlite:///not-this-one")
    monkeypatch.setenv("POOLED_DB_URL", url)
    app = create_app()
    assert app.config["POOLED_DB_URL"] == url
    assert app.config["POOLED_DB_MAXCONNECTIONS"] == 7
    assert create_app({"POOLED_DB_URL": "sqlite://"}).config["POOLED_DB_URL"] == "sqlite://"
