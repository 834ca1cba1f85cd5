"""A throw-away PostgreSQL of the test run's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.sockets import free_port

_OWNER = "postgres"


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise RuntimeError(f"{name} is not installed: sudo apt-get install postgresql")
    return str(found[-1])


def _run(*command: str) -> None:
    # Its programs refuse to run as root.
    prefix = ["runuser", "-u", _OWNER, "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *command], check=True, capture_output=True, timeout=60)


@contextmanager
def postgres() -> Iterator[str]:
    """A server on a free port of 127.0.0.1: the URL of a database of its superuser."""
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    if os.geteuid() == 0:
        shutil.chown(directory, _OWNER)
    data, port = directory / "data", free_port()
    control = [_program("pg_ctl"), "--pgdata", str(data)]
    options = f"-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        _run(_program("initdb"), "--pgdata", str(data), "--auth", "trust", "--username", _OWNER)
        _run(*control, "--options", options, "--log", str(directory / "log"), "-w", "start")
        try:
            yield f"postgresql+psycopg://{_OWNER}@127.0.0.1:{port}/postgres"
        finally:
            _run(*control, "--mode", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(directory)
