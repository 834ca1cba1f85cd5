"""Fixtures of the tests of the pool."""

from __future__ import annotations

import pytest

from tests.support.fake_driver import FakeDriver


@pytest.fixture
def fake() -> FakeDriver:
    """A driver without a server."""
    return FakeDriver()
