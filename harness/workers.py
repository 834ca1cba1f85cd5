"""A process that works until it is told to end: a job runner's worker, a scheduler."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.processes import Managed, children, kill_all, start
from harness.waiting import PATIENCE


class Worker(Managed):
    """A Python program with these arguments; a context manager that ends it and its children.

    `log` holds all output.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self._arguments = tuple(arguments)
        self._folder = folder
        self._env = env
        self._log = folder / f"worker-{id(self)}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it and its children have written so far."""
        return self._log.read_text()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start; what it is to do may not be ready yet."""
        command = [sys.executable, *self._arguments]
        self._process = start(command, self._log, env=self._env, cwd=self._folder)

    def tell_to_end(self, how: signal.Signals = signal.SIGTERM) -> Callable[[], int]:
        """Send a signal, and return a function that waits for the end and returns the exit code."""
        process = self._process
        assert process is not None
        process.send_signal(how)
        return lambda: process.wait(PATIENCE)

    def close(self) -> None:
        """Kill it and its children, if it runs."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        pids = children(process.pid)
        process.kill()
        process.wait()
        kill_all(pids)
