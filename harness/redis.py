"""A throw-away Redis, or Valkey, of the test run's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import redis

from harness.processes import Managed, ServerError, end, start, wait_until_ready
from harness.sockets import LOOPBACK, free_port

_PROGRAMS = ("redis-server", "valkey-server")


class RedisServer(Managed):
    """A private Redis on a free port of 127.0.0.1 that writes nothing to disk; a context manager
    that ends it.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="pooled-db-redis-"))
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL, as Redis's clients take it, without the number of a database."""
        return f"redis://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Start, and return when it answers."""
        options = {"bind": LOOPBACK, "port": str(self.port), "dir": str(self._directory)}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = [_program(), *arguments, "--save", "", "--appendonly", "no"]
        self._process = start(command, self._log)
        wait_until_ready(self._process, self._answers, "Redis", self._log.read_text)

    def empty(self) -> None:
        """Remove all that is in it."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def close(self) -> None:
        """Kill it, and remove its folder."""
        process, self._process = self._process, None
        if process is not None:
            end(process, signal.SIGKILL)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


def _program() -> str:
    """Return the path of the server, which lives outside an ordinary user's PATH elsewhere."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = [program for name in _PROGRAMS if (program := shutil.which(name, path=path))]
    if not found:
        raise ServerError("Redis is not installed: sudo apt-get install redis-server")
    return found[0]
