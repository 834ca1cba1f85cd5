"""The proxy and the server with TLS."""

from __future__ import annotations

import mariadb as mariadb_connector
import pymysql
import pytest

from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.sockets import is_readable
from harness.tls import Certificates
from tests.harness.connections import connected, descriptor_of, fetch_all, fetch_one, is_encrypted

pytestmark = pytest.mark.mariadb_only


class TestTLS:
    def test_tls_of_servers(self, mariadb: MariaDBServer, tls_mariadb: MariaDBServer) -> None:
        """A server offers TLS only if it was given certificates."""
        assert mariadb.query("SELECT @@have_ssl") == [("DISABLED",)]
        assert tls_mariadb.query("SELECT @@have_ssl") == [("YES",)]

    def test_encryption(self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
        """Connections are encrypted, both to the server and on both sides of a proxy."""
        encrypted = server.certificates is not None
        for port in (server.port, proxy.port):
            with connected(mariadb_driver, server.connect_args(port=port)) as connection:
                ((_, cipher),) = fetch_all(connection, "SHOW STATUS LIKE 'Ssl_cipher'")
                assert bool(cipher) is encrypted
                assert is_encrypted(connection) is encrypted

    def test_proxy_without_certificates(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """A proxy without certificates forwards the server's own TLS, whose name is verified."""
        options = {"ca": str(certificates.ca), "check_hostname": True}
        with Proxy(tls_mariadb.host, tls_mariadb.port) as proxy:
            arguments = tls_mariadb.connect_args(port=proxy.port, ask_for_tls=False)
            with connected("pymysql", {**arguments, "ssl": options}) as connection:
                assert fetch_one(connection, "SELECT 1") == 1
                assert is_encrypted(connection)
            assert (proxy.connections, proxy.commands) == (1, [])

    def test_proxy_with_certificates(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """A proxy with the server's certificate is verified in its place, and not by another CA."""
        name = tls_mariadb.host
        with Proxy(name, tls_mariadb.port, certificates=certificates) as proxy:
            arguments = tls_mariadb.connect_args(port=proxy.port, ask_for_tls=False)
            options = {"ca": str(certificates.ca), "check_hostname": True}
            with connected("pymysql", {**arguments, "ssl": options}) as connection:
                assert fetch_one(connection, "SELECT 1") == 1
            options["ca"] = str(certificates.wrong_ca)
            with pytest.raises(pymysql.err.OperationalError, match="certificate verify failed"):
                pymysql.connect(**arguments, ssl=options)

    def test_client_without_tls(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """A proxy with certificates also serves a client without TLS."""
        host, port = tls_mariadb.host, tls_mariadb.port
        with Proxy(host, port, certificates=certificates) as proxy:
            arguments = tls_mariadb.connect_args(port=proxy.port, ask_for_tls=False)
            with connected("pymysql", {**arguments, "ssl_disabled": True}) as connection:
                proxy.reset_counts()
                assert fetch_one(connection, "SELECT 1") == 1
                assert not is_encrypted(connection)
                assert [command.payload for command in proxy.commands] == [b"SELECT 1"]

    def test_ticket(
        self, tls_mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str
    ) -> None:
        """A session ticket makes an idle client's socket readable, and its next statements get
        their own answers.
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

    def test_ticket_without_tls(self, mariadb: MariaDBServer) -> None:
        """Sending a ticket without TLS is refused."""
        with Proxy(mariadb.host, mariadb.port) as proxy:
            with connected("pymysql", mariadb.connect_args(port=proxy.port)):
                with pytest.raises(ValueError, match="no TLS"):
                    proxy.send_tickets()

    def test_wrong_ca(self, tls_mariadb: MariaDBServer, certificates: Certificates) -> None:
        """The other CA did not sign the server's certificate."""
        options = {"ca": str(certificates.wrong_ca)}
        with pytest.raises(pymysql.err.OperationalError, match="certificate verify failed"):
            pymysql.connect(**tls_mariadb.connect_args(ask_for_tls=False), ssl=options)

    def test_connector_verifies(
        self, tls_mariadb: MariaDBServer, certificates: Certificates
    ) -> None:
        """The MariaDB connector verifies with the same files."""
        arguments = {**tls_mariadb.connect_args(ask_for_tls=False), "ssl_verify_cert": True}
        right, wrong = str(certificates.ca), str(certificates.wrong_ca)
        with connected("mariadbconnector", {**arguments, "ssl_ca": right}) as connection:
            assert connection.tls_cipher
        with pytest.raises(mariadb_connector.Error, match=r"(?i)certificate"):
            mariadb_connector.connect(**arguments, ssl_ca=wrong)
