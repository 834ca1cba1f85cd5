"""Fixtures of the tests of the drivers."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from tests.support.apps import pooled_app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with an empty table."""
    path = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
    return path


@pytest.fixture
def app(file: Path) -> Iterator[tuple[Flask, PooledDB]]:
    """An app on that file, inside its context."""
    with pooled_app(f"sqlite:///{file}") as pair:
        yield pair
