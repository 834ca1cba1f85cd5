"""The servers that the systems run on, by the name of their kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from harness.postgres import PostgreSQLServer
from harness.postgres_protocol import PostgreSQLSplitter
from harness.protocol import CommandSplitter
from harness.proxy import Proxy
from harness.server import APP_PASSWORD, APP_USER, SCHEMES, MariaDBServer
from harness.tls import Certificates

MARIADB, POSTGRESQL = "MariaDB", "PostgreSQL"

Server = MariaDBServer | PostgreSQLServer
Options = Mapping[str, Sequence[str]]
"""What a server is started with, by its kind."""

RESERVED = 3
"""Of PostgreSQL's `max_connections`, those that superusers alone may have, by default."""


@contextmanager
def running_server(
    kind: str, options: Options = MappingProxyType({}), certificates: Certificates | None = None
) -> Iterator[Server]:
    """A server of this kind."""
    make: type[Server] = PostgreSQLServer if kind == POSTGRESQL else MariaDBServer
    server: Server = make(options.get(kind, ()), certificates=certificates)
    with server:
        yield server


def make_proxy(server: Server) -> Proxy:
    """A proxy in front of a server, which understands its protocol."""
    splitter = CommandSplitter if isinstance(server, MariaDBServer) else PostgreSQLSplitter
    return Proxy(server.host, server.port, certificates=server.certificates, splitter=splitter)


def crash(server: Server) -> None:
    """kill -9 of all that the server consists of."""
    if isinstance(server, PostgreSQLServer):
        server.crash()
    else:
        server.kill()


def begin_to_kill(server: Server, connection: int) -> None:
    """Have the server end a connection, and do not wait for it."""
    if isinstance(server, PostgreSQLServer):
        server.execute("SELECT pg_terminate_backend(%s)", connection)
    else:
        server.execute("KILL %s", connection)


@dataclass(frozen=True)
class Place:
    """Where the database is: one host, or several."""

    hosts: Sequence[tuple[str, int]]
    database: str
    ca: str | None = None
    """The file of the CA that verifies the servers; None: they have no TLS."""

    def url(self, driver: str) -> str:
        """As a URL, with all hosts."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        password = quote(APP_PASSWORD, safe="")
        tls = f"?ssl_ca={quote(self.ca)}&ssl_verify_cert=true" if self.ca else ""
        return f"{SCHEMES[driver]}://{APP_USER}:{password}@{hosts}/{self.database}{tls}"

    @property
    def arguments(self) -> dict[str, Any]:
        """As the keyword arguments of MariaDB's drivers, with the first host alone."""
        host, port = self.hosts[0]
        tls: dict[str, Any] = {"ssl_ca": self.ca, "ssl_verify_cert": True} if self.ca else {}
        return {
            **tls,
            "host": host,
            "port": port,
            "user": APP_USER,
            "password": APP_PASSWORD,
            "database": self.database,
        }

    @property
    def conninfo(self) -> str:
        """As psycopg takes it; the database of the bank is a schema."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        tls = f"&sslmode=verify-full&sslrootcert={quote(self.ca)}" if self.ca else ""
        path = quote(f"-csearch_path={self.database}")
        password = quote(APP_PASSWORD, safe="")
        return f"postgresql://{APP_USER}:{password}@{hosts}/postgres?options={path}{tls}"
