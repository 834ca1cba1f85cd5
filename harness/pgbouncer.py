"""A throw-away pgbouncer of the test run's own, in front of a PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from harness.processes import Managed, ServerError, end, start, wait_until_ready
from harness.sockets import DATABASE_PORTS, LOOPBACK, free_port

_OWNER = "postgres"  # of the process, and of the databases
_ADMIN_DATABASE = "pgbouncer"
_DEFAULTS = {"pool_mode": "transaction", "default_pool_size": "10", "server_login_retry": "0.2"}


class PgBouncer(Managed):
    """A pgbouncer on a free port of 127.0.0.1, in transaction mode; a context manager that kills
    it.

    `settings` are those of its file, beside where it listens and whom it lets in, which are the
    harness's own.
    """

    def __init__(self, upstream: str, settings: Mapping[str, str] | None = None) -> None:
        """`upstream` is the URL of a server, which lets everybody in."""
        server = urlsplit(upstream)
        self.host, self.port = LOOPBACK, free_port()
        self.upstream = (server.hostname or LOOPBACK, server.port or 5432)
        self._settings = {**_DEFAULTS, **(settings or {})}
        self._directory = Path(tempfile.mkdtemp(prefix="pooled-db-pgbouncer-"))
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the superuser's database on the server behind it."""
        return f"postgresql+psycopg://{_OWNER}@{self.host}:{self.port}/postgres"

    def start(self) -> None:
        """Start it, on the same port as before, and return when it answers."""
        command = [_program(), str(self._write_settings())]
        if os.geteuid() == 0:  # it refuses to be root
            shutil.chown(self._directory, _OWNER)
            command = [command[0], "-u", _OWNER, command[1]]
        self._process = start(command, self._log)
        DATABASE_PORTS.add(self.port)
        wait_until_ready(self._process, self._answers, "pgbouncer", self._log.read_text)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None and self._process.poll() is None:
            end(self._process, signal.SIGKILL)

    def restart(self) -> None:
        """Kill and start it: all connections are lost, those to the server too."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Kill it, and remove its folder."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def console(self, command: str) -> list[dict[str, Any]]:
        """Run a command of its own, as SHOW POOLS, and return the rows of the answer."""
        with psycopg.connect(self._conninfo(_ADMIN_DATABASE), autocommit=True) as connection:
            cursor = connection.execute(command.encode())
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor] if names else []

    def queries(self) -> int:
        """Return how many times it has sent a request on to the server and the answer back: round
        trips, also of several statements in one.
        """
        rows = self.console("SHOW STATS")
        return sum(row["total_query_count"] for row in rows if row["database"] == "postgres")

    def server_connections(self) -> int:
        """Return how many connections it has to the server."""
        rows = self.console("SHOW SERVERS")
        return sum(row["database"] == "postgres" for row in rows)

    def _write_settings(self) -> Path:
        file, users = self._directory / "pgbouncer.ini", self._directory / "users"
        users.write_text(f'"{_OWNER}" ""\n')
        host, port = self.upstream
        settings = {
            **self._settings,
            "listen_addr": self.host,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(users),
            "admin_users": _OWNER,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        file.write_text(
            "\n".join(["[databases]", f"* = host={host} port={port}", "[pgbouncer]", *lines, ""])
        )
        return file

    def _answers(self) -> bool:
        try:
            return bool(self.console("SHOW VERSION"))
        except psycopg.OperationalError:
            return False

    def _conninfo(self, database: str) -> str:
        return f"host={self.host} port={self.port} user={_OWNER} dbname={database}"


def _program() -> str:
    """Return the path of pgbouncer, which lives outside an ordinary user's PATH."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("pgbouncer", path=path)
    if found is None:
        raise ServerError("pgbouncer is not installed: sudo apt-get install pgbouncer")
    return found
