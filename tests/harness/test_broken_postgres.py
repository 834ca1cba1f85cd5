"""The PostgreSQL server that the tests start, where it is broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from harness.postgres import PostgreSQLServer
from harness.processes import ServerError, children, is_alive
from harness.workloads import create_accounts, total
from tests.harness.connections import SILENCE, InThread, fetch_one

pytestmark = pytest.mark.on_server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQLServer]:
    """One that these tests may break."""
    with PostgreSQLServer() as server:
        yield server


@pytest.fixture
def connection(server: PostgreSQLServer) -> Iterator[Any]:
    """A plain connection of psycopg."""
    with psycopg.connect(server.url().replace("+psycopg", "")) as connection:
        yield connection


def test_crash(server: PostgreSQLServer, connection: Any) -> None:
    """A crash ends every process, and tells no client why; what was committed is there after it."""
    database = server.create_database()
    create_accounts(server, database, n=3, amount=100)
    backend = connection.info.backend_pid
    server.crash()
    assert not is_alive(backend)
    with pytest.raises(psycopg.OperationalError) as raised:
        fetch_one(connection, "SELECT 1")
    assert raised.value.sqlstate is None
    server.start()
    assert total(server, database) == 300


def test_pause_and_resume(server: PostgreSQLServer, connection: Any) -> None:
    """A paused server answers neither old clients nor new ones, until it is resumed."""
    url = server.url().replace("+psycopg", "")
    server.pause()
    answer = InThread(lambda: fetch_one(connection, "SELECT 7"))
    arrival = InThread(lambda: psycopg.connect(url).close())
    assert not answer.returned_within(SILENCE)
    assert not arrival.returned_within(SILENCE)
    server.resume()
    assert (answer.result(), arrival.result()) == (7, None)


def test_pause_and_stop(server: PostgreSQLServer) -> None:
    """A paused server can be stopped, and nothing is left of it; then it can't be paused."""
    everybody = children(server.pid)
    server.pause()
    server.stop()
    assert not any(map(is_alive, everybody))
    with pytest.raises(ServerError, match="not running"):
        server.pause()
    server.start()


def test_connections_of_user(server: PostgreSQLServer, connection: Any) -> None:
    """Clients are told apart by their user."""
    backend = connection.info.backend_pid
    assert server.connections() == server.connections("postgres") == [backend]
    assert server.connections("somebody else") == []
