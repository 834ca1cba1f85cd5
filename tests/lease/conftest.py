"""Fixtures of the tests of the lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import PooledDB, db_connection_context
from harness.postgres import PostgreSQLServer
from harness.server import MariaDBServer
from tests.support.apps import pooled_app
from tests.support.scenarios.base import Scenario
from tests.support.sites import CREATE
from tests.support.stages import ON_PSYCOPG, ON_SHARED_SERVER, Stage, on_file, on_server


@pytest.fixture(params=["sqlite", ON_PSYCOPG, *ON_SHARED_SERVER])
def any_app(request: pytest.FixtureRequest, url: str) -> Iterator[PooledDB]:
    """The extension on each driver in turn, inside the context of its app, with the table `t`."""
    if request.param == "psycopg":
        shared: PostgreSQLServer = request.getfixturevalue("postgresql_server")
        url = shared.url(database=shared.create_database())
    elif request.param != "sqlite":
        server: MariaDBServer = request.getfixturevalue("mariadb")
        url = server.url(request.param, server.create_database())
    with pooled_app(url) as (_, db):
        with db_connection_context() as conn:
            conn.cursor().execute(CREATE)
        yield db


@pytest.fixture
def pymysql_stage(mariadb: MariaDBServer) -> Iterator[Stage]:
    """Our pool on MariaDB with one driver: for what the driver has no part in."""
    with on_server("ours", mariadb, "pymysql", is_direct=True) as stage:
        yield stage


@pytest.fixture
def play_on_own_server(mariadb_driver: str) -> Callable[[Scenario[Any]], None]:
    """Plays a scenario with our pool on a server started with the options that it needs."""

    def play(scenario: Scenario[Any]) -> None:
        with (
            MariaDBServer(scenario.options) as server,
            on_server("ours", server, mariadb_driver) as stage,
        ):
            scenario(stage)

    return play


ON_EVERY_WIRE = [
    pytest.param(("mariadb", "pymysql"), id="plain-pymysql", marks=pytest.mark.shared_server),
    pytest.param(
        ("mariadb", "mariadbconnector"),
        id="plain-mariadbconnector",
        marks=pytest.mark.shared_server,
    ),
    pytest.param(("tls_mariadb", "pymysql"), id="tls-pymysql"),
    pytest.param(("tls_mariadb", "mariadbconnector"), id="tls-mariadbconnector"),
    pytest.param((None, "sqlite"), id="sqlite"),
]


@pytest.fixture(params=ON_EVERY_WIRE)
def direct_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Our pool on each database in turn, without a proxy: rows can be read one by one."""
    server, driver = request.param
    if server is None:
        with on_file("ours", tmp_path / "file.sqlite") as stage:
            yield stage
    else:
        shared = request.getfixturevalue(server)
        with on_server("ours", shared, driver, is_direct=True) as stage:
            yield stage
