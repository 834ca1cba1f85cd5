"""Workers that take orders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.flask.commands import ordering
from flask_pooled_db.host import publisher
from tests.flask.workers import Host


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes look for orders many times a second, and commands for answers."""
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(publisher, "INTERVAL", 0.05)
    monkeypatch.setattr(publisher, "MOST_WORK", 1.0)
    monkeypatch.setattr(ordering, "GLANCE", 0.02)


@pytest.fixture
def make_host(hurry: None, tmp_path: Path, url: str) -> Iterator[Callable[..., Host]]:
    """What makes one with these settings."""
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> Host:
            host = Host(tmp_path, {"url": url, **settings})
            stack.callback(host.close)
            return host

        yield make


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    """One with two workers, which have two connections each."""
    host = make_host()
    host.add(2)
    return host
