"""The code of docs/databases.md runs, in the order it is read in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.config.app import APP_KEYS
from harness.processes import PROJECT
from harness.waiting import PATIENCE

PAGE = (PROJECT / "docs" / "databases.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that the page's blocks define, and two shops."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "shops"}
    for block in BLOCKS:
        exec(compile(block, "databases.md", "exec"), names)
    with names["app"].app_context():
        db = names["db"]
        db.execute("CREATE TABLE shops (name TEXT, url TEXT)")
        for shop in ("north", "south"):
            db.execute(
                "INSERT INTO shops VALUES (%s, %s)", (shop, f"sqlite:///{tmp_path}/{shop}.db")
            )
            db.execute("CREATE TABLE stock (item TEXT, n INT)", bind=shop)
            db.execute("INSERT INTO stock VALUES (%s, 1)", (f"nut of {shop}",), bind=shop)
    yield names
    db.close(timeout=PATIENCE)


def test_shops(shops: dict[str, Any]) -> None:
    """Each shop has a stock of its own, and an unknown one is a 404."""
    client = shops["app"].test_client()
    for shop in ("north", "south"):
        assert client.get(f"/{shop}/stock").json == {f"nut of {shop}": 1}
    answer = client.get("/east/stock")
    assert (answer.status_code, answer.text) == (404, "There is no such shop.")


def test_guard_and_receiver(shops: dict[str, Any]) -> None:
    """The guard keeps a shop, and the receiver forgets a key."""
    app, db = shops["app"], shops["db"]
    registry = app.extensions["pooled_db"].registry
    shops["keys"]["south"] = "secret"
    for opened in registry.opened.values():
        opened.at = opened.engine.state.used_at = -1e9
        for entry in opened.engine.state.idle:
            entry.since = -1e9
    assert shops["hourly"]() == "1 binds open, 1 closed, 1 kept by the guard"
    assert set(registry.opened) == {"north"}
    assert not shops["keys"]
    with app.app_context():
        assert db.close_bind("north")


def test_keys() -> None:
    """The page names the keys of databases by name, with their defaults."""
    rows = dict(re.findall(r"^\| `POOLED_DB_([A-Z_]+)` \| (.*?) \|", PAGE, re.MULTILINE))
    for key, default in rows.items():
        assert eval(default) == APP_KEYS[key].default, key
    assert rows
