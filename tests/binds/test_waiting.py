"""Who waits until a bind may be opened is seen as any other caller who waits for a connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, PoolTimeout, UnknownBind, signals
from flask_pooled_db.runtime import announcer, reporter
from harness.waiting import PATIENCE, wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call
from tests.support.sites import warnings_in

SLOW = 0.05

Site = tuple[Flask, PooledDB]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An app that may have one bind open by its name."""
    keys = {"max_binds": 1, "leak_threshold": 600, "slow_acquire": SLOW}
    with pooled_app("sqlite://", runtime_dir=tmp_path / "run", **keys) as (app, db):
        db.bind_loader(lambda name: f"sqlite:///{tmp_path / name}.db")
        yield app, db


def use(db: PooledDB, name: str, **options: Any) -> None:
    with db.connection_context(name, **options) as conn:
        conn.execute("SELECT 1")


def test_timeout(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A caller for whom no bind made room by its deadline is counted, announced and logged, and its
    error names those who hold connections.
    """
    app, db = site
    heard: list[dict[str, Any]] = []

    def hear(sender: Flask, **news: Any) -> None:
        heard.append(news)

    with signals.checkout_timed_out.connected_to(hear, app), db.connection_context("north") as conn:
        conn.execute("SELECT 1")
        for _ in range(2):
            with pytest.raises(PoolTimeout, match=r"held longest by .*test_waiting\.py") as caught:
                use(db, "south", timeout=2 * SLOW)
        (holder,) = caught.value.holders
        assert (holder.bind, holder.place[0] if holder.place else "") == ("north", __file__)
        announcer.flush(PATIENCE)
    assert [(news["bind"], news["seconds"] >= 2 * SLOW) for news in heard] == [("south", True)] * 2
    totals = db.host_stats().totals["pools"]
    assert {name: one["timeouts"] for name, one in totals.items()} == {
        "default": 0,
        "north": 0,
        "south": 2,
    }
    reporter.flush(PATIENCE)
    lines = [text for text in warnings_in(caplog) if "in vain" in text]
    assert len(lines) == 2
    assert "s for a connection of bind 'south' (POOLED_DB_SLOW_ACQUIRE is 0.05 s)" in lines[0]
    assert "held longest now by " in lines[0]


def test_late(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A caller who waited for a bind to make room is logged as slow; one who did not is not."""
    _, db = site
    may_end, is_in = threading.Event(), threading.Event()

    def hold() -> None:
        with db.connection_context("north") as conn:
            conn.execute("SELECT 1")
            is_in.set()
            may_end.wait(PATIENCE)

    holder = call(hold)
    assert is_in.wait(PATIENCE)
    waiter = call(use, db, "south")
    wait_until(lambda: db.pool("north").engine.holders()[0].age > 4 * SLOW, "a long wait")
    may_end.set()
    holder.result()
    waiter.result()
    reporter.flush(PATIENCE)
    (line,) = [text for text in warnings_in(caplog) if "until bind 'south' could be opened" in text]
    assert "(POOLED_DB_SLOW_ACQUIRE is 0.05 s)" in line


def test_other_opener(site: Site) -> None:
    """A caller who waits in vain for another one that opens the bind is announced as well."""
    app, db = site
    may_end, is_in = threading.Event(), threading.Event()

    def load(name: str) -> None:
        is_in.set()
        may_end.wait(PATIENCE)

    db.loader = load
    heard: list[tuple[str, bool]] = []

    def hear(sender: Flask, bind: str, seconds: float) -> None:
        heard.append((bind, seconds >= SLOW))

    opener = call(lambda: use(db, "south"))
    assert is_in.wait(PATIENCE)
    with signals.checkout_timed_out.connected_to(hear, app):
        with pytest.raises(PoolTimeout, match="another caller is opening"):
            use(db, "south", timeout=SLOW)
        announcer.flush(PATIENCE)
    may_end.set()
    with pytest.raises(UnknownBind):
        opener.result()
    assert heard == [("south", True)]
