"""Saving scans."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from example_app.parsing import QUALITIES
from tests.example_app.requests import EVERY_DATABASE, SCAN, counters, rows

NOT_TEXT: list[object] = ["", "  ", None, 7, True, [], {"a": 1}]


@EVERY_DATABASE
def test_saved_scan(client: FlaskClient) -> None:
    """201 answers with the scan and the counters it led to."""
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
def test_quality(client: FlaskClient, quality: str) -> None:
    """`ok` counts as approved, each defect as rejected."""
    client.post("/scans", json={**SCAN, "quality": quality})
    assert counters(client) == ((1, 0) if quality == "ok" else (0, 1))


@EVERY_DATABASE
def test_normalised_codes(client: FlaskClient) -> None:
    """Case and outer blanks do not make another order or box, on any database."""
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
    """A box is unique only within its order."""
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


def test_bad_fields(client: FlaskClient) -> None:
    """One answer names every bad field."""
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
def test_malformed_body(client: FlaskClient, data: bytes, content_type: str | None) -> None:
    """Anything but a JSON object sent as JSON is answered 400."""
    answer = client.post("/scans", data=data, content_type=content_type)
    assert answer.status_code == 400
    assert list(answer.get_json()["fields"]) == ["body"]


def test_body_too_large(client: FlaskClient) -> None:
    """413, as JSON."""
    answer = client.post("/scans", json={**SCAN, "operator": "n" * 20_000})
    assert answer.status_code == 413
    assert "error" in answer.get_json()


@EVERY_DATABASE
def test_longest_values(client: FlaskClient) -> None:
    """The longest values that are accepted fit into the columns."""
    operator = "Ñ" * 63 + "😀"
    scan = {"order": "A-1001", "box": "b" * 64, "quality": "label", "operator": operator}
    answer = client.post("/scans", json=scan)
    assert answer.status_code == 201
    assert answer.get_json()["scan"]["operator"] == operator


@EVERY_DATABASE
def test_counters_after_errors(client: FlaskClient) -> None:
    """After errors, approved + rejected is still the number of scans."""
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


def test_failing_insert(client: FlaskClient, file: Path) -> None:
    """An error after the UPDATE leaves the counters unchanged."""
    rows(file, "DROP TABLE scans")
    client.application.testing = False
    assert client.post("/scans", json=SCAN).status_code >= 500
    assert counters(client) == (0, 0)
