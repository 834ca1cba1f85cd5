"""Fixtures of the tests of the drivers."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from harness.postgres import postgres
from tests.drivers.rotating import DATABASES, USER, Rotating, on_mariadb, on_postgresql
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


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """The URL of a server of this module's own, which asks the user for the password."""
    with postgres() as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as own:
            (hba,) = own.execute("SHOW hba_file").fetchone() or ("",)
            rules = Path(hba)
            rules.write_text(f"host all {USER} 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
            own.execute("SELECT pg_reload_conf()")
            own.execute(f"CREATE USER {USER}")
        yield url


@pytest.fixture(params=DATABASES)
def rotating(request: pytest.FixtureRequest) -> Iterator[Rotating]:
    """A server of each kind, for each driver."""
    if request.param == "psycopg":
        with on_postgresql(request.getfixturevalue("postgres_url")) as server:
            yield server
    else:
        with on_mariadb(request.getfixturevalue("mariadb"), request.param) as server:
            yield server
