"""The folder for temporary files of one process of the tests, and of what it starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_OWNER = os.getpid()


def make() -> Path:
    """Have this process and those it starts put temporary files in a folder of its own.

    Apps publish their numbers there, and sum up those of all that have ended. In a folder that many
    thousands of tests share, each app would read and write a megabyte when it ends.
    """
    # `tmp_path` stays for a look at it. No folder is in another one's: a socket's path is short.
    before = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="db-", dir=before))
    folder.chmod(0o755)  # some servers run as another user
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    return folder


def forget_apps(folder: Path) -> None:
    """Remove what the apps of a module have published."""
    shutil.rmtree(folder / f"flask-pooled-db-{os.geteuid()}", ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove the folder, but not from a child that a test has forked."""
    if os.getpid() == _OWNER:
        shutil.rmtree(folder, ignore_errors=True)
