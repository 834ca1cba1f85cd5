"""PostgreSQL's programs, and what they make before a server starts."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.processes import ServerError

OWNER = "postgres"
"""The superuser; for root, who may not run the programs, also whom they run as."""


def program_of(name: str) -> str:
    """The path of one of PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise ServerError(f"{name} is not installed: sudo apt-get install postgresql")
    return str(found[-1])


def run(*command: str) -> None:
    """Run one of them as `OWNER` and wait for its end; raise ServerError if it fails."""
    prefix = ["runuser", "-u", OWNER, "--"] if os.geteuid() == 0 else []
    done = subprocess.run([*prefix, *command], capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise ServerError(f"{command[0]} failed:\n{done.stderr.decode(errors='replace')}")


def new_directory(prefix: str) -> Path:
    """Make a temporary directory that `OWNER` may write to."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    if os.geteuid() == 0:
        shutil.chown(directory, OWNER)
    return directory


@functools.cache
def template() -> Path:
    """A fresh data directory, made once a session: copying it takes a fraction of the time."""
    owner, directory = os.getpid(), new_directory("pooled-db-pg-template-")

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)

    data = directory / "data"
    options = ["--auth=trust", f"--username={OWNER}", "--no-sync", "--wal-segsize=1"]
    run(program_of("initdb"), f"--pgdata={data}", *options)
    return data
