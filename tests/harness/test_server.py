"""The MariaDB server that the tests start."""

from __future__ import annotations

import shutil
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql
import pytest

from harness.processes import ServerError
from harness.server import APP_PASSWORD, APP_PASSWORD_WORD, APP_USER, MariaDBServer, find_program
from harness.workloads import connection_id, create_accounts, total
from tests.harness.connections import LOST, SILENCE, InThread, connected, fetch_one

pytestmark = pytest.mark.mariadb_only


class TestServer:
    def test_app_user_connects_with_each_driver(
        self, mariadb: MariaDBServer, database: str, mariadb_driver: str
    ) -> None:
        """The application's user gets in, and is seen and told from others."""
        with connected(mariadb_driver, mariadb.connect_args(database)) as connection:
            assert fetch_one(connection, "SELECT DATABASE()") == database
            assert connection_id(connection) in mariadb.connections(APP_USER)
            assert mariadb.connections("somebody else") == []

    def test_url_carries_every_part(self, mariadb: MariaDBServer, mariadb_driver: str) -> None:
        """Special characters survive the quoting, and the word to look for is still readable."""
        url = mariadb.url(mariadb_driver, "shop", ssl_ca="/a b/ca.pem")
        parts = urlsplit(url)
        assert parts.scheme.endswith(f"+{mariadb_driver}")
        assert (parts.hostname, parts.port, parts.path) == (mariadb.host, mariadb.port, "/shop")
        assert unquote(parts.username or "") == APP_USER
        assert unquote(parts.password or "") == APP_PASSWORD
        assert parse_qs(parts.query) == {"ssl_ca": ["/a b/ca.pem"]}
        assert APP_PASSWORD_WORD in url

    def test_app_user_is_no_administrator(self, mariadb: MariaDBServer) -> None:
        """Limits apply to the application's user: it may not lift them."""
        denied = pytest.raises(pymysql.err.OperationalError, match="Access denied")
        with connected("pymysql", mariadb.connect_args()) as connection, denied:
            fetch_one(connection, "SET GLOBAL max_connections = 1000")

    def test_data_outlive_a_kill(self, private_mariadb: MariaDBServer) -> None:
        """What was committed is there after a crash and after a restart, on the same port."""
        server = private_mariadb
        database, port = server.create_database(), server.port
        create_accounts(server, database, n=3, amount=100)
        server.kill()
        assert not server.running
        with pytest.raises(ServerError, match="not running"):
            _ = server.pid
        server.start()
        assert total(server, database) == 300
        server.restart()
        assert total(server, database) == 300
        assert server.port == port

    def test_start_twice_is_refused(self, mariadb: MariaDBServer) -> None:
        """A second process on the same data is a mistake in the test."""
        with pytest.raises(ServerError, match="running already"):
            mariadb.start()

    def test_paused_server_answers_when_resumed(self, private_mariadb: MariaDBServer) -> None:
        """While it is paused nothing answers; then the answer comes."""
        server = private_mariadb
        with connected("pymysql", server.connect_args()) as connection:
            server.pause()
            answer = InThread(lambda: fetch_one(connection, "SELECT 7"))
            assert not answer.returned_within(SILENCE)
            server.resume()
            assert answer.result() == 7

    def test_paused_server_stops(self, private_mariadb: MariaDBServer) -> None:
        """A stop in good order needs no resume before."""
        private_mariadb.pause()
        private_mariadb.stop()
        assert not private_mariadb.running

    def test_killed_connection_is_gone(self, mariadb: MariaDBServer, mariadb_driver: str) -> None:
        """When the kill returns, the client's next statement fails."""
        with connected(mariadb_driver, mariadb.connect_args()) as connection:
            id_ = connection_id(connection)
            mariadb.kill_connection(id_)
            assert id_ not in mariadb.connections()
            with pytest.raises(LOST):
                fetch_one(connection, "SELECT 1")
            mariadb.kill_connection(id_)

    def test_side_connection_is_made_anew(self, mariadb: MariaDBServer) -> None:
        """The tests' own hand in the server survives the loss of its connection."""
        ((id_,),) = mariadb.query("SELECT CONNECTION_ID()")
        with pytest.raises(pymysql.err.OperationalError):
            mariadb.execute("KILL %s", id_)
        assert mariadb.query("SELECT %s", "still here") == [("still here",)]

    def test_options_reach_the_server_and_the_side_connection_needs_no_room(self) -> None:
        """With every connection taken, the tests can still look and kill."""
        with MariaDBServer(["--max-connections=10"]) as server:
            taken = [pymysql.connect(**server.connect_args()) for _ in range(10)]
            with pytest.raises(pymysql.err.OperationalError, match="Too many connections"):
                pymysql.connect(**server.connect_args())
            assert len(server.connections(APP_USER)) == 10
            for connection in taken:
                connection.close()

    def test_failed_start_shows_the_error_log(self) -> None:
        """A server that will not start says why, and leaves nothing behind."""
        server = MariaDBServer(["--no-such-option"])
        with pytest.raises(ServerError, match="unknown option '--no-such-option'"), server:
            pass
        assert not server.running
        assert not server._directory.exists()

    def test_port_taken_meanwhile_is_changed_for_another(self, mariadb: MariaDBServer) -> None:
        """Losing the race for a free port is no failure."""
        server = MariaDBServer()
        server.port = mariadb.port
        with server:
            assert server.port != mariadb.port
            assert server.query("SELECT 1") == [(1,)]

    @pytest.mark.parametrize("program", ["mariadbd", "mariadb-install-db"])
    def test_missing_program_is_named(self, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without MariaDB the error says what to install."""
        monkeypatch.setattr(shutil, "which", lambda name, path: None)
        with pytest.raises(ServerError, match=f"{program} not found: install MariaDB"):
            find_program(program)
