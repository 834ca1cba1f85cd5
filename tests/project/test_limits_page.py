"""The code of docs/limits.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.lease.deadline import TOLERANCE
from harness.processes import PROJECT

PAGE = (PROJECT / "docs" / "limits.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app shows orders, leaves out what takes too long, and deletes those that are done."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "orders"}
    for block in BLOCKS:
        exec(compile(block, "limits.md", "exec"), names)
    app, db = names["app"], names["db"]
    app.config["POOLED_DB_URL"] = "sqlite://"
    with app.app_context():
        db.execute("CREATE TABLE orders (code TEXT, state TEXT)")
        db.execute("INSERT INTO orders VALUES ('A1', 'new'), ('B2', 'done')")
    client = app.test_client()
    assert client.get("/orders/A1").json == {"code": "A1", "similar": ["A1"]}
    monkeypatch.setattr(db, "deadline", lambda _, begin=db.deadline: begin(0))
    assert client.get("/orders/A1").json == {"code": "A1", "similar": []}
    monkeypatch.undo()
    assert app.test_cli_runner().invoke(args=["archive"]).exit_code == 0
    with app.app_context():
        assert db.fetch_all("SELECT code FROM orders") == [("A1",)]
    db.close()


def test_numbers() -> None:
    """The page's tenth is that of the package."""
    assert "by more than a tenth" in PAGE
    assert TOLERANCE == 0.1
