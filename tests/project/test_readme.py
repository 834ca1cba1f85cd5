"""The README's code runs, in the order it is read in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, db_connection_context
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.config.pool import APP_KEYS
from flask_pooled_db.drivers import make_driver
from harness.processes import PROJECT
from harness.waiting import PATIENCE

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that the README's blocks define."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "shop"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    yield names
    # The pool warms up in the background: a connect that came after the test would make the
    # database in whatever is the current directory by then.
    names["db"].close(timeout=PATIENCE)


def test_complete_app(shop: dict[str, Any]) -> None:
    """The app of the README saves an order, and shows what its pool does."""
    app: Flask = shop["app"]
    answer = app.test_client().post("/orders", json={"code": "A1"})
    assert (answer.status_code, answer.json) == (201, {"saved": True})
    with app.app_context():
        assert shop["orders"]() == ["A1"]
        assert shop["rename_order"]("A1", "A2") == 1
        assert shop["orders"]() == ["A2"]
    assert app.test_client().get("/pool").get_json()["in_use"] == 0


def test_nested_block(shop: dict[str, Any]) -> None:
    """In the README's nested block, an order is placed without the item that is out of stock."""
    app: Flask = shop["app"]
    app.test_client().post("/orders", json={"code": "A1"})
    with app.app_context():
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("CREATE TABLE stock (item VARCHAR(20) PRIMARY KEY, n INTEGER)")
            cur.executemany("INSERT INTO stock VALUES (%s, %s)", [("nut", 5), ("bolt", 0)])
        assert shop["place_order"]("A2", ["nut", "bolt"]) == ["bolt"]
        shop["restock"]("bolt")
        with db_connection_context(readonly=True) as conn, conn.cursor() as cur:
            cur.execute("SELECT item, n FROM stock ORDER BY item")
            assert cur.fetchall() == [("bolt", 1), ("nut", 4)]
        assert shop["orders"]() == ["A1", "A2"]


def test_one_statement(shop: dict[str, Any]) -> None:
    """The README's single statements read and write, and its view ends the request's connection."""
    app: Flask = shop["app"]
    client = app.test_client()
    for code in ("A1", "A2"):
        client.post("/orders", json={"code": code})
    assert shop["rename"]("A2", "B2") == 1
    assert shop["codes"]() == ["A1", "B2"]
    assert client.post("/orders/A1/cancel").get_json() == {"cancelled": 1}
    assert shop["codes"]() == ["B2"]
    assert shop["db"].stats().in_use == 0


def test_on_commit(shop: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """The README's mail is sent once the order is there."""
    app: Flask = shop["app"]
    app.test_client().post("/orders", json={"code": "A1"})
    with caplog.at_level("INFO"), app.app_context():
        shop["accept_order"]("A9")
        assert "A9" in shop["orders"]()
    assert "order A9 is on its way" in caplog.text


def test_configuration_table() -> None:
    """The README lists every key with its default."""
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", README, re.MULTILINE))
    assert set(rows) == set(APP_KEYS)
    no_values = {"URL", "CREATOR", "BINDS", "CONNECT_ARGS", "SETSESSION"}
    for key in set(rows) - no_values - {"REPLICA", "SERVER", "SCHEMA"}:
        assert eval(rows[key]) == APP_KEYS[key].default, key


def test_urls() -> None:
    """Each URL of the README works with its driver, and so does its mapping of parts."""
    urls = re.findall(r"`([a-z+]+://[^`]+@[^`]+|sqlite://[^`]*)`", README)
    assert {url.partition(":")[0] for url in urls} >= {"mysql", "mariadb", "postgresql", "sqlite"}
    for url in urls:
        make_driver(PoolConfig.from_mapping({"URL": url}))


def test_url_of_function(shop: dict[str, Any]) -> None:
    """The README's function tells a URL that its driver takes."""
    shop["new_token"] = lambda user: f"token of {user}"
    config = PoolConfig.from_mapping(shop["short_lived"], "POOLED_DB_")
    assert len(make_driver(config).for_connect().servers) == 2


def test_tenants(shop: dict[str, Any]) -> None:
    """The README's tenants are taken."""
    app = Flask("app_under_test")
    app.config.update(shop["tenants"])
    PooledDB(app).close()


def test_url_in_parts(shop: dict[str, Any]) -> None:
    """The README's mappings of parts are taken."""
    app = Flask("app_under_test")
    app.config.update(shop["in_parts"])
    PooledDB(app).close()
