"""What a test must not leave behind: threads, sockets to a database, app contexts."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from flask import has_app_context

from tests.support.sockets import database_sockets

PATIENCE = 2.0

_THREAD_PREFIX = "flask-pooled-db"
_HOUSEKEEPING = "flask-pooled-db housekeeping"
_POLL_INTERVAL = 0.02


@dataclass(frozen=True)
class Footprint:
    """What the process holds at one moment."""

    threads: frozenset[threading.Thread]
    sockets: int
    app_context: bool

    @classmethod
    def now(cls) -> Footprint:
        """Look at the process as it is."""
        return cls(
            frozenset(t for t in threading.enumerate() if t.name.startswith(_THREAD_PREFIX)),
            len(database_sockets()),
            has_app_context(),
        )

    def leaks_since(self, before: Footprint) -> list[str]:
        """One sentence for each thing held now that was not held before."""
        leaks = []
        housekeeping = [t for t in self.threads if t.name == _HOUSEKEEPING]
        others = sorted(t.name for t in self.threads - before.threads if t not in housekeeping)
        if others:
            leaks.append(f"threads left running: {', '.join(others)}")
        if len(housekeeping) > 1:
            leaks.append(f"{len(housekeeping)} housekeeping threads; one a process is allowed")
        if self.sockets > before.sockets:
            leaks.append(f"{self.sockets - before.sockets} connection(s) to a database left open")
        if self.app_context and not before.app_context:
            leaks.append("an app context left pushed")
        return leaks


def wait_for_leaks_to_end(before: Footprint, patience: float = PATIENCE) -> list[str]:
    """The leaks since `before` that `patience` seconds did not mend."""
    deadline = time.monotonic() + patience
    while (leaks := Footprint.now().leaks_since(before)) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL)
    return leaks


def housekeeping_threads() -> list[threading.Thread]:
    """Return the housekeeping threads of this process."""
    return [thread for thread in threading.enumerate() if thread.name == _HOUSEKEEPING]
