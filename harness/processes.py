"""Starting programs, waiting until they are ready, and ending them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.waiting import PATIENCE, holds_within

PROJECT = Path(__file__).resolve().parent.parent
"""The checkout: where programs of this project are started."""

_TIME_TO_STOP = 20.0


class ServerError(RuntimeError):
    """A server is missing, or did not do as it was told in time."""


class Managed:
    """A context manager that starts on entry, and is closed on exit or where the start fails."""

    def start(self) -> None:
        """Start what is managed; by default it runs already."""

    def close(self) -> None:
        """End it, and remove what it left; again is no error."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def start(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    new_session: bool = True,
    user: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that appends its output to `log`.

    In a session of its own, Ctrl-C at the terminal ends the tests, and these end the server.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            cwd=cwd,
            start_new_session=new_session,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )


def wait_until_ready(
    process: subprocess.Popen[bytes],
    is_ready: Callable[[], object],
    name: str,
    tail: Callable[[], str],
    seconds: float = PATIENCE,
) -> None:
    """Wait until a process is ready; raise ServerError with the tail of its log if it ends first,
    or takes longer than `seconds`.
    """
    is_settled = holds_within(seconds, lambda: process.poll() is not None or is_ready())
    if process.poll() is not None:
        raise ServerError(f"{name} ended with exit code {process.returncode}:\n{tail()}")
    if not is_settled:
        raise ServerError(f"{name} was not ready within {seconds} s. Its log ends:\n{tail()}")


def end(
    process: subprocess.Popen[bytes],
    how: signal.Signals = signal.SIGTERM,
    seconds: float = _TIME_TO_STOP,
) -> bool:
    """End a process by a signal; return False if it had to be killed after `seconds`."""
    try:
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused process would never see a SIGTERM
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    return True


def without_coverage() -> dict[str, str]:
    """Return this process's environment without what has coverage measure its children."""
    return {name: value for name, value in os.environ.items() if "COVERAGE" not in name}


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process's main thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Return whether there is such a process; one that only waits to be reaped has ended."""
    try:
        # The third field of proc(5); the second may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_all(pids: Sequence[int]) -> None:
    """Kill processes, of which some may have ended."""
    signal_all(pids, signal.SIGKILL)


def signal_all(pids: Sequence[int], how: signal.Signals) -> None:
    """Send processes a signal, of which some may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
