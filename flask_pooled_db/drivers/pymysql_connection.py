"""PyMySQL's connection with TLS contexts that are built once, and a connect that is bounded."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

from flask_pooled_db.drivers import sockets, tlsfiles
from flask_pooled_db.drivers.pymysql_status import with_true_status
from flask_pooled_db.runtime import housekeeper

_CANT_CONNECT = 2003

MOST_CONTEXTS = 16
"""How many TLS contexts of a pool are kept. Only a function may tell so many URLs."""


class TLSContexts:
    """TLS contexts, by the arguments from which each was built.

    PyMySQL reads the system's CA file into a new context for each connection, even to a server
    without TLS, which takes tens of milliseconds of CPU. Here each context is built once: for all
    pools of the process if there are no arguments, else for each pool, since files that arguments
    name may be replaced.
    """

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child, drop the contexts: one may hold a lock that nobody will release."""
        self._lock = threading.Lock()  # held while a context is built, so that it is built once
        self._built: dict[Any, ssl.SSLContext] = {}

    def get(self, key: Any, build: Callable[[], Any]) -> Any:
        """Return the context for these arguments, built at their first use."""
        with self._lock:
            if key not in self._built:
                if len(self._built) >= MOST_CONTEXTS:  # each has other files, or another password
                    self._built.clear()
                self._built[key] = build()
            return self._built[key]


WITHOUT_ARGUMENTS = TLSContexts()


def connection_class(dbapi: ModuleType) -> Any:
    """Return the class of connections that share TLS contexts and bound the connect. It is made
    once, not for each pool: a class takes more memory than a pool does.
    """
    api = cast("Any", dbapi)
    return _connection_class(dbapi, api.connections.Connection)  # a tracer may have replaced it


@functools.lru_cache(maxsize=8)
def _connection_class(dbapi: ModuleType, _of: type) -> Any:
    """Make the class.

    PyMySQL's own connect_timeout covers the TCP connect to one address. Here it covers those to all
    addresses of a host and the handshake, of a server that sends byte after byte too.
    """
    base: Any = with_true_status(dbapi)
    refused: Any = dbapi.err.OperationalError

    class Connection(base):  # type: ignore[misc]
        _connect_deadline: float
        _read_timeout: Any
        _write_timeout: Any

        def __init__(self, contexts: TLSContexts, **arguments: Any) -> None:
            self._tls_contexts = contexts
            super().__init__(**arguments)

        def connect(self, sock: Any = None) -> None:
            if self.connect_timeout is None:
                super().connect(sock)
                return
            self._connect_deadline = time.monotonic() + self.connect_timeout
            sock = sock or self._dial()
            # While TLS begins, the descriptor is nobody's: a duplicate is cut.
            with sock.dup() as twin:
                cut = functools.partial(sockets.cut, twin.fileno())
                with housekeeper.bounded(sockets.time_left(self._connect_deadline), cut):
                    self._shake_hands(sock)

        def _dial(self) -> socket.socket:
            source = None if self.bind_address is None else (self.bind_address, 0)
            address = self.unix_socket or (self.host, self.port)
            try:
                sock = sockets.dial(address, self._connect_deadline, source)
            except OSError as error:
                text = f"Can't connect to MySQL server on {self.host!r} ({error})"
                failure = refused(_CANT_CONNECT, text)
                failure.original_exception = error
                raise failure from error
            self._secure = bool(self.unix_socket)
            where = "Localhost via UNIX socket"
            self.host_info = where if self._secure else f"socket {self.host}:{self.port}"
            return sock

        def _shake_hands(self, sock: Any) -> None:
            reads, writes = self._read_timeout, self._write_timeout
            self._write_timeout = min(writes or self.connect_timeout, self.connect_timeout)
            # Set on the object while it connects, so that later reads cost nothing more.
            self._read_packet = self._read_packet_in_time
            try:
                super().connect(sock)
            finally:
                self.__dict__.pop("_read_packet", None)
                self._read_timeout, self._write_timeout = reads, writes

        def _read_packet_in_time(self, *args: Any, **kwargs: Any) -> Any:
            self._read_timeout = sockets.time_left(self._connect_deadline)
            return super()._read_packet(*args, **kwargs)

        def _create_ssl_ctx(self, sslp: Any) -> Any:
            if not isinstance(sslp, dict):
                return super()._create_ssl_ctx(sslp)
            key = tuple(sorted((name, repr(value)) for name, value in sslp.items()))
            known = self._tls_contexts if key else WITHOUT_ARGUMENTS
            build = functools.partial(super()._create_ssl_ctx, sslp)
            return known.get(key, functools.partial(tlsfiles.explained, build, sslp))

    return Connection
