"""Fixtures of the tests of the Flask side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from click.testing import Result

from flask_pooled_db.flask.commands import remains
from flask_pooled_db.flask.commands.stopping import Stopping
from harness.waiting import wait_until
from tests.flask.stressing import (
    Disturb,
    Site,
    make,
    stress,
)
from tests.support.pools import call


@pytest.fixture
def empty(url: str) -> Iterator[Site]:
    """An app whose database has no tables."""
    app, db = make(url=url, maxconnections=3)
    yield app, db
    db.close()


@pytest.fixture
def disturb(monkeypatch: pytest.MonkeyPatch) -> Disturb:
    """Run the command, do harm when it is at work, and end it."""
    may_end = threading.Event()
    monkeypatch.setattr(Stopping, "is_asked", lambda _: may_end.is_set())

    def run(site: Site, harm: Callable[[], None], is_at_work: Callable[[], object]) -> Result:
        may_end.clear()
        running = call(stress, site, "--seconds=600", "--clients=2", "--json")
        try:
            wait_until(is_at_work, "its first moves")
            harm()
        finally:
            may_end.set()
            result: Result = running.result()
        return result

    return run


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the end of what was left behind."""
    monkeypatch.setattr(remains, "PATIENCE", 0.3)
