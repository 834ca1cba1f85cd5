"""What docs/page.md says of the page is so, and its code runs."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.host import report
from flask_pooled_db.telemetry import holding, lately, overview, present
from flask_pooled_db.telemetry.findings import HEADLINES
from harness.processes import PROJECT
from harness.waiting import PATIENCE

PAGE = (PROJECT / "docs" / "page.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())
LARGEST = 150_000


def test_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's app serves the page to administrators alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(code, "page.md", "exec"), names)
    names["app"].secret_key = "for the session"
    client = names["app"].test_client()
    assert client.get("/pooled-db/").status_code == 403
    with client.session_transaction() as session:
        session["role"] = "administrator"
    assert "Database pools" in client.get("/pooled-db/").text
    names["db"].close(timeout=PATIENCE)


def test_first_lines() -> None:
    """The table has each first line there is, in the order of their weight."""
    table = re.findall(r"^\| ([A-Z][^|]+) \| .* \|$", PAGE, re.MULTILINE)
    assert table == list(HEADLINES.values())


def test_limits() -> None:
    """The numbers of the page are those of the code."""
    assert f"At most {overview.MOST_BINDS} are told one by one" in WORDS
    assert f"it has {present.NEARLY_FULL * 100:.0f} % of its `max_connections`" in WORDS
    assert f"bad from {present.FULL * 100:.0f} % on" in WORDS
    assert f"published nothing for {report.SILENT_AFTER:.0f} seconds" in WORDS
    assert f"no statement has run for {holding.RESTS_IN_TRANSACTION:.0f} seconds in an" in WORDS
    assert f"or for {holding.RESTS:.0f} seconds" in WORDS
    assert lately.MANY_ENDED == lately.FEW_DEAD == 3


def test_images() -> None:
    """The pictures are there, and small."""
    for name in re.findall(r"\]\((images/[^)]+)\)", PAGE):
        assert 0 < (PROJECT / "docs" / name).stat().st_size < LARGEST
