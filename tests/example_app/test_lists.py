"""Listing scans and orders."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from example_app.database import SAMPLE_ORDERS
from tests.example_app.requests import EVERY_DATABASE, SCAN


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
