"""A directory in which processes meet, and another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_pooled_db.host import publisher
from tests.host.meeting import Other
from tests.host.obedience import FAST, Doing, Worker, published


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


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes publish, and look for orders, many times a second."""
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(publisher, "INTERVAL", FAST)
    monkeypatch.setattr(publisher, "MOST_WORK", 1.0)


@pytest.fixture
def doing() -> Doing:
    """What carries out the orders to this process."""
    return Doing()


@pytest.fixture
def worker(hurry: None, folder: Path, doing: Doing) -> Iterator[Worker]:
    """A process of the app, which does what it is ordered to."""
    with published(folder, doing) as pair:
        yield pair
