"""Fixtures of the tests of the example app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app
from harness.server import MariaDBServer
from tests.example_app.requests import close


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The SQLite file of a test that runs on SQLite."""
    return tmp_path / "scans.sqlite"


@pytest.fixture
def url(request: pytest.FixtureRequest, file: Path) -> str:
    """The database of the app: SQLite, unless the test asks for a driver."""
    driver = getattr(request, "param", "sqlite")
    if driver == "sqlite":
        return f"sqlite:///{file}"
    server: MariaDBServer = request.getfixturevalue("mariadb")
    return server.url(driver, server.create_database())


@pytest.fixture
def app(url: str) -> Iterator[Flask]:
    app = create_app({"POOLED_DB_URL": url, "TESTING": True})
    yield app
    close(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    assert app.test_cli_runner().invoke(args=["init-db"]).exit_code == 0
    return app.test_client()
