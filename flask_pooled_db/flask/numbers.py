"""What a process publishes of its pools, and how the numbers of several are added up."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import platform
import re
import threading
import weakref
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from flask_pooled_db.host import Location
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import PoolStats
from flask_pooled_db.pool.registry import Registry
from flask_pooled_db.runtime import guard

COUNTERS = ("checkouts", "timeouts", "connects", "connect_errors", "discarded", "leaked")
"""What only grows, of the numbers of a pool."""

Numbers = dict[str, Any]


_FIELDS = tuple(field.name for field in dataclasses.fields(PoolStats))


def collect(pool: Pool) -> Numbers:
    """Return the numbers of a pool."""
    stats = pool.stats()
    return {name: getattr(stats, name) for name in _FIELDS}  # asdict() takes three times as long


def merge(totals: Numbers, numbers: Numbers) -> Numbers:
    """Return the totals with the counters of some numbers added to them, by the name of the bind.

    What binds had counted that were closed meanwhile is in them.
    """
    pools = {bind: dict(counters) for bind, counters in totals.get("pools", {}).items()}
    for part in ("pools", "closed"):
        for bind, found in numbers.get(part, {}).items():
            pools[bind] = _sum(pools.get(bind, {}), found)
    return {"pools": pools}


def _sum(counters: Numbers, more: Numbers) -> Numbers:
    return {name: int(counters.get(name, 0)) + int(more[name]) for name in COUNTERS}


class AppNumbers:
    """The numbers of one app in this process: what it publishes."""

    def __init__(self, app_name: str) -> None:
        self.registry: Registry | None = None  # once there is one
        self._app_name = app_name
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child, begin with nothing counted."""
        # What was counted by pools that are closed, and those that were open the last time.
        self._gone: Numbers = {}
        self._last: dict[str, tuple[weakref.ref[Pool], Numbers]] = {}

    def collect(self) -> Numbers:
        """Return the numbers of this process. A tenant's are those of its server."""
        pools = [] if self.registry is None else self.registry.all_pools()
        by_bind = {pool.bind: pool for pool in pools if pool.config.server is None}
        found = {bind: collect(pool) for bind, pool in by_bind.items()}
        with guard.lock:
            for bind, (reference, numbers) in self._last.items():
                pool = reference()
                if pool is None or by_bind.get(bind) is not pool:
                    final = numbers if pool is None else collect(pool)
                    self._gone[bind] = _sum(self._gone.get(bind, {}), final)
            self._last = {bind: (weakref.ref(pool), found[bind]) for bind, pool in by_bind.items()}
            closed = dict(self._gone)
        return {
            "app": self._app_name,
            "version": _version(),
            "python": platform.python_version(),
            "threads": threading.active_count(),
            "pools": found,
            "closed": closed,
        }

    merge = staticmethod(merge)


@functools.cache
def _version() -> str:
    try:
        return metadata.version("flask-pooled-db")
    except metadata.PackageNotFoundError:  # it runs from a folder
        return "unknown"


def location_of(name: str, folders: Iterable[str], base: str | None) -> Location:
    """Return where the processes of an app meet that has this name and these folders.

    All that run the same app find it, whether it was imported by its full name or run as a script.
    """
    name = name.rpartition(".")[2]
    identity = "\0".join((name, *map(os.fspath, folders)))
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:40]
    return Location(base, f"{plain}-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:12]}")
