"""What docs/moving.md shows, and the README's table that leads there."""

from __future__ import annotations

import re

from flask_pooled_db import PooledDB
from harness.processes import PROJECT
from tests.habits.page import PAGE, renewed

README = (PROJECT / "README.md").read_text(encoding="utf-8")
NAMES = re.compile(r"\b(?:db|mysql)\.(\w+)")


def test_moving_differences() -> None:
    """The page shows what differs; `python -m tests.habits` renews it."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == renewed(text), "run: .venv/bin/python -m tests.habits"


def test_you_write() -> None:
    """What the README's table has people write exists."""
    table = README.partition("| you have | you write |")[2].partition("\n\n")[0]
    names = {name for row in table.splitlines() for name in NAMES.findall(row.rpartition(" | ")[2])}
    assert names >= {"connection", "connection_context", "execute", "fetch_all", "run_script"}
    assert [name for name in names if not hasattr(PooledDB, name)] == []
