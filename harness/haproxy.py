"""HAProxy in front of several servers, as people put it there."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.processes import Managed, end, start, wait_until_ready
from harness.server import MariaDBServer, find_program
from harness.sockets import DATABASE_PORTS, LOOPBACK, free_port

_DATABASES = f"""\
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen database
    bind {LOOPBACK}:{{port}}
    balance leastconn
    option mysql-check user haproxy
    default-server inter 200ms fall 2 rise 2 on-marked-down shutdown-sessions
"""


class HAProxy(Managed):
    """HAProxy with a configuration, in which `{port}` is where it listens; a context manager."""

    def __init__(self, configuration: str) -> None:
        self.host = LOOPBACK
        self.port = free_port()
        self._configuration = configuration.replace("{port}", str(self.port))
        self._directory = Path(tempfile.mkdtemp(prefix="pooled-db-haproxy-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it listens."""
        configuration = self._directory / "haproxy.cfg"
        configuration.write_text(self._configuration)
        log = self._directory / "haproxy.log"
        self._process = start([find_program("haproxy"), "-db", "-f", str(configuration)], log)
        wait_until_ready(self._process, self._listens, "HAProxy", log.read_text)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def close(self) -> None:
        """End it and remove its directory."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)
        shutil.rmtree(self._directory, ignore_errors=True)


class DatabaseHAProxy(HAProxy):
    """It spreads connections over the database servers that are up."""

    def __init__(self, servers: Sequence[MariaDBServer]) -> None:
        lines = [
            f"    server s{number} {server.host}:{server.port} check\n"
            for number, server in enumerate(servers)
        ]
        super().__init__(_DATABASES + "".join(lines))
        DATABASE_PORTS.add(self.port)


def allow_checks(server: MariaDBServer) -> None:
    """Make the user that HAProxy's checks come as."""
    server.execute("CREATE USER IF NOT EXISTS 'haproxy'@'%'")
