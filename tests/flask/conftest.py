"""What the tests of commands have around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from harness.server import MariaDBServer
from tests.flask.listing import Site, site_of


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing around the test tells how gunicorn runs."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def account(mariadb: MariaDBServer) -> Iterator[str]:
    """The name of a user of the test's own, without a password, who may have 30 connections."""
    name = f"user_{uuid4().hex[:8]}"
    mariadb.execute(f"CREATE USER '{name}'@'%' WITH MAX_USER_CONNECTIONS 30")
    mariadb.execute(f"GRANT ALL ON `test_%`.* TO '{name}'@'%'")
    yield name
    mariadb.execute(f"DROP USER '{name}'@'%'")


@pytest.fixture
def shop(mariadb: MariaDBServer, tmp_path: Path) -> Iterator[Site]:
    """An app on MariaDB."""
    database = mariadb.create_database()
    with site_of(mariadb.url("pymysql", database), database, tmp_path) as site:
        yield site
