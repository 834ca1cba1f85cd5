"""Fixtures of the tests of what is observed."""

from __future__ import annotations

import pytest

from flask_pooled_db.runtime import Throttle
from flask_pooled_db.telemetry import slow
from tests.support.clock import Clock


@pytest.fixture(autouse=True)
def throttle_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the throttle of slow statements, which begins anew with each test."""
    clock = Clock()
    monkeypatch.setattr(slow, "throttle", Throttle(slow.LINES, 1.0, clock))
    return clock
