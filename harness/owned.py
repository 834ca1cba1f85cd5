"""What a server of the test run's own has: a process, a folder, and a port it has found free."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from harness.processes import Managed, ServerError
from harness.sockets import LOOPBACK, free_port
from harness.tls import Certificates


class OwnServer(Managed):
    """A server on a port of 127.0.0.1, whose data are in a folder of its own until `close()`.

    `options` are the server's, `certificates` those it offers TLS with.
    """

    def __init__(
        self, directory: Path, options: Sequence[str], certificates: Certificates | None
    ) -> None:
        self.host = LOOPBACK
        self.port = free_port()
        self.options = tuple(options)
        self.certificates = certificates
        self._owner = os.getpid()
        self._directory = directory
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        # Guards the side connection: one statement at a time.
        self._side_lock = threading.RLock()
        # A session that ends without its finalizers still leaves no server behind.
        atexit.register(self.close)

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process else "stopped"
        return f"<{type(self).__name__} {self.host}:{self.port} {state}>"

    @property
    def running(self) -> bool:
        """Whether the server's process is alive (a paused one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server, or of its first process."""
        return self._alive().pid

    def stop(self) -> None:
        """Shut the server down in good order; a server that is not running stays so."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the server as a crash would."""
        raise NotImplementedError

    def restart(self) -> None:
        """Stop and start: every connection is lost, the data stay."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server and remove its data; a forked child leaves its parent's server alone."""
        if os.getpid() != self._owner:
            return
        try:
            self.kill()
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
            atexit.unregister(self.close)

    def error_log(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self!r} is not running. Its log ends:\n{self.error_log()}")
        return self._process
