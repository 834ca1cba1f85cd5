"""What docs/seeing.md shows is what an app gets, and its code runs."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import PoolStats, RecordedStatement, signals
from flask_pooled_db.pool import evictions
from flask_pooled_db.runtime import Throttle
from flask_pooled_db.telemetry import openfiles, slow, slow_acquire, usage
from flask_pooled_db.telemetry.conventions import COUNTERS, GAUGES, TIMES
from flask_pooled_db.telemetry.measures import MANY
from flask_pooled_db.telemetry.recording import LONGEST, MOST, REPEATS
from flask_pooled_db.telemetry.shown import LONGEST as LONGEST_SHOWN
from flask_pooled_db.telemetry.spans import LONGEST as LONGEST_OF_SPANS
from harness.processes import PROJECT
from harness.waiting import PATIENCE
from tests.support.apps import pooled_app
from tests.support.busy_app import busy_app
from tests.support.sites import warnings_in

PAGE = (PROJECT / "docs" / "seeing.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


def section(title: str) -> str:
    """The part of the page under a heading."""
    _, _, rest = PAGE.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


def keys(value: Any) -> Any:
    """The names in an answer, without what they stand for."""
    return {name: keys(each) for name, each in value.items()} if isinstance(value, dict) else None


def test_fields() -> None:
    """Every number of a pool is in the page's table, and so is every reason of an eviction."""
    table = section("One process")
    for field in dataclasses.fields(PoolStats):
        assert f"`{field.name}`" in table
    kinds = {each.kind for each in vars(evictions).values() if hasattr(each, "kind")}
    assert kinds | {evictions.BROKEN} == set(evictions.KINDS)
    for kind in evictions.KINDS:
        assert f"`{kind}`" in table


def test_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's view answers what the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = section("All workers")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(code, "seeing.md", "exec"), names)
    client = names["app"].test_client()
    assert client.get("/").text == "Hello."
    told, expected = client.get("/workers").json, json.loads(shown)
    assert keys(told["processes"][0]) == keys(expected["processes"][0])
    assert keys(told["totals"]) == keys(expected["totals"])
    names["db"].close(timeout=PATIENCE)


def test_prometheus(tmp_path: Path) -> None:
    """What the page shows of `/metrics` is in a real answer, but for its numbers; every name in a
    real answer is on the page.
    """
    (shown,) = re.findall(r"^```text\n(.*?)^```$", section("Prometheus"), re.DOTALL | re.MULTILINE)
    with busy_app(tmp_path) as (app, _):
        told = app.test_client().get("/metrics").text
    without_numbers = re.compile(r" [\d.e-]+$", re.MULTILINE)
    lines = set(without_numbers.sub("", told).splitlines())
    assert set(without_numbers.sub("", shown).splitlines()) <= lines
    families = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert families == set(re.findall(r"^# TYPE (\w+)", shown, re.MULTILINE))


def test_opentelemetry() -> None:
    """The page's table has each instrument, with its unit."""
    table = section("OpenTelemetry")
    for metric in (*GAUGES, *COUNTERS, *TIMES):
        (row,) = [line for line in table.splitlines() if f"`{metric.name}`" in line]
        assert f"| {metric.unit} |" in row
    assert f"when there are {MANY} of them" in " ".join(table.split())
    assert f"cut after {LONGEST_OF_SPANS:,} characters" in " ".join(table.split())


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
    assert f"{usage.MOST_NAMES} callers are told from each other" in WORDS
    assert f"The first {MOST:,} statements of a context are kept, and {LONGEST:,} char" in WORDS
    assert slow_acquire.LINES == 10
    assert "at most ten lines a minute" in WORDS
    assert f"come to {openfiles.HIGH:.0%}".replace("%", " %") in WORDS
    assert f"below {openfiles.LOW:.0%}".replace("%", " %") in WORDS


def test_signals() -> None:
    """Every signal of a pool is in the page's table."""
    table = section("Signals")
    for name in signals.__all__:
        if name.islower() and not name.startswith("bind_"):
            assert f"`{name}`" in table
