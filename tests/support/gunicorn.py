"""A real gunicorn on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.sockets import LOOPBACK, free_port

PROJECT = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 30.0
_POLL_INTERVAL = 0.02


class GunicornServer:
    """gunicorn with these options and this environment; a context manager that ends it.

    `start` and `stop` may be called again and again, and the port stays. `log` holds all output.
    It is ready when `GET /` answers 200.
    """

    def __init__(self, directory: Path, options: Sequence[str], env: Mapping[str, str]) -> None:
        self.port = free_port()
        # Coverage takes locks of its own that a fork amid its threads leaves locked in the child:
        # with --preload, workers were seen to hang in them.
        outer = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
        self.env = {**outer, **env}
        self._options = tuple(options)
        self._log = directory / f"gunicorn-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()

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
        return _children(self.pid)

    def start(self) -> None:
        """Start, and return when it serves."""
        command = [sys.executable, "-m", "gunicorn", *self._options]
        options = ["--no-control-socket", "--bind", f"{LOOPBACK}:{self.port}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options], cwd=PROJECT, env=self.env, stdout=log, stderr=log
            )
        deadline = time.monotonic() + TIMEOUT
        while not self._serves():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(_POLL_INTERVAL)

    def stop(self) -> int:
        """Send SIGTERM to the arbiter and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(TIMEOUT)
        finally:
            self._kill()

    def connect(self, timeout: float = TIMEOUT) -> http.client.HTTPConnection:
        """A connection to it, which opens with its first request."""
        return http.client.HTTPConnection(LOOPBACK, self.port, timeout=timeout)

    def _serves(self) -> bool:
        connection = self.connect()
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        workers = _children(process.pid)
        process.kill()
        process.wait()
        for worker in workers:  # one that hangs would not see that its arbiter is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
