"""Plain connections of the drivers, for the tests of the servers and proxies."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import mariadb as mariadb_connector
import pymysql

from harness.naive import DRIVERS

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
