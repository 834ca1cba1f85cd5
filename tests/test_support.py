"""The harness itself: a test that passes because its server or its proxy does nothing is worse
than none."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import flask
import mariadb as mariadb_connector
import pymysql
import pytest

from flask_pooled_db.housekeeping import housekeeper
from tests.support.leaks import Footprint, wait_for_leaks_to_end
from tests.support.mysql import URL_VARIABLE, account
from tests.support.naive import DRIVERS, NaiveDB
from tests.support.protocol import COM_QUERY
from tests.support.proxy import Proxy
from tests.support.server import (
    APP_PASSWORD,
    APP_PASSWORD_WORD,
    APP_USER,
    MariaDBServer,
    ServerError,
    find_program,
)
from tests.support.signals import AS_AT_A_TERMINAL
from tests.support.sockets import LOOPBACK, free_port, is_readable
from tests.support.tls import Certificates
from tests.support.workloads import add, balances, connection_id, create_accounts, total, transfer

pytestmark = pytest.mark.mariadb_only

PROJECT = Path(__file__).resolve().parent.parent
LOST = (pymysql.err.OperationalError, mariadb_connector.Error)
# How long a test waits for what must not happen.
SILENCE = 0.2


@contextmanager
def connected(driver: str, arguments: dict[str, Any]) -> Iterator[Any]:
    """A plain connection of a driver, closed at the end whatever became of it."""
    connection = DRIVERS[driver].connect(**arguments)
    try:
        yield connection
    finally:
        with suppress(pymysql.err.Error, mariadb_connector.Error):
            connection.close()


def fetch_one(connection: Any, sql: str) -> Any:
    """The first column of a statement's first row."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def fetch_all(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def is_encrypted(connection: Any) -> bool:
    """Whether a driver's connection is, as the driver sees it."""
    if hasattr(connection, "_sock"):
        return isinstance(connection._sock, ssl.SSLSocket)
    return bool(connection.tls_cipher)


def descriptor_of(connection: Any) -> int:
    """The descriptor of a driver's connection's socket."""
    if hasattr(connection, "_sock"):
        return int(connection._sock.fileno())
    return int(connection._get_socket())


class InThread:
    """A call in a thread of its own, whose result may be long in coming."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._outcome: list[Any] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._call())
        except Exception as error:
            self._outcome.append(error)

    def returned_within(self, seconds: float) -> bool:
        """Whether the call came to an end by then."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Any:
        """What it returned or raised."""
        assert self.returned_within(10), "The call hangs."
        return self._outcome[0]


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


