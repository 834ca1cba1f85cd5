"""The open files of a process are watched."""

from __future__ import annotations

import contextlib
import os
import resource

import pytest

from flask_pooled_db.telemetry.openfiles import Count, OpenFiles, count_files
from tests.support.apps import pooled_app


def test_a_process_near_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    """A process is said once to be near its limit, with the pools' part in it, and once to be over
    that.
    """
    now = [Count(79, 100)]
    files = OpenFiles(lambda: now[0], lambda: {"default": 2, "log\n": 30, "idle": 0})
    files.look()
    assert not caplog.records
    for count in (80, 95, 81, 75):
        now[0] = Count(count, 100)
        files.look()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "This process has 80 files open, and may have 100 (the pools have 32 connections open, "
        r"bind 'log\n' the most with 30). Without another one it can neither open a connection nor "
        "accept a request: raise its limit (ulimit -n, or LimitNOFILE of systemd), or look for "
        "what leaves files open"
    )
    caplog.clear()
    now[0] = Count(69, 100)
    files.look()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "has 69 files open, and may have 100: that is enough again" in caplog.text
    now[0] = Count(90, 100)
    files.look()
    assert "has 90 files open" in caplog.text


def test_the_pools_may_have_no_part_in_it(caplog: pytest.LogCaptureFixture) -> None:
    """Where other files use up the limit, the line says so."""
    files = OpenFiles(lambda: Count(9, 10), dict)
    files.look()
    assert "(the pools have no connections open)" in caplog.text


def test_the_real_count(caplog: pytest.LogCaptureFixture, tmp_path: os.PathLike[str]) -> None:
    """The files are those of this very process, and the limit is the one that holds for it."""
    before = count_files()
    assert before is not None
    assert before.limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        now = count_files()
    assert now is not None
    assert now.open - before.open == 5


def test_no_limit(caplog: pytest.LogCaptureFixture) -> None:
    """Without a limit, nothing is said."""
    files = OpenFiles(lambda: None, dict)
    files.look()
    assert not caplog.records


def test_an_app_is_watched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process is looked at from its first connection on."""
    from flask_pooled_db.telemetry import openfiles
    from harness.waiting import wait_until

    monkeypatch.setattr(openfiles, "INTERVAL", 0.01)
    monkeypatch.setattr(openfiles.open_files, "_count", lambda: Count(9, 10))
    openfiles.open_files.after_fork_in_child()  # afresh
    with pooled_app("sqlite:///:memory:") as (_, db):
        assert not caplog.records
        with db.connection_context() as connection:
            connection.execute("SELECT 1")
        wait_until(lambda: "has 9 files open" in caplog.text, "the warning")
    monkeypatch.undo()
    openfiles.open_files.after_fork_in_child()
