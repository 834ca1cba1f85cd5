"""The PostgreSQL that the tests start, and what the proxy reads of its protocol."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from harness.postgres import PostgreSQLServer
from harness.postgres_protocol import PARSE, QUERY, SYNC, PostgreSQLSplitter
from harness.proxy import Proxy
from harness.sockets import database_sockets


@pytest.fixture
def proxied(postgresql_server: PostgreSQLServer) -> Iterator[tuple[Proxy, psycopg.Connection]]:
    """A proxy, and a connection of psycopg through it."""
    server = postgresql_server
    with Proxy(server.host, server.port, splitter=PostgreSQLSplitter) as proxy:
        url = server.url(port=proxy.port).replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            yield proxy, connection


def test_round_trips_on_the_wire(proxied: tuple[Proxy, psycopg.Connection]) -> None:
    """A statement is one round trip, with parameters or without, and so is a pipeline; the
    handshake is none. The texts are read.
    """
    proxy, connection = proxied
    assert proxy.connections == 1
    assert proxy.commands == []
    connection.execute("SELECT 1")
    assert [(command.code, command.payload) for command in proxy.commands] == [
        (QUERY, b"SELECT 1\0")
    ]
    assert proxy.round_trips == 1
    proxy.reset_counts()
    connection.execute("SELECT %s::int", (5,))
    assert proxy.round_trips == 1
    assert [c.starts_with(b"select") for c in proxy.commands if c.code == PARSE] == [True]
    proxy.reset_counts()
    with connection.pipeline():
        for number in range(3):
            connection.execute("SELECT %s::int", (number,))
    assert [c.code for c in proxy.commands].count(SYNC) == proxy.round_trips == 1


def test_faults_of_a_statement(proxied: tuple[Proxy, psycopg.Connection]) -> None:
    """A fault strikes the statement that it is bound to."""
    proxy, connection = proxied
    proxy.cut_before(b"SELECT 2")
    assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 2")


def test_message_in_pieces() -> None:
    """Messages are read however the network cuts them."""
    startup = (8).to_bytes(4, "big") + (196608).to_bytes(4, "big")
    query = b"Q" + (13).to_bytes(4, "big") + b"SELECT 1\0"
    splitter, found = PostgreSQLSplitter(), []
    for byte in startup + query + query:
        found += [command for _, command in splitter.feed(bytes([byte]))]
    assert found == [None, (QUERY, b"SELECT 1\0"), (QUERY, b"SELECT 1\0")]


def test_server_that_is_followed_and_restarted() -> None:
    """What is written is there after a restart, and on a standby, until that is promoted and has
    its own.
    """
    with PostgreSQLServer() as server:
        server.execute("CREATE TABLE t (id INT)")
        server.restart()
        with server.standby() as standby:
            assert standby.query("SELECT count(*) FROM t") == [(0,)]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                standby.execute("INSERT INTO t VALUES (1)")
            standby.promote()
            assert standby.execute("INSERT INTO t VALUES (1)") == 1


def test_direct_connections_are_watched(postgresql_server: PostgreSQLServer) -> None:
    """A connection without a proxy between counts as one to a database."""
    before = database_sockets()
    with psycopg.connect(postgresql_server.url().replace("+psycopg", "")):
        assert len(database_sockets() - before) == 1
    assert database_sockets() == before
