"""The proxy that stands for a faulty network."""

from __future__ import annotations

import threading
import time

import pymysql
import pytest

from harness.naive import DRIVERS
from harness.protocol import COM_QUERY
from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.waiting import wait_until
from harness.workloads import add, balances, connection_id, create_accounts
from tests.harness.connections import LOST, SILENCE, InThread, connected, fetch_one

pytestmark = pytest.mark.mariadb_only


class TestProxy:
    def test_round_trips_of_statement(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """A statement is one round trip, the handshake none, and the text is recorded."""
        with connected(mariadb_driver, server.connect_args(port=proxy.port)) as connection:
            assert proxy.connections == 1
            proxy.reset_counts()
            assert fetch_one(connection, "SELECT 1") == 1
            assert proxy.round_trips == 1
            assert [command[1:] for command in proxy.commands] == [(COM_QUERY, b"SELECT 1")]
            assert proxy.connections == 0

    def test_round_trips_of_prepared_statement(self, server: MariaDBServer, proxy: Proxy) -> None:
        """A statement prepared and executed in one go is one round trip, its closing none."""
        database = server.create_database()
        create_accounts(server, database, n=1, amount=1)
        arguments = server.connect_args(database, port=proxy.port)
        with connected("mariadbconnector", arguments) as connection:
            proxy.reset_counts()
            with connection.cursor(binary=True) as cursor:
                cursor.execute("SELECT ?", (5,))
                assert cursor.fetchone() == (5,)
            with connection.cursor() as cursor:
                cursor.executemany("INSERT INTO accounts VALUES (?, 1)", [(2,), (3,)])
            fetch_one(connection, "SELECT 1")
            assert len(proxy.commands) > proxy.round_trips == 3

    def test_long_statement(self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
        """A long statement arrives whole, and its first 200 bytes are recorded."""
        sql = f"SELECT LENGTH('{'x' * 1_000_000}')"
        with connected(mariadb_driver, server.connect_args(port=proxy.port)) as connection:
            proxy.reset_counts()
            assert fetch_one(connection, sql) == 1_000_000
            assert [command.payload for command in proxy.commands] == [sql[:200].encode()]

    def test_delay(self, server: MariaDBServer, proxy: Proxy) -> None:
        """A round trip takes twice the delay, whatever the size of the answer."""
        with connected("pymysql", server.connect_args(port=proxy.port)) as connection:
            proxy.delay = 0.05
            began = time.monotonic()
            assert len(fetch_one(connection, "SELECT REPEAT('x', 2000000)")) == 2_000_000
            assert 0.1 <= time.monotonic() - began < 1
            proxy.delay = 0.0

    def test_cut(self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
        """cut() resets open connections, on the server as well, and lets new ones through."""
        arguments = server.connect_args(port=proxy.port)
        with connected(mariadb_driver, arguments) as connection:
            proxy.cut()
            with pytest.raises(LOST):
                fetch_one(connection, "SELECT 1")
        with connected(mariadb_driver, arguments) as connection:
            assert fetch_one(connection, "SELECT 1") == 1

    def test_deaf(self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
        """While the proxy is deaf, a statement and a connect hang; they succeed when it hears
        again.
        """
        arguments = server.connect_args(port=proxy.port)
        with connected(mariadb_driver, arguments) as connection:
            known = set(server.connections())
            proxy.deaf()
            answer = InThread(lambda: fetch_one(connection, "SELECT 7"))
            newcomer = InThread(lambda: DRIVERS[mariadb_driver].connect(**arguments))
            assert not answer.returned_within(SILENCE)
            assert not newcomer.returned_within(SILENCE)
            assert set(server.connections()) <= known
            proxy.hear()
            assert answer.result() == 7
            newcomer.result().close()

    def test_deaf_and_end_of_connection(self, server: MariaDBServer, proxy: Proxy) -> None:
        """The server learns of a client's end only when the proxy hears again."""
        with connected("pymysql", server.connect_args(port=proxy.port)) as connection:
            id_ = connection_id(connection)
            proxy.deaf()
        assert id_ in server.connections()
        proxy.hear()
        wait_until(lambda: id_ not in server.connections(), "the end of the connection")

    def test_refuse(self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
        """refuse() makes connects fail, counts them apart, and leaves open connections alone."""
        arguments = server.connect_args(port=proxy.port)
        with connected(mariadb_driver, arguments) as connection:
            proxy.refuse()
            with pytest.raises(LOST):
                DRIVERS[mariadb_driver].connect(**arguments)
            assert (proxy.connections, proxy.refused) == (1, 1)
            assert fetch_one(connection, "SELECT 1") == 1
            proxy.accept()
        with connected(mariadb_driver, arguments) as connection:
            assert fetch_one(connection, "SELECT 1") == 1

    def test_hold_commit(self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
        """The client's COMMIT fails and the server's succeeds; the next one is not held."""
        database = server.create_database()
        create_accounts(server, database, n=1, amount=100)
        arguments = server.connect_args(database, port=proxy.port)
        proxy.hold_replies_to(b"commit")
        with connected(mariadb_driver, arguments) as connection:
            add(connection, 1, 5)
            with pytest.raises(LOST):
                connection.commit()
        assert balances(server, database) == {1: 105}
        with connected(mariadb_driver, arguments) as connection:
            add(connection, 1, 5)
            connection.commit()
        assert balances(server, database) == {1: 110}

    def test_cut_before_commit(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """The client's COMMIT fails, and the server rolled back."""
        database = server.create_database()
        create_accounts(server, database, n=1, amount=100)
        proxy.cut_before(b"COMMIT")
        with connected(
            mariadb_driver, server.connect_args(database, port=proxy.port)
        ) as connection:
            add(connection, 1, 5)
            with pytest.raises(LOST):
                connection.commit()
        with connected(mariadb_driver, server.connect_args(database)) as connection:
            add(connection, 1, 1)  # waits for the lock until the server has rolled back
            connection.commit()
        assert balances(server, database) == {1: 101}

    def test_wait_for_command(self, server: MariaDBServer, proxy: Proxy) -> None:
        """wait_for_command() returns while the statement runs."""
        with connected("pymysql", server.connect_args(port=proxy.port)) as connection:
            answer = InThread(lambda: fetch_one(connection, "SELECT SLEEP(30)"))
            assert proxy.wait_for_command(b"select sleep").code == COM_QUERY
            proxy.cut()
            assert isinstance(answer.result(), pymysql.err.OperationalError)
        with pytest.raises(TimeoutError, match="No command b'DELETE'"):
            proxy.wait_for_command(b"DELETE", timeout=0.01)

    def test_server_down_behind_the_proxy(self, private_mariadb: MariaDBServer) -> None:
        """A connect through the proxy to a server that is down fails at once."""
        with Proxy(private_mariadb.host, private_mariadb.port) as proxy:
            private_mariadb.kill()
            with pytest.raises(pymysql.err.OperationalError):
                pymysql.connect(**private_mariadb.connect_args(port=proxy.port))

    def test_close(self, mariadb: MariaDBServer) -> None:
        """A closed proxy has no connection, no listener and no thread; closing it again does
        nothing.
        """
        threads = set(threading.enumerate())
        proxy = Proxy(mariadb.host, mariadb.port)
        with connected("pymysql", mariadb.connect_args(port=proxy.port)) as connection:
            proxy.close()
            with pytest.raises(LOST):
                fetch_one(connection, "SELECT 1")
        with pytest.raises(pymysql.err.OperationalError, match="Connection refused"):
            pymysql.connect(**mariadb.connect_args(port=proxy.port))
        assert set(threading.enumerate()) <= threads
        proxy.close()
