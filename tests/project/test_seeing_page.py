"""What docs/seeing.md shows is what an app gets."""

from __future__ import annotations

import re

import pytest

from flask_pooled_db import RecordedStatement
from flask_pooled_db.runtime import Throttle
from flask_pooled_db.telemetry import slow
from flask_pooled_db.telemetry.recording import LONGEST, MOST, REPEATS
from flask_pooled_db.telemetry.shown import LONGEST as LONGEST_SHOWN
from harness.processes import PROJECT
from tests.support.apps import pooled_app
from tests.support.sites import warnings_in

PAGE = (PROJECT / "docs" / "seeing.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


def words_of(text: str) -> str:
    """The words of a log line, without what differs from one to another."""
    text = re.sub(r"\d[\d.e-]* s|\d+ (?=rows|times)", "# ", text)
    text = re.sub(r"endpoint '\w+'|code outside a request", "CALLER", text)
    return re.sub(r" at \S+:\d+", " at PLACE", text)


def test_lines_of_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of the log are those that the page shows, but for their facts."""
    monkeypatch.setattr(slow, "throttle", Throttle(1))
    with pooled_app("sqlite://", slow_statement=1e-9, record_statements=True) as (_, db):
        for _ in range(REPEATS + 1):
            db.fetch_all("SELECT 1 UNION SELECT 2")
        recorded = db.recorded_statements()
    page = words_of(WORDS)
    for line in (warnings_in(caplog)[0], warnings_in(caplog)[-1]):
        words, _, _ = words_of(line).partition(": SELECT")
        assert words in page
    fields = re.findall(r"(\w+)=", repr(recorded[0]).replace("'SELECT", ""))
    assert fields == list(RecordedStatement._fields)
    assert all(f"{field}=" in WORDS for field in fields)


def test_limits() -> None:
    """The numbers of the page are those of the code."""
    assert f"cut after {LONGEST_SHOWN:,} characters" in WORDS
    assert f"At most {slow.LINES} lines a second" in WORDS
    assert f"{slow.MOST_NAMES} callers are told from each other" in WORDS
    assert f"The first {MOST:,} statements of a context are kept, and {LONGEST:,} char" in WORDS
