"""Running either half of an app."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from harness.server import MariaDBServer
from harness.waiting import PATIENCE

APPS = ("blog", "club", "chat", "tenants", "sensors")
HALVES = ("before", "after")

each_half = pytest.mark.parametrize("half", HALVES)


def source(app: str, name: str) -> Path:
    """Return the path of a file of an app."""
    return Path(__file__).parent / app / name


def schema(app: str) -> str:
    """Return an app's schema."""
    return source(app, "schema.sql").read_text(encoding="utf-8")


def make_tables(server: MariaDBServer, database: str, app: str) -> None:
    """Run an app's schema."""
    for statement in filter(str.strip, schema(app).split(";")):
        server.execute(re.sub("TABLE |REFERENCES ", rf"\g<0>{database}.", statement))


def import_half(name: str, half: str) -> Any:
    """Return the module of one half of an app."""
    return importlib.import_module(f"tests.habits.{name}.{half}")


@contextmanager
def running(name: str, half: str, config: Mapping[str, Any]) -> Iterator[Flask]:
    """Make the app of one half; its pools are closed at the end."""
    app: Flask = import_half(name, half).create_app(config)
    try:
        yield app
    finally:
        close(app)


def close(app: Flask) -> None:
    """Close the pools of an app, if it has any."""
    state = app.extensions.get("pooled_db")
    for pool in state.registry.all_pools() if state else ():
        pool.close(PATIENCE)


def said(answer: TestResponse) -> tuple[int, Any]:
    """Return what an app answered."""
    return answer.status_code, answer.get_json() if answer.is_json else answer.text
