"""The code of docs/seeing.md runs."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness.processes import PROJECT
from harness.waiting import PATIENCE

PAGE = (PROJECT / "docs" / "seeing.md").read_text(encoding="utf-8")


def keys(value: Any) -> Any:
    """The names in an answer, without what they stand for."""
    return {name: keys(each) for name, each in value.items()} if isinstance(value, dict) else None


def test_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's view answers what the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(code, "seeing.md", "exec"), names)
    client = names["app"].test_client()
    assert client.get("/").text == "Hello."
    told, expected = client.get("/workers").json, json.loads(shown)
    assert keys(told["processes"][0]) == keys(expected["processes"][0])
    assert keys(told["totals"]) == keys(expected["totals"])
    names["db"].close(timeout=PATIENCE)
