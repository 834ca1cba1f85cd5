"""Notices: a warning that many requests have cause for is logged once, and then counted."""

from __future__ import annotations

import pytest

from flask_pooled_db.runtime import Notices
from flask_pooled_db.runtime.notices import MOST, PAUSE
from tests.support.clock import Clock
from tests.support.sites import warnings_in


def test_once_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A cause has one line at once, and then one a minute at most, which says how often it came."""
    clock = Clock()
    notices = Notices(clock)
    for _ in range(37):
        notices.warn("here", "lost at %s", "x.py:1")
    notices.warn("there", "lost at %s", "x.py:2")
    assert warnings_in(caplog) == ["lost at x.py:1", "lost at x.py:2"]
    clock.now += PAUSE - 0.1
    notices.warn("here", "lost at %s", "x.py:1")
    assert len(warnings_in(caplog)) == 2
    clock.now += 0.1
    notices.warn("here", "lost at %s", "x.py:1")
    assert warnings_in(caplog)[2:] == ["lost at x.py:1 (38 more times since)"]
    clock.now += PAUSE
    notices.warn("here", "lost at %s", "x.py:1")
    assert warnings_in(caplog)[3:] == ["lost at x.py:1 (1 more times since)"]


def test_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond a thousand causes all others are one: neither memory nor log grows for good."""
    notices = Notices(Clock())
    for number in range(MOST + 50):
        notices.warn(number, "lost")
    assert len(warnings_in(caplog)) == MOST + 1
    notices.warn(0, "lost")
    assert len(warnings_in(caplog)) == MOST + 1


def test_broken_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log handler that raises harms nobody who warns."""

    def fail(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr("flask_pooled_db.runtime.notices.logger.warning", fail)
    Notices(Clock()).warn("here", "lost")
