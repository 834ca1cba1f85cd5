"""Binds that nobody uses any more are closed: in the background, and by hand."""

from __future__ import annotations

import functools
import logging
import weakref
from dataclasses import dataclass
from pathlib import Path

from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.opened import Opened
from flask_pooled_db.pool.registry import Registry
from flask_pooled_db.runtime import Job, Part, housekeeper, join, reporter, workers

logger = logging.getLogger("flask_pooled_db")

SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.02, 60.0
"""Seconds between two sweeps of the binds of an app. Within these limits it is a quarter of their
idle timeout."""


@dataclass(frozen=True, slots=True)
class Housekeeping:
    """What one round of upkeep found and did, for one app in this process."""

    binds_open: int
    """Binds that the loader knows and that are open afterwards."""
    evicted: int
    """Binds that were closed, since they had not been used for POOLED_DB_BIND_IDLE_TIMEOUT."""
    kept: int
    """Binds that would have been closed, but for the bind_guard."""
    in_use: int
    """Connections that are in use, of all binds."""
    open_files: int | None
    """Files and sockets that the process has open; None if the system does not tell."""


def age(registry: Registry) -> Housekeeping:
    """Close the binds that were unused for too long. Returns, and logs, what was done.

    The guard is asked at the start, and again right before each bind is closed.
    """
    due, keeper = _due(registry), registry.keeper
    kept = keeper.kept() if due else ()
    evicted, protected = 0, 0
    for opened in due:
        if kept is not None and opened.name not in kept:
            kept = keeper.kept()
        if kept is None or opened.name in kept:
            protected += 1
            continue
        still = functools.partial(_is_due, registry, opened)
        evicted += registry.evict(opened, "idle", still)
    summary = Housekeeping(
        binds_open=len(registry.opened),
        evicted=evicted,
        kept=protected,
        in_use=sum(pool.engine.snapshot().in_use for pool in registry.own_pools()),
        open_files=_count_files(),
    )
    reporter.tell(logger.debug, "Housekeeping of the binds: %s", summary)
    return summary


def _due(registry: Registry) -> list[Opened]:
    """Return the binds that were unused for too long, the one that was used longest ago first."""
    found = [one for one in list(registry.opened.values()) if _is_due(registry, one)]
    return sorted(found, key=lambda one: one.last_used)


def _is_due(registry: Registry, opened: Opened) -> bool:
    timeout = registry.config.bind_idle_timeout
    return timeout > 0 and opened.is_idle and registry.clock() - opened.last_used >= timeout


def _count_files() -> int | None:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return sum(1 for _ in Path(folder).iterdir()) - 1  # without the one that lists them
        except OSError:
            continue
    return None


class Registries(Part):
    """All registries of the process. Those that have binds open are swept from time to time."""

    def __init__(self) -> None:
        self._registries: Census[Registry] = Census()
        self._swept: weakref.WeakKeyDictionary[Registry, object] = weakref.WeakKeyDictionary()
        self._jobs: weakref.WeakKeyDictionary[Registry, Job] = weakref.WeakKeyDictionary()

    def add(self, registry: Registry) -> None:
        """Take part in forks for a registry."""
        self._registries.add(registry)

    def begin(self, registry: Registry) -> None:
        """Sweep a registry from now on, if it is not swept already, while it has binds open."""
        timeout = registry.config.bind_idle_timeout
        job = self._jobs.get(registry)
        if timeout and (job is None or job.cancelled):
            interval = max(SHORTEST_INTERVAL, min(timeout / 4, LONGEST_INTERVAL))
            sweep = functools.partial(self._sweep, weakref.ref(registry))
            self._jobs[registry] = housekeeper.call_later(interval, sweep)

    def _sweep(self, reference: weakref.ref[Registry]) -> None:
        """Have a registry swept by another thread: the app's own code runs there."""
        registry = reference()
        if registry is None or not (registry.opened or len(registry.turns)):
            return
        try:
            if _due(registry) and registry not in self._swept:
                self._start(registry)
        finally:
            self.begin(registry)

    def _start(self, registry: Registry) -> None:
        self._swept[registry] = None
        try:
            workers.start("closer", functools.partial(self._age, registry))
        except BaseException:  # the system has no more threads: the next time it may
            self._swept.pop(registry, None)
            raise

    def _age(self, registry: Registry) -> None:
        """Sweep a registry. There is one sweep of it at a time: the app may take its time."""
        try:
            age(registry)
        finally:
            self._swept.pop(registry, None)

    def after_fork_in_child(self) -> None:
        self._jobs.clear()
        self._swept.clear()
        for registry in self._registries.members():
            registry.after_fork()
            if registry.opened:
                self.begin(registry)


registries = Registries()
join(3, registries)