@pytest.mark.slow
class TestInterruptedSession:
    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_server_ends_with_the_session(self, tmp_path: Path, signum: signal.Signals) -> None:
        """Ctrl-C and a termination leave no server and no directory behind."""
        (tmp_path / "test_it.py").write_text(
            "import time\n"
            "def test_it(private_mariadb):\n"
            "    print(private_mariadb.pid, private_mariadb._directory, flush=True)\n"
            "    time.sleep(60)\n"
        )
        pytest_here = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest"]
        options = ["-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
        session = subprocess.Popen(
            [*AS_AT_A_TERMINAL, *pytest_here, *options],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            text=True,
        )
        with session:
            assert session.stdout is not None
            pid, directory = session.stdout.readline().split()
            session.send_signal(signum)
            session.communicate(timeout=30)
        assert not Path("/proc", pid).exists()
        assert not Path(directory).exists()


class TestProxy:
    def test_takes_another_port_when_its_own_is_taken(
        self, mariadb: MariaDBServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A port that was free when it was chosen, and is not any more, is given up."""
        with socket.create_server((LOOPBACK, 0)) as other:
            ports = iter([other.getsockname()[1], free_port()])
            monkeypatch.setattr("tests.support.proxy.free_port", lambda: next(ports))
            with (
                Proxy(mariadb.host, mariadb.port) as proxy,
                connected("pymysql", mariadb.connect_args(port=proxy.port)) as connection,
            ):
                assert fetch_one(connection, "SELECT 1") == 1

    def test_counts_one_round_trip_for_a_statement(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """The handshake is none, a statement is one, and its text is on record."""
        with connected(mariadb_driver, server.connect_args(port=proxy.port)) as connection:
            assert proxy.connections == 1
            proxy.reset_counts()
            assert fetch_one(connection, "SELECT 1") == 1
            assert proxy.round_trips == 1
            assert [command[1:] for command in proxy.commands] == [(COM_QUERY, b"SELECT 1")]
            assert proxy.connections == 0

    def test_counts_what_has_no_answer_as_none(self, server: MariaDBServer, proxy: Proxy) -> None:
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

    def test_long_statement_is_recorded_by_its_start(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """A statement of many segments arrives whole, and its first 200 bytes are on record."""
        sql = f"SELECT LENGTH('{'x' * 1_000_000}')"
        with connected(mariadb_driver, server.connect_args(port=proxy.port)) as connection:
            proxy.reset_counts()
            assert fetch_one(connection, sql) == 1_000_000
            assert [command.payload for command in proxy.commands] == [sql[:200].encode()]

    def test_delays_each_direction(self, server: MariaDBServer, proxy: Proxy) -> None:
        """A round trip takes twice the delay, and the answer's size does not add to it."""
        with connected("pymysql", server.connect_args(port=proxy.port)) as connection:
            proxy.delay = 0.05
            began = time.monotonic()
            assert len(fetch_one(connection, "SELECT REPEAT('x', 2000000)")) == 2_000_000
            assert 0.1 <= time.monotonic() - began < 1
            proxy.delay = 0.0

    def test_cut_resets_open_connections_only(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """What was open is lost, on the server as well; what comes next is let through."""
        arguments = server.connect_args(port=proxy.port)
        with connected(mariadb_driver, arguments) as connection:
            proxy.cut()
            with pytest.raises(LOST):
                fetch_one(connection, "SELECT 1")
        with connected(mariadb_driver, arguments) as connection:
            assert fetch_one(connection, "SELECT 1") == 1

    def test_deaf_keeps_connections_and_forwards_nothing(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """A statement and a connect hang while the proxy is deaf, and succeed when it hears."""
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

    def test_deaf_hides_the_end_of_a_connection(self, server: MariaDBServer, proxy: Proxy) -> None:
        """The server learns of a client's end only when the proxy hears again."""
        with connected("pymysql", server.connect_args(port=proxy.port)) as connection:
            id_ = connection_id(connection)
            proxy.deaf()
        assert id_ in server.connections()
        proxy.hear()
        deadline = time.monotonic() + 5
        while id_ in server.connections():
            assert time.monotonic() < deadline

    def test_refuse_closes_newcomers_only(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """Connects fail and are counted apart; what is open goes on."""
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

    def test_held_commit_took_place(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """The client's COMMIT fails, the server's succeeded; the next one is not held."""
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

    def test_commit_cut_before_did_not_take_place(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """The client's COMMIT fails in the same way, and the server rolled back."""
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

    def test_wait_for_command_sees_a_statement_in_flight(
        self, server: MariaDBServer, proxy: Proxy
    ) -> None:
        """A test can act while a statement runs, without sleeping."""
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

    def test_close_ends_everything(self, mariadb: MariaDBServer) -> None:
        """A closed proxy has no connection, no listener and no thread; closing again is fine."""
        threads = threading.active_count()
        proxy = Proxy(mariadb.host, mariadb.port)
        with connected("pymysql", mariadb.connect_args(port=proxy.port)) as connection:
            proxy.close()
            with pytest.raises(LOST):
                fetch_one(connection, "SELECT 1")
        with pytest.raises(pymysql.err.OperationalError, match="Connection refused"):
            pymysql.connect(**mariadb.connect_args(port=proxy.port))
        assert threading.active_count() == threads
        proxy.close()


class TestTLS:
    def test_each_server_has_the_tls_it_was_asked_for(
        self, mariadb: MariaDBServer, tls_mariadb: MariaDBServer
    ) -> None:
        """Whatever the server's version would do by default: one has none, the other has it."""
        assert mariadb.query("SELECT @@have_ssl") == [("DISABLED",)]
        assert tls_mariadb.query("SELECT @@have_ssl") == [("YES",)]

    def test_connections_are_encrypted_where_the_server_says_so(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """Straight to the server or through a proxy that reads it: both legs of it are."""
        encrypted = server.certificates is not None
        for port in (server.port, proxy.port):
            with connected(mariadb_driver, server.connect_args(port=port)) as connection:
                ((_, cipher),) = fetch_all(connection, "SHOW STATUS LIKE 'Ssl_cipher'")
                assert bool(cipher) is encrypted
                assert is_encrypted(connection) is encrypted

    def test_a_proxy_without_certificates_reads_nothing(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """It forwards the server's own TLS, whose name is verified."""
        options = {"ca": str(certificates.ca), "check_hostname": True}
        with Proxy(tls_mariadb.host, tls_mariadb.port) as proxy:
            arguments = tls_mariadb.connect_args(port=proxy.port, ask_for_tls=False)
            with connected("pymysql", {**arguments, "ssl": options}) as connection:
                assert fetch_one(connection, "SELECT 1") == 1
                assert is_encrypted(connection)
            assert (proxy.connections, proxy.commands) == (1, [])

    def test_a_proxy_with_certificates_is_verified_in_the_server_s_place(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """It has the server's certificate: by name it is the server, to another CA it is nobody."""
        name = tls_mariadb.host
        with Proxy(name, tls_mariadb.port, certificates=certificates) as proxy:
            arguments = tls_mariadb.connect_args(port=proxy.port, ask_for_tls=False)
            options = {"ca": str(certificates.ca), "check_hostname": True}
            with connected("pymysql", {**arguments, "ssl": options}) as connection:
                assert fetch_one(connection, "SELECT 1") == 1
            options["ca"] = str(certificates.wrong_ca)
            with pytest.raises(pymysql.err.OperationalError, match="certificate verify failed"):
                pymysql.connect(**arguments, ssl=options)

    def test_a_client_without_tls_is_read_as_it_is(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """A proxy that has certificates leaves it to the client whether TLS begins."""
        host, port = tls_mariadb.host, tls_mariadb.port
        with Proxy(host, port, certificates=certificates) as proxy:
            arguments = tls_mariadb.connect_args(port=proxy.port, ask_for_tls=False)
            with connected("pymysql", {**arguments, "ssl_disabled": True}) as connection:
                proxy.reset_counts()
                assert fetch_one(connection, "SELECT 1") == 1
                assert not is_encrypted(connection)
                assert [command.payload for command in proxy.commands] == [b"SELECT 1"]

    def test_a_ticket_is_no_data(
        self, tls_mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str
    ) -> None:
        """A session ticket makes an idle client's socket readable, again and again; the server was
        asked nothing, and the client's next statements have their own answers.
        """
        host, port = tls_mariadb.host, tls_mariadb.port
        with Proxy(host, port, certificates=certificates) as proxy:
            arguments = tls_mariadb.connect_args(port=proxy.port)
            with connected(mariadb_driver, arguments) as connection:
                for number in (1, 2):
                    proxy.reset_counts()
                    assert not is_readable(descriptor_of(connection), 0)
                    proxy.send_tickets()
                    assert is_readable(descriptor_of(connection))
                    assert proxy.commands == []
                    assert fetch_one(connection, f"SELECT {number}") == number

    def test_a_ticket_takes_tls(self, mariadb: MariaDBServer) -> None:
        """Where the proxy can't send one, it says so."""
        with Proxy(mariadb.host, mariadb.port) as proxy:
            with connected("pymysql", mariadb.connect_args(port=proxy.port)):
                with pytest.raises(ValueError, match="no TLS"):
                    proxy.send_tickets()

    def test_wrong_ca_is_found_out(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """The other CA is a real one that did not sign this server's certificate."""
        options = {"ca": str(certificates.wrong_ca)}
        with pytest.raises(pymysql.err.OperationalError, match="certificate verify failed"):
            pymysql.connect(**tls_mariadb.connect_args(ask_for_tls=False), ssl=options)

    def test_connector_verifies_too(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """The MariaDB connector takes the same files."""
        arguments = {**tls_mariadb.connect_args(ask_for_tls=False), "ssl_verify_cert": True}
        right, wrong = str(certificates.ca), str(certificates.wrong_ca)
        with connected("mariadbconnector", {**arguments, "ssl_ca": right}) as connection:
            assert connection.tls_cipher
        with pytest.raises(mariadb_connector.Error, match=r"(?i)certificate"):
            mariadb_connector.connect(**arguments, ssl_ca=wrong)


class TestNaive:
    def test_transfer_works_as_long_as_nothing_fails(
        self, mariadb: MariaDBServer, database: str, mariadb_driver: str
    ) -> None:
        """It commits, and rolls back on an error: the reference is no straw man."""
        create_accounts(mariadb, database, n=2, amount=100)
        with NaiveDB.on_mariadb(mariadb, mariadb_driver, database) as db:
            with db.db_connection_context(timeout=5) as connection:
                transfer(connection, 1, 2, 30)
            with pytest.raises(ZeroDivisionError), db.db_connection_context() as connection:
                transfer(connection, 1, 2, 30, between=lambda: 1 / 0)
        assert balances(mariadb, database) == {1: 70, 2: 130}

    def test_transfer_makes_money_when_its_connection_is_killed(
        self, mariadb: MariaDBServer, database: str, mariadb_driver: str
    ) -> None:
        """Killed between two UPDATEs, the first is lost, the second commits, nobody is told."""
        create_accounts(mariadb, database, n=2, amount=100)
        naive = NaiveDB.on_mariadb(mariadb, mariadb_driver, database)
        with naive, naive.db_connection_context() as connection:
            id_ = connection_id(connection)
            transfer(connection, 1, 2, 30, between=lambda: mariadb.kill_connection(id_))
        assert balances(mariadb, database) == {1: 100, 2: 130}

    def test_sqlite(self, tmp_path: Path) -> None:
        """The reference runs on SQLite as well."""
        with NaiveDB.on_sqlite(tmp_path / "naive.db") as db:
            with db.connection_context() as connection:
                connection.cursor().execute("CREATE TABLE t (x)")
                connection.cursor().execute("INSERT INTO t VALUES (1)")
            with db.connection_context() as connection:
                assert fetch_one(connection, "SELECT x FROM t") == 1


class TestMySQL:
    """Another server for the tests of the promises: `make test-mysql`, `pytest --mysql`."""

    @pytest.fixture
    def environment(self) -> dict[str, str]:
        """This process's, without the name of a server, and as outside of make."""
        unwanted = (URL_VARIABLE, "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
        return {name: value for name, value in os.environ.items() if name not in unwanted}

    @pytest.mark.parametrize(
        ("url", "port", "password"),
        [
            ("mysql://ann:Geheim@127.0.0.1:3307/", 3307, "Geheim"),
            ("mysql+pymysql://ann:Ge%2Fheim@127.0.0.1", 3306, "Ge/heim"),
            ("mysql://ann@127.0.0.1/", 3306, ""),
        ],
    )
    def test_url_names_an_account(
        self, monkeypatch: pytest.MonkeyPatch, url: str, port: int, password: str
    ) -> None:
        """The port and the password may be left out, and what is encoded is decoded."""
        monkeypatch.setenv(URL_VARIABLE, url)
        expected = {"host": "127.0.0.1", "port": port, "user": "ann", "password": password}
        assert account() == expected

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "Geheim",
            "mariadb://ann:Geheim@127.0.0.1/",
            "mysql://ann:Geheim@127.0.0.1:port/",
            "mysql://ann:Geheim@127.0.0.1/shop",
            "mysql://ann:Geheim@127.0.0.1/?charset=utf8",
            "mysql://ann:Geheim@db.example/",
            "mysql://ann:Geheim@127.0.0.1,127.0.0.1:1/",
            "mysql://127.0.0.1/",
        ],
    )
    def test_another_text_is_refused_and_not_repeated(
        self, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        """The message has the form of the URL, and nothing of what was given."""
        monkeypatch.setenv(URL_VARIABLE, url)
        with pytest.raises(ServerError, match=rf"^{URL_VARIABLE} must .* mysql://user:") as caught:
            account()
        assert "Geheim" not in repr(caught.value)

    @pytest.mark.parametrize("given", [[], [f"{URL_VARIABLE}=Geheim"]], ids=["none", "no URL"])
    def test_make_asks_for_the_url_before_it_installs(
        self, environment: dict[str, str], tmp_path: Path, given: list[str]
    ) -> None:
        """Without one, `make test-mysql` says what is missing, and does nothing else."""
        made = tmp_path / "venv"
        done = subprocess.run(
            ["make", "test-mysql", f"VENV={made}", *given],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"Name a MySQL server: {URL_VARIABLE}=mysql://user:")
        assert "Geheim" not in done.stderr
        assert not made.exists()

    def pytest(self, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
        """The exit code and the output of `pytest --mysql`, where no server is."""
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--mysql", *arguments],
            cwd=PROJECT,
            env={**environment, URL_VARIABLE: f"mysql://ann:Geheim@127.0.0.1:{free_port()}/"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def test_server_that_is_not_there_is_said_in_one_line(
        self, environment: dict[str, str]
    ) -> None:
        """It names the variable and the driver's error, and not the password."""
        code, output = self.pytest(environment, "tests/test_transaction.py")
        assert code == pytest.ExitCode.USAGE_ERROR
        assert output.count("\n") < 5
        assert f"ERROR: The server that {URL_VARIABLE} names: (2003," in output
        assert "Geheim" not in output

    def test_what_uses_the_shared_server_is_run_and_no_more(
        self, environment: dict[str, str]
    ) -> None:
        """Not what runs on SQLite, or on a MariaDB of its own, or is marked as MariaDB's own."""
        code, output = self.pytest(environment, "--collect-only", "-q", "tests/test_transaction.py")
        assert code == pytest.ExitCode.OK, output
        assert "test_t1_left_normally_it_commits[pymysql]" in output
        assert "test_t1_left_normally_it_commits[sqlite]" not in output
        assert "test_t3_no_statement_is_sent_twice[plain-mariadbconnector]" in output
        assert "test_t4_a_lock_wait_timeout_costs_the_statement_alone" not in output
        assert "test_rows_returned_by_a_write_are_committed" not in output


class TestLeakDetector:
    def test_open_connection_is_a_leak(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """A connection counts while it is open, straight to the server or through the proxy."""
        for port in (server.port, proxy.port):
            before = Footprint.now()
            with connected(mariadb_driver, server.connect_args(port=port)):
                (leak,) = wait_for_leaks_to_end(before, patience=0)
                assert "left open" in leak
            assert wait_for_leaks_to_end(before) == []

    @pytest.mark.parametrize("end", [Proxy.cut, Proxy.close])
    def test_connection_ended_by_the_other_side_is_a_leak(
        self, mariadb: MariaDBServer, end: Callable[[Proxy], None]
    ) -> None:
        """A dead connection holds a descriptor until it is closed, a reset one too."""
        before = Footprint.now()
        proxy = Proxy(mariadb.host, mariadb.port)
        with connected("pymysql", mariadb.connect_args(port=proxy.port)):
            end(proxy)
            proxy.close()
            (leak,) = wait_for_leaks_to_end(before, patience=SILENCE)
            assert "1 connection(s) to a database left open" in leak
        assert wait_for_leaks_to_end(before) == []

    def test_thread_of_the_pool_is_a_leak(self) -> None:
        """A thread with the package's prefix counts, the housekeeping one once a process."""
        housekeeper.stop()  # another test may have started the real one
        before = Footprint.now()
        end = threading.Event()
        names = ["flask-pooled-db housekeeping", "flask-pooled-db connect", "something else"]
        threads = [threading.Thread(target=end.wait, name=name) for name in names]
        for thread in threads:
            thread.start()
        leaks = wait_for_leaks_to_end(before, patience=0)
        end.set()
        for thread in threads:
            thread.join()
        assert leaks == ["threads left running: flask-pooled-db connect"]
        assert wait_for_leaks_to_end(before) == []

    def test_app_context_left_pushed_is_a_leak(self) -> None:
        """An app context that nobody popped counts."""
        before = Footprint.now()
        with flask.Flask(__name__).app_context():
            assert Footprint.now().leaks_since(before) == ["an app context left pushed"]
        assert Footprint.now().leaks_since(before) == []
