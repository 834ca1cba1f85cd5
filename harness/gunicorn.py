"""A real gunicorn on a free port of 127.0.0.1."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.processes import (
    PROJECT,
    Managed,
    children,
    kill_all,
    start,
    wait_until_ready,
    without_coverage,
)
from harness.sockets import LOOPBACK, free_port
from harness.waiting import PATIENCE

WAYS: Mapping[str, Sequence[str]] = {
    "sync": ("--worker-class=sync",),
    "gthread": ("--worker-class=gthread", "--threads=4"),
    "gevent": ("--worker-class=gevent",),
    "preload": ("--worker-class=gthread", "--threads=4", "--preload"),
}
"""The kinds of workers, and options for each."""


class GunicornServer(Managed):
    """gunicorn with these options and this environment; a context manager that ends it.

    `start` and `stop` may be called again and again, and the port stays. `log` holds all output.
    It is ready when `GET` of `ready` answers 200.
    """

    program = "gunicorn"

    def __init__(
        self,
        directory: Path,
        options: Sequence[str],
        env: Mapping[str, str],
        *,
        ready: str = "/",
    ) -> None:
        self.port = free_port()
        # Coverage takes locks of its own that a fork amid its threads leaves locked in the child:
        # with --preload, workers were seen to hang in them.
        self.env = {**without_coverage(), **env}
        self._options = tuple(options)
        self._ready = ready
        self._log = directory / f"gunicorn-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the arbiter and its workers have written so far."""
        return self._log.read_text()

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id of the arbiter."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """The process ids of the workers there are now."""
        return children(self.pid)

    def start(self) -> None:
        """Start, and return when it serves."""
        command = [sys.executable, "-m", self.program, *self._options, *self.where()]
        self._process = start(command, self._log, env=self.env, cwd=PROJECT, new_session=False)
        wait_until_ready(self._process, self._serves, self.program, self._log.read_text)

    def where(self) -> list[str]:
        """The options that say where it listens."""
        return ["--no-control-socket", "--bind", f"{LOOPBACK}:{self.port}"]

    def stop(self) -> int:
        """Send SIGTERM to the arbiter and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self.close()

    def connect(self, timeout: float = PATIENCE) -> http.client.HTTPConnection:
        """A connection to it, which opens with its first request."""
        return http.client.HTTPConnection(LOOPBACK, self.port, timeout=timeout)

    def _serves(self) -> bool:
        connection = self.connect()
        try:
            connection.request("GET", self._ready)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def close(self) -> None:
        """Kill it and its workers, if it runs."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        workers = children(process.pid)
        process.kill()
        process.wait()
        kill_all(workers)  # one that hangs would not see that its arbiter is gone
