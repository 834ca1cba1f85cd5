"""What the tests of commands have around them: servers, workers that take orders, and load."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from click.testing import Result

from flask_pooled_db.flask.commands import ordering
from flask_pooled_db.flask.commands.stopping import Stopping
from flask_pooled_db.flask.commands.stress import remains
from flask_pooled_db.host import publisher
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.flask.listing import Site, site_of
from tests.flask.stressing import Disturb, make, stress
from tests.flask.stressing import Site as Stressed
from tests.flask.workers import Host
from tests.support.pools import call


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


@pytest.fixture
def empty(url: str) -> Iterator[Stressed]:
    """An app whose database has no tables."""
    app, db = make(url=url, maxconnections=3)
    yield app, db
    db.close()


@pytest.fixture
def empty_postgresql(shared_postgresql: str) -> Iterator[str]:
    """The URL of a database on PostgreSQL in which no schema has a table. It is the test's own."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(shared_postgresql.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        address, _, query = shared_postgresql.partition("?")
        yield f"{address.rpartition('/')[0]}/{name}{query and '?'}{query}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def disturb(monkeypatch: pytest.MonkeyPatch) -> Disturb:
    """Run the command, do harm when it is at work, and end it."""
    may_end = threading.Event()
    monkeypatch.setattr(Stopping, "is_asked", lambda _: may_end.is_set())

    def run(site: Stressed, harm: Callable[[], None], is_at_work: Callable[[], object]) -> Result:
        may_end.clear()
        running = call(stress, site, "--seconds=600", "--clients=2", "--json")
        try:
            wait_until(is_at_work, "its first moves")
            harm()
        finally:
            may_end.set()
            result: Result = running.result()
        return result

    return run


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the end of what was left behind."""
    monkeypatch.setattr(remains, "PATIENCE", 0.3)
