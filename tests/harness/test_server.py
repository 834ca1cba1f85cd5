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
    def test_app_user(self, mariadb: MariaDBServer, database: str, mariadb_driver: str) -> None:
        """The application's user can connect with each driver, and is told from others."""
        with connected(mariadb_driver, mariadb.connect_args(database)) as connection:
            assert fetch_one(connection, "SELECT DATABASE()") == database
            assert connection_id(connection) in mariadb.connections(APP_USER)
            assert mariadb.connections("somebody else") == []

    def test_url(self, mariadb: MariaDBServer, mariadb_driver: str) -> None:
        """The URL carries every part, with special characters quoted."""
        url = mariadb.url(mariadb_driver, "shop", ssl_ca="/a b/ca.pem")
        parts = urlsplit(url)
        assert parts.scheme.endswith(f"+{mariadb_driver}")
        assert (parts.hostname, parts.port, parts.path) == (mariadb.host, mariadb.port, "/shop")
        assert unquote(parts.username or "") == APP_USER
        assert unquote(parts.password or "") == APP_PASSWORD
        assert parse_qs(parts.query) == {"ssl_ca": ["/a b/ca.pem"]}
        assert APP_PASSWORD_WORD in url

    def test_app_user_rights(self, mariadb: MariaDBServer) -> None:
        """The application's user cannot lift limits."""
        denied = pytest.raises(pymysql.err.OperationalError, match="Access denied")
        with connected("pymysql", mariadb.connect_args()) as connection, denied:
            fetch_one(connection, "SET GLOBAL max_connections = 1000")

    def test_data_survive_kill(self, private_mariadb: MariaDBServer) -> None:
        """Committed data survive a crash and a restart, on the same port."""
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

    def test_start_twice(self, mariadb: MariaDBServer) -> None:
        """Starting a running server is refused."""
        with pytest.raises(ServerError, match="running already"):
            mariadb.start()

    def test_pause_and_resume(self, private_mariadb: MariaDBServer) -> None:
        """A paused server answers when it is resumed."""
        server = private_mariadb
        with connected("pymysql", server.connect_args()) as connection:
            server.pause()
            answer = InThread(lambda: fetch_one(connection, "SELECT 7"))
            assert not answer.returned_within(SILENCE)
            server.resume()
            assert answer.result() == 7

    def test_pause_and_stop(self, private_mariadb: MariaDBServer) -> None:
        """A paused server can be stopped."""
        private_mariadb.pause()
        private_mariadb.stop()
        assert not private_mariadb.running

    def test_kill_connection(self, mariadb: MariaDBServer, mariadb_driver: str) -> None:
        """After kill_connection() the client's next statement fails."""
        with connected(mariadb_driver, mariadb.connect_args()) as connection:
            id_ = connection_id(connection)
            mariadb.kill_connection(id_)
            assert id_ not in mariadb.connections()
            with pytest.raises(LOST):
                fetch_one(connection, "SELECT 1")
            mariadb.kill_connection(id_)

    def test_side_connection_lost(self, mariadb: MariaDBServer) -> None:
        """A lost side connection is replaced."""
        ((id_,),) = mariadb.query("SELECT CONNECTION_ID()")
        with pytest.raises(pymysql.err.OperationalError):
            mariadb.execute("KILL %s", id_)
        assert mariadb.query("SELECT %s", "still here") == [("still here",)]

    def test_options_and_side_connection(self) -> None:
        """With every connection taken, the side connection still works."""
        with MariaDBServer(["--max-connections=10"]) as server:
            taken = [pymysql.connect(**server.connect_args()) for _ in range(10)]
            with pytest.raises(pymysql.err.OperationalError, match="Too many connections"):
                pymysql.connect(**server.connect_args())
            assert len(server.connections(APP_USER)) == 10
            for connection in taken:
                connection.close()

    def test_failed_start(self) -> None:
        """The error about a failed start shows the log, and nothing is left behind."""
        server = MariaDBServer(["--no-such-option"])
        with pytest.raises(ServerError, match="unknown option '--no-such-option'"), server:
            pass
        assert not server.running
        assert not server._directory.exists()

    @pytest.mark.parametrize("program", ["mariadbd", "mariadb-install-db"])
    def test_missing_program(self, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without MariaDB the error says what to install."""
        monkeypatch.setattr(shutil, "which", lambda name, path: None)
        with pytest.raises(ServerError, match=f"{program} not found: install MariaDB"):
            find_program(program)
