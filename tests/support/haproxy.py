"""HAProxy in front of several servers, as people put it there."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.server import MariaDBServer, find_program
from tests.support.sockets import DATABASE_PORTS, LOOPBACK, free_port

_CONFIGURATION = """\
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen database
    bind {host}:{port}
    balance leastconn
    option mysql-check user haproxy
    default-server inter 200ms fall 2 rise 2 on-marked-down shutdown-sessions
"""
_START_TIMEOUT = 10.0
_POLL_INTERVAL = 0.02


class HAProxy:
    """It spreads connections over the servers that are up; a context manager."""

    def __init__(self, servers: Sequence[MariaDBServer]) -> None:
        self.host = LOOPBACK
        self.port = free_port()
        self._servers = servers
        self._directory = Path(tempfile.mkdtemp(prefix="pooled-db-haproxy-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        configuration = self._directory / "haproxy.cfg"
        lines = [
            f"    server s{number} {server.host}:{server.port} check\n"
            for number, server in enumerate(self._servers)
        ]
        head = _CONFIGURATION.format(host=self.host, port=self.port)
        configuration.write_text(head + "".join(lines))
        self._process = subprocess.Popen(
            [find_program("haproxy"), "-db", "-f", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        DATABASE_PORTS.add(self.port)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise RuntimeError("HAProxy does not come up")
            time.sleep(_POLL_INTERVAL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def allow_checks(server: MariaDBServer) -> None:
    """Make the user that HAProxy's checks come as."""
    server.execute("CREATE USER IF NOT EXISTS 'haproxy'@'%'")
