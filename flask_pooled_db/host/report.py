"""What all processes of an app on this host have published, as one value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from flask_pooled_db.host import ledger
from flask_pooled_db.host.directory import Directory, Location
from flask_pooled_db.host.presence import ALIVE
from flask_pooled_db.host.records import NUMBERS, Merge, Numbers, Record, ended_in, record_of

SILENT_AFTER = 5.0
"""Seconds after which a process that has published nothing new is said to be silent: it publishes
each second.
"""


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """What one process that lives has published."""

    token: str
    """What it is called here; no other process ever was."""
    pid: int
    """Its process id, as it sees it itself."""
    uptime: float
    """Seconds since it began to use a pool, and so to publish."""
    age: float
    """Seconds since it published this; a process that is stopped publishes nothing new."""
    numbers: Mapping[str, Any]
    """What it has published."""

    @property
    def is_silent(self) -> bool:
        """Whether it has published nothing new for so long that it must be stopped, or hang."""
        return self.age > SILENT_AFTER


@dataclass(frozen=True, slots=True)
class HostStats:
    """The numbers of all processes of an app on this host."""

    processes: tuple[ProcessStats, ...] = ()
    """Those that live, the oldest first."""
    totals: Mapping[str, Any] = field(default_factory=dict)
    """The counters of all processes together, of those that have ended as well. They never go back
    while the directory stays."""
    ended: Mapping[str, Any] = field(default_factory=dict)
    """The part of the totals that those have left which have ended."""
    problem: str | None = None
    """Why the processes can't be read, so that this one tells its own numbers alone; or why it
    could not publish its latest. None if all is well."""

    @property
    def is_alone(self) -> bool:
        """Whether these are the numbers of this process alone: others could not be read."""
        return any(not one.token for one in self.processes)


def read(location: Location, merge: Merge) -> HostStats:
    """Return what all processes have published. Raises `Unusable`."""
    try:
        with location.opened(make=False) as directory:
            return _read(directory, merge)
    except FileNotFoundError:  # nobody has published yet
        return HostStats()


def _read(directory: Directory, merge: Merge) -> HostStats:
    living: dict[str, Record] = {}
    dead: dict[str, Record] = {}
    for token in ledger.tokens_in(directory.names(), ALIVE, NUMBERS):
        record = record_of(directory, token)
        if record is not None:
            is_alive = ledger.is_alive(directory, token)
            (living if is_alive else dead)[token] = record
    settled = ended_in(directory, ledger.ENDED_FILE)  # last: see there
    ended = settled.totals
    for token in sorted(dead.keys() - settled.tokens.keys()):
        ended = ledger.add(merge, ended, dead[token].numbers, f"{token}{NUMBERS}")
    living = {token: living[token] for token in living.keys() - settled.tokens.keys()}
    return _told(living, ended, merge)


def _told(
    records: Mapping[str, Record], ended: Numbers, merge: Merge, problem: str | None = None
) -> HostStats:
    now, totals = monotonic(), ledger.add(merge, {}, ended, ledger.ENDED_FILE)
    for token, record in records.items():
        totals = ledger.add(merge, totals, record.numbers, f"{token}{NUMBERS}")
    processes = (
        ProcessStats(
            token=token,
            pid=record.pid,
            uptime=max(now - record.started, 0.0),
            age=max(now - record.published, 0.0),
            numbers=record.numbers,
        )
        for token, record in records.items()
    )
    in_order = sorted(processes, key=lambda one: (-one.uptime, one.pid))
    return HostStats(tuple(in_order), totals, ended, problem)


WANTED = "POOLED_DB_RUNTIME_DIR is False"
"""The problem of an app whose processes are not to meet."""


def alone(numbers: Numbers, merge: Merge, problem: str, started: float | None = None) -> HostStats:
    """Return the numbers of this process alone, which is since `started`, and why."""
    now = monotonic()
    record = Record(os.getpid(), now if started is None else started, now, numbers)
    return _told({"": record}, {}, merge, problem)
