"""The code of docs/async.md runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.lease.hops import PATIENCE as GRACE
from flask_pooled_db.runtime import crew
from harness.processes import PROJECT
from harness.waiting import PATIENCE

PAGE = (PROJECT / "docs" / "async.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app saves boxes, rates them, and shows them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "boxes"}
    for block in BLOCKS:
        exec(compile(block, "async.md", "exec"), names)
    app, db = names["app"], names["db"]
    with app.app_context():
        db.execute("CREATE TABLE boxes (code TEXT, quality TEXT)")
    client = app.test_client()
    assert client.post("/boxes/A1/good").status_code == 201
    assert client.put("/boxes/A1/bad").json == {"moved": 1}
    assert client.get("/boxes/A1").json == {"qualities": ["bad"]}
    db.close(timeout=PATIENCE)


def test_seconds() -> None:
    """The page's seconds are those of the package."""
    assert "it waits for a second at most" in PAGE
    assert GRACE == 1.0
    assert "end after\nfive seconds" in PAGE
    assert sys.modules[type(crew).__module__].REST == 5.0
