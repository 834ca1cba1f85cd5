"""Requests to the example app, and what it stored."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

import example_app
from example_app.database import db
from harness.waiting import PATIENCE
from tests.support.stages import ON_SHARED_SERVER

PACKAGE = Path(example_app.__file__).parent
SCAN = {"order": "A-1001", "box": "BOX-1", "quality": "ok", "operator": "Ann"}
EVERY_DATABASE = pytest.mark.parametrize("url", ["sqlite", *ON_SHARED_SERVER], indirect=True)


def close(app: Flask) -> None:
    # Connects that are under way in the background end first, and the proxy they may go through
    # after them.
    with app.app_context():
        db.close(timeout=PATIENCE)


def counters(client: FlaskClient, order: str = "A-1001") -> tuple[int, int]:
    answer = client.get(f"/orders/{order}").get_json()
    return answer["approved"], answer["rejected"]


def rows(file: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute(sql).fetchall()
