"""The programs that start servers end them when they are ended themselves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.processes import PROJECT
from harness.signals import AS_AT_A_TERMINAL
from harness.waiting import wait_until

PROGRAMS = {
    "benchmarks": ["benchmarks", "--quick", "connect"],
    "faults": ["faults", "--quick", "1-kill", "--system", "ours"],
}
TIME_TO_END = 60.0
_MARK = "TESTS_STARTED_BY"


def marked(mark: str) -> dict[int, str]:
    """Return the command lines of the processes with this mark in their environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended, or is another user's
            continue
        if f"{_MARK}={mark}".encode() in environment:
            found[int(process.name)] = command
    return found


def has_server(mark: str) -> bool:
    """Whether one of these processes is a server that takes connections."""
    # The server writes its pid file when it has its ports.
    files = re.findall(r"mariadbd .*--pid-file=(\S+)", "\n".join(marked(mark).values()))
    return any(Path(file).exists() for file in files)


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark for the environment of a program; what is left of the program is killed."""
    mark = uuid.uuid4().hex
    yield mark
    for process in marked(mark):
        os.kill(process, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
@pytest.mark.parametrize("program", PROGRAMS)
def test_ended_program_ends_servers(program: str, signum: signal.Signals, mark: str) -> None:
    """A program ended by a signal ends its servers first, and its exit status is that of the
    signal.
    """
    with subprocess.Popen(
        [*AS_AT_A_TERMINAL, sys.executable, "-m", *PROGRAMS[program]],
        cwd=PROJECT,
        env={**os.environ, _MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: has_server(mark), "a server")
        process.send_signal(signum)
        status = process.wait(TIME_TO_END)
    assert marked(mark) == {}
    assert status == 128 + signum
