"""A registry for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flask_pooled_db.pool.registry import Registry
from tests.binds.names import Names, registry


@pytest.fixture
def fake_names() -> Iterator[Registry]:
    """A registry in which every name exists."""
    with registry(Names()) as binds:
        yield binds
