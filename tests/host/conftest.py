"""A directory in which processes meet, and another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.meeting import Other


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of this user's alone."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def other(folder: Path) -> Iterator[Other]:
    """Another process of the same app."""
    with Other(folder) as other:
        yield other
