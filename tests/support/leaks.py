"""What a test must not leave behind: threads, sockets to a database, app contexts."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from flask import has_app_context

from harness.sockets import database_sockets
from harness.waiting import holds_within

_THREAD_PREFIX = "flask-pooled-db"
_HOUSEKEEPING = "flask-pooled-db housekeeping"
_TIME_TO_END = 2.0


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


def wait_for_leaks_to_end(before: Footprint, patience: float = _TIME_TO_END) -> list[str]:
    """The leaks since `before` that `patience` seconds did not mend."""
    leaks: list[str] = []

    def has_none() -> bool:
        leaks[:] = Footprint.now().leaks_since(before)
        return not leaks

    holds_within(patience, has_none, 0.02)
    return leaks


def housekeeping_threads() -> list[threading.Thread]:
    """Return the housekeeping threads of this process."""
    return [thread for thread in threading.enumerate() if thread.name == _HOUSEKEEPING]
