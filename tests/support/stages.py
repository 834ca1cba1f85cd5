"""Where scenarios are played: a pool, ours or the naive one, and the database behind it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from harness.naive import NaiveDB
from harness.postgres import PostgreSQLServer
from harness.postgres_protocol import PostgreSQLSplitter
from harness.protocol import CommandSplitter
from harness.proxy import Proxy
from harness.server import SCHEMES, MariaDBServer
from harness.waiting import PATIENCE, wait_until
from harness.workloads import balances, connection_id, create_accounts
from tests.support import cipher
from tests.support.apps import pooled_app

Server = MariaDBServer | PostgreSQLServer

ACCOUNTS = 4
AMOUNT = 100
UNTOUCHED = dict.fromkeys(range(1, ACCOUNTS + 1), AMOUNT)

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
"""A statement that SQLite works on for good."""

ON_SHARED_SERVER = [pytest.param(name, marks=pytest.mark.shared_server) for name in SCHEMES]
"""The drivers, as parameters of what asks for the fixture `mariadb` by itself."""

ON_PSYCOPG = pytest.param("psycopg", marks=pytest.mark.on_server)
"""psycopg, as a parameter of what asks for the fixture `postgresql_server` by itself."""

ON_FILES = ["sqlite", "sqlcipher"]
"""The drivers for files."""


def shared_server(driver: str) -> str:
    """The fixture that is the shared server of a driver."""
    return "postgresql_server" if driver == "psycopg" else "mariadb"


def own_server(driver: str) -> Server:
    """A server for a driver that a test has for itself."""
    return PostgreSQLServer() if driver == "psycopg" else MariaDBServer()


@dataclass(frozen=True)
class Stage:
    """A pool (`db`, which has `connection_context()`) in front of four accounts of 100 each."""

    kind: str  # "ours" or "naive"
    driver: str
    app: Flask
    db: Any

    @property
    def many_rows(self) -> str:
        """A statement whose result is too large to be sent at once."""
        raise NotImplementedError

    def committed(self) -> dict[int, int]:
        """The accounts' balances, as everybody else sees them."""
        raise NotImplementedError

    def in_thread(self, function: Callable[[], object]) -> threading.Thread:
        """Start a function in a thread, inside an app context of its own."""

        def run() -> None:
            with self.app.app_context():
                function()

        thread = threading.Thread(target=run, name="tests actor", daemon=True)
        thread.start()
        return thread

    def streaming_cursor(self, connection: Any) -> Any:
        """A cursor that gets its rows from the database as they are fetched."""
        raise NotImplementedError


@dataclass(frozen=True)
class ServerStage(Stage):
    """One on a server, with a proxy for the pool to go through."""

    server: Any  # a `Server`: most tests are for MariaDB, and use what it alone has
    database: str
    proxy: Proxy

    @property
    def many_rows(self) -> str:
        return str(self.server.many_rows)

    def committed(self) -> dict[int, int]:
        return balances(self.server, self.database)

    def sleep(self, seconds: float) -> str:
        """A statement that takes so many seconds."""
        name = "pg_sleep" if self.driver == "psycopg" else "SLEEP"
        return f"SELECT {name}({seconds})"

    def endless(self, mark: str) -> str:
        """A statement that does not end by itself, with this mark in its text."""
        # MariaDB's SLEEP() looks every few seconds whether its client is there; this does not.
        slow = "BENCHMARK(1000000000000, SHA2('x', 224))"
        return f"SELECT {'pg_sleep(1000)' if self.driver == 'psycopg' else slow} /* {mark} */"

    def is_at_work(self, mark: str) -> bool:
        """Whether the server works on a statement of this stage with this mark in its text."""
        if self.driver == "psycopg":
            return any(mark in query for query in self.server.statements())
        rows = self.server.query("SHOW FULL PROCESSLIST")  # Id, User, Host, db, ..., Info
        return any(row[3] == self.database and mark in (row[7] or "") for row in rows)

    def kill(self, connection: Any) -> None:
        """Have the server end a connection, and wait until it did, and until one of ours can see
        it: the proxy takes its time.
        """
        self.server.kill_connection(connection_id(connection))
        if self.kind == "ours":
            wait_until(lambda: connection._entry.look() > 0, "the end of a connection")

    def streaming_cursor(self, connection: Any) -> Any:
        if self.driver == "psycopg":
            return connection.cursor("stream")
        if self.driver == "pymysql":
            from pymysql.cursors import SSCursor

            return connection.cursor(SSCursor)
        return connection.cursor(buffered=False)


@dataclass(frozen=True)
class FileStage(Stage):
    """One on an SQLite file."""

    path: Path

    @property
    def many_rows(self) -> str:
        return (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000)"
            " SELECT i FROM n"
        )

    def committed(self) -> dict[int, int]:
        with _opened(self.path, self.driver) as connection:
            return dict(connection.execute("SELECT id, balance FROM accounts ORDER BY id"))

    def streaming_cursor(self, connection: Any) -> Any:
        return connection.cursor()


@contextmanager
def on_server(
    kind: str, server: Server, driver: str, *, is_direct: bool = False, **settings: Any
) -> Iterator[ServerStage]:
    """A stage on a server; `settings` are configuration keys of our pool. `is_direct`: the pool
    goes to the server, and the proxy sees nothing.
    """
    database = server.create_database()
    create_accounts(server, database, ACCOUNTS, AMOUNT)
    splitter = CommandSplitter if isinstance(server, MariaDBServer) else PostgreSQLSplitter
    with Proxy(
        server.host, server.port, certificates=server.certificates, splitter=splitter
    ) as proxy:
        port = server.port if is_direct else proxy.port
        if kind == "ours":
            url = server.url(driver, database, port=port)
            with pooled_app(url, **settings) as (app, db):
                yield ServerStage(kind, driver, app, db, server, database, proxy)
        else:
            assert isinstance(server, MariaDBServer)
            app = Flask("naive")
            with (
                NaiveDB.on_mariadb(server, driver, database, port=port) as naive,
                app.app_context(),
            ):
                yield ServerStage(kind, driver, app, naive, server, database, proxy)


def _opened(path: Path, driver: str) -> AbstractContextManager[Any]:
    return cipher.opened(path) if driver == "sqlcipher" else closing(sqlite3.connect(path))


@contextmanager
def on_file(kind: str, path: Path, driver: str = "sqlite", **settings: Any) -> Iterator[FileStage]:
    """A stage on an SQLite file, which is made; with sqlcipher it is encrypted."""
    with _opened(path, driver) as connection:
        connection.execute(
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)"
        )
        connection.executemany("INSERT INTO accounts VALUES (?, ?)", UNTOUCHED.items())
        connection.commit()
    if kind == "ours":
        url = cipher.url_of(path) if driver == "sqlcipher" else f"sqlite:///{path}"
        with pooled_app(url, **settings) as (app, db):
            yield FileStage(kind, driver, app, db, path)
    else:
        app = Flask("naive")
        with NaiveDB.on_sqlite(path) as naive, app.app_context():
            yield FileStage(kind, "sqlite", app, naive, path)


def join(thread: threading.Thread) -> None:
    """Wait for a thread to end; one that never does is a failure."""
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"{thread.name} did not end"
