"""POOLED_DB_SLOW_STATEMENT: statements that took longer are logged and counted."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, db_connection_context
from flask_pooled_db.runtime import reporter
from flask_pooled_db.telemetry.shown import LONGEST, shown
from flask_pooled_db.telemetry.slow import LINES, SlowStatements
from flask_pooled_db.telemetry.usage import MOST_NAMES, OTHER
from harness.waiting import PATIENCE
from tests.support.clock import Clock
from tests.support.sites import bare_app, serve, warnings_in

ANY = 1e-9
"""Seconds that every statement takes."""

Site = tuple[Flask, PooledDB]


@pytest.fixture
def site(url: str) -> Any:
    """An app whose statements are all slow."""
    with bare_app(url=url, slow_statement=ANY, record_statements=False) as pair:
        yield pair


def line() -> int:
    """The line that calls this."""
    return sys._getframe(1).f_lineno


def last(caplog: pytest.LogCaptureFixture) -> str:
    reporter.flush(PATIENCE)  # what a worker thread has logged
    return warnings_in(caplog)[-1]


def test_line_of_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The line has the bind, the duration, the endpoint, file and line, the rows and the text, and
    no parameter.
    """
    at = []

    def report() -> str:
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.executemany("INSERT INTO t VALUES (%s, %s)", [(1, "secret"), (2, "secret")])
            caplog.clear()
            at.append(line() + 1)
            cur.execute("SELECT id FROM t WHERE name = %s", ("secret",))
            cur.fetchall()
        return ""

    serve(site[0], "/report", report).get("/report")
    assert re.fullmatch(
        r"A statement of bind 'default' took \d+\.\d{3} s \(POOLED_DB_SLOW_STATEMENT is 1e-09 s\), "
        rf"run by endpoint 'report' at {re.escape(__file__)}:{at[0]}, 2 rows: "
        r"SELECT id FROM t WHERE name = \?",
        last(caplog),
    )
    assert "secret" not in caplog.text
    assert site[1].slow_statements()["report"] == 2


def test_fast_and_off(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A faster statement is neither logged nor counted; by default none is."""
    for settings in ({"slow_statement": 3600}, {}):
        with bare_app(url=f"{url}{len(settings)}", **settings) as (app, db), app.app_context():
            db.fetch_all("SELECT 1")
            assert db.slow_statements() == {}
    assert warnings_in(caplog) == []


def test_failed_statement(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A slow statement that failed says so, and not what its error says, which may be data."""
    with site[0].app_context(), pytest.raises(Exception, match="no such table"):
        site[1].fetch_all("SELECT * FROM nowhere")
    assert " and failed with OperationalError, run by code outside a request at " in last(caplog)
    assert "no such table" not in caplog.text


def test_forged_lines(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A text is one line, whatever is in it: nothing in it is taken for a line of the log."""
    forged = "\r\nERROR root \x1b[31m\x85\u2028\u202e all is lost"
    with site[0].app_context():
        site[1].fetch_all(f"SELECT 1 /*{forged}*/")
    assert last(caplog).endswith(
        r"SELECT 1 /*\r\nERROR root \x1b[31m\x85\u2028\u202e all is lost*/"
    )
    assert shown(forged).isprintable()
    assert shown("é ü 漢") == "é ü 漢"


def test_long_text(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A text is cut after 1,000 characters."""
    with site[0].app_context():
        site[1].fetch_all(f"SELECT '{'x' * 5000}'")
    assert LONGEST == 1000
    assert last(caplog).endswith(f": SELECT '{'x' * 992}...")


def test_lines_a_second(
    site: Site, caplog: pytest.LogCaptureFixture, throttle_clock: Clock
) -> None:
    """At most five lines a second are logged; the next one says how many were not."""
    throttle_clock.now += 1
    caplog.clear()
    with site[0].app_context():
        for _ in range(LINES + 7):
            site[1].fetch_all("SELECT 1")
        assert len(warnings_in(caplog)) == LINES == 5
        throttle_clock.now += 1
        site[1].fetch_all("SELECT 2")
    assert len(warnings_in(caplog)) == LINES + 1
    assert last(caplog).endswith(
        " (7 other slow ones were not logged since the line before): SELECT 2"
    )
    assert sum(site[1].slow_statements().values()) >= LINES + 8


def test_names_are_bounded() -> None:
    """Beyond 200 callers all others count as one."""
    slow = SlowStatements()
    for number in range(MOST_NAMES + 30):
        slow.count(f"endpoint 'e{number}'", "default", "SELECT 1", 0.5)
    slow.count("endpoint 'e3'", "default", "SELECT 1", 0.5)
    counts = dict(slow.counts())
    assert len(counts) == MOST_NAMES + 1
    assert (counts[OTHER], counts["endpoint 'e3'"]) == (30, 2)
    assert list(counts)[:2] == [OTHER, "endpoint 'e3'"]  # the highest first


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work, name="nightly")
    thread.start()
    thread.join(10)


def test_callers_outside_requests(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Outside of a request it is the thread, the task or the command that ran it, and the line of a
    task is its own.
    """
    app, db = site

    async def work() -> None:
        async with db.async_connection_context() as conn, conn.cursor() as cur:
            at.append(line() + 1)
            await cur.execute("SELECT 2")
            await cur.fetchall()

    async def main() -> None:
        await asyncio.create_task(work(), name="import")

    at: list[int] = []
    in_thread(lambda: db.fetch_all("SELECT 1"))
    assert " run by thread 'nightly' at " in last(caplog)
    asyncio.run(main())
    assert f" run by task 'import' at {__file__}:{at[0]}, 1 row: SELECT 2" in last(caplog)

    @app.cli.command("nightly")
    def nightly() -> None:
        db.fetch_all("SELECT 3")

    app.test_cli_runner().invoke(args=["nightly"])
    assert re.search(r" run by command '.*nightly' at ", last(caplog))
    assert set(db.slow_statements()) >= {"thread", "task"}


def test_bind_of_its_own(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A bind has its own limit, or that of the app."""
    binds = {"a": {"URL": f"{url}a", "SLOW_STATEMENT": 3600}, "b": f"{url}b"}
    with bare_app(url=url, binds=binds, slow_statement=ANY) as (app, db), app.app_context():
        caplog.clear()
        db.fetch_all("SELECT 1", bind="a")
        assert warnings_in(caplog) == []
        db.fetch_all("SELECT 1", bind="b")
        assert "A statement of bind 'b' took" in last(caplog)
