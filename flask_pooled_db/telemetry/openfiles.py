"""How many files the process has open, beside how many it may have.

A connection takes one, on SQLite up to three. A process that has none left can't open a connection,
nor accept a request.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Mapping
from typing import NamedTuple

from flask_pooled_db.config import shown
from flask_pooled_db.pool import NoEvents
from flask_pooled_db.pool.upkeep import upkeep
from flask_pooled_db.runtime import Job, Part, guard, housekeeper, join, reporter, workers

logger = logging.getLogger("flask_pooled_db")

INTERVAL = 10.0
"""Seconds between two looks, while the process has connections."""

HIGH, LOW = 0.8, 0.7
"""The parts of the limit at which a process is said to be near it, and not to be any more."""


class Count(NamedTuple):
    """The open files of the process, and its limit."""

    open: int
    limit: int

    @property
    def share(self) -> float:
        """The part of the limit that is used."""
        return self.open / self.limit


def count_files() -> Count | None:
    """Count the open files; None where the system does not tell, or has no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit in (0, resource.RLIM_INFINITY):
        return None
    try:
        with os.scandir("/proc/self/fd") as entries:
            return Count(sum(1 for _ in entries) - 1, limit)  # one is its own
    except OSError:
        return None


class OpenFiles(NoEvents, Part):
    """Warns when the process is near its limit of open files, and tells when it is not any more.

    It hears of all pools, and looks while one of them has connections.
    """

    def __init__(
        self,
        count: Callable[[], Count | None] = count_files,
        connections: Callable[[], Mapping[str, int]] = upkeep.connections_by_bind,
    ) -> None:
        self._count = count
        self._connections = connections
        self._job: Job | None = None
        self._is_near = False

    def opened(self, seconds: float) -> None:
        if self._job is None:
            self._schedule()

    def after_fork_in_child(self) -> None:
        self._job, self._is_near = None, False

    def _schedule(self) -> None:
        with guard.lock:
            is_first = self._job is None
            if is_first:
                self._job = Job(0.0, lambda: None)  # until there is a real one
        if is_first:
            self._job = housekeeper.call_later(INTERVAL, self._start)

    def _start(self) -> None:
        self._job = None
        if sum(self._connections().values()) or self._is_near:
            self._schedule()
            workers.start("files", self.look)

    def look(self) -> None:
        """Look, and log what has changed."""
        files = self._count()
        if files is None:
            return
        was_near = self._is_near
        self._is_near = files.share >= (LOW if was_near else HIGH)
        if self._is_near and not was_near:
            reporter.tell(
                logger.warning,
                "This process has %d files open, and may have %d (%s). Without another one it can "
                "neither open a connection nor accept a request: raise its limit (ulimit -n, or "
                "LimitNOFILE of systemd), or look for what leaves files open",
                *(files.open, files.limit, self._part()),
            )
        elif was_near and not self._is_near:
            text = "This process has %d files open, and may have %d: that is enough again"
            reporter.tell(logger.warning, text, files.open, files.limit)

    def _part(self) -> str:
        """Say which part the pools have in it."""
        counts = {bind: count for bind, count in self._connections().items() if count}
        if not counts:
            return "the pools have no connections open"
        total, most = sum(counts.values()), max(counts, key=counts.__getitem__)
        return (
            f"the pools have {total} connection{'' if total == 1 else 's'} open, bind "
            f"{shown(most)} the most with {counts[most]}"
        )


open_files = OpenFiles()
"""What looks at the files of this process."""

join(6, open_files)
