"""What a process publishes of its pools, and how the numbers of several are added up."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import platform
import re
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flask_pooled_db.host import Location
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Histogram, PoolStats
from flask_pooled_db.pool.link import server_ids
from flask_pooled_db.pool.registry import Registry
from flask_pooled_db.runtime import guard
from flask_pooled_db.telemetry.conventions import version
from flask_pooled_db.telemetry.seen import Seen
from flask_pooled_db.telemetry.site import Site
from flask_pooled_db.telemetry.usage import MOST_NAMES, OTHER

MOMENTARY = frozenset(
    {
        *("open", "in_use", "idle", "waiting", "longest_lease"),
        *("maxconnections", "maxcached", "mincached"),
        *("label", "down", "tells_holders", "server", "server_ids"),
    }
)
"""What tells of a moment, of the numbers of a pool. The others only grow."""

GRAIN = 2.0**-20
"""Seconds that times are published in multiples of. Sums of these are exact, in whatever order they
are added up: a counter that goes back by a rounding error looks as if it had begun anew."""

Numbers = dict[str, Any]

_FIELDS = tuple(field.name for field in dataclasses.fields(PoolStats))


def collect(pool: Pool) -> Numbers:
    """Return the numbers of a pool."""
    stats = pool.stats()
    found = {name: getattr(stats, name) for name in _FIELDS}  # asdict() takes three times as long
    for name, value in found.items():
        if isinstance(value, Histogram):
            found[name] = {"counts": value.counts, "sum": exact(value.sum)}
    return found


def _of_now(pool: Pool) -> Numbers:
    """Return what tells of a moment and is no number: which database it is, and how it is."""
    trouble = pool.engine.trouble()
    return {
        "label": Site(pool.bind, pool.config, pool.driver).label,
        "down": None if trouble is None else trouble._asdict(),
        "tells_holders": pool.engine.tells_holders,
    }


def exact(seconds: float) -> float:
    """Return a time in whole grains."""
    return round(seconds / GRAIN) * GRAIN


OTHER_BINDS = "(other binds)"
"""What those opened by their names are counted as that are not told from each other."""


def merge(totals: Numbers, numbers: Numbers) -> Numbers:
    """Return the totals with the counters of some numbers added to them, by the name of the bind.

    What binds had counted that were closed meanwhile is in them. Binds of the configuration all
    have their own. Of those that were opened by their names 200 do: there may be millions.
    """
    pools, callers = totals.get("pools", {}), totals.get("callers", {})
    for part in ("pools", "closed"):
        counters = {bind: counters_of(found) for bind, found in numbers.get(part, {}).items()}
        pools = added(pools, counters)
    opened = {*totals.get("named", ()), *numbers.get("opened", ()), *numbers.get("closed", ())}
    by_name = bounded({name: pools[name] for name in opened & pools.keys()}, OTHER_BINDS)
    fixed = {name: counters for name, counters in pools.items() if name not in opened}
    return {
        "pools": {**fixed, **by_name},
        "named": sorted(by_name),
        "callers": bounded(added(callers, numbers.get("callers", {}))),
        "slow_statements": bounded(
            added(totals.get("slow_statements", {}), numbers.get("slow_statements", {}))
        ),
    }


def bounded(by_name: Numbers, other: str = OTHER) -> Numbers:
    """Return what is counted by name, with those beyond the first 200 names added up as one.

    Which ones they are does not depend on the order in which processes are added up, and a name
    that is not among the first ones never will be again: so no number ever goes back.
    """
    if len(by_name) <= MOST_NAMES:
        return by_name
    names = sorted(by_name.keys() - {other})
    kept = {name: by_name[name] for name in names[:MOST_NAMES]}
    rest = by_name.get(other)
    for name in names[MOST_NAMES:]:
        rest = added(rest, by_name[name])
    return {**kept, other: rest}


def counters_of(numbers: Numbers) -> Numbers:
    """Return what only grows, of the numbers of a pool."""
    return {name: value for name, value in numbers.items() if name not in MOMENTARY}


def added(total: Any, more: Any) -> Any:
    """Return the sum of two numbers, or of what holds numbers under the same names or places."""
    if total is None:
        return more
    if isinstance(more, Mapping):
        return {**total, **{name: added(total.get(name), value) for name, value in more.items()}}
    if isinstance(more, Sequence):
        return [a + b for a, b in itertools.zip_longest(total, more, fillvalue=0)]
    return total + more


class AppNumbers:
    """The numbers of one app in this process: what it publishes."""

    def __init__(self, app_name: str, seen: Seen) -> None:
        self._seen = seen
        self.registry: Registry | None = None  # once there is one
        self._app_name = app_name
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child, begin with nothing counted."""
        # What was counted by pools that are closed, and those that were open the last time.
        self._gone: Numbers = {}
        self._last: dict[str, tuple[weakref.ref[Pool], Numbers]] = {}
        self._turns = 0  # how often they were collected, or changed
        # Closed while leases went on, and whether these had ended the last time.
        self._ending: dict[Pool, bool] = {}
        self._settled: weakref.WeakSet[Pool] = weakref.WeakSet()  # closed, and seen to

    def settle(self, pool: Pool) -> None:
        """Keep what a pool counts that was closed: it may be gone when the numbers are asked for.
        What its leases do until they end is counted too.
        """
        if pool.config.server is None:
            with guard.lock:
                self._turns += 1  # whoever collects meanwhile begins anew
                self._closed_locked()
                self._settle_locked(pool)

    def _settle_locked(self, pool: Pool) -> None:
        if pool in self._settled:
            return
        self._settled.add(pool)
        known = self._last.get(pool.bind)
        if known is not None and known[0]() is pool:
            del self._last[pool.bind]
        numbers = collect(pool)
        if numbers["open"]:
            self._ending[pool] = False
        else:
            self._forget_locked(pool.bind, counters_of(numbers))

    def _closed_locked(self) -> Numbers:
        """Return what closed pools have counted. Those whose leases have ended are looked at once
        more: an event is told a moment after what it is about.
        """
        going_on: Numbers = {}
        for pool, has_ended in self._ending.copy().items():
            numbers = collect(pool)
            counters = counters_of(numbers)
            if has_ended:
                del self._ending[pool]
                self._forget_locked(pool.bind, counters)
            else:
                self._ending[pool] = not numbers["open"]
                going_on = added(going_on, {pool.bind: counters})
        return added(self._gone, going_on)  # type: ignore[no-any-return]

    def _forget_locked(self, bind: str, counters: Numbers) -> None:
        self._gone[bind] = added(self._gone.get(bind), counters)
        self._gone = bounded(self._gone, OTHER_BINDS)

    def collect(self) -> Numbers:
        """Return the numbers of this process. A tenant's are those of its server."""
        found = None
        while found is None:  # somebody else has collected at the same time
            found = self._collect_pools(self._turns)
        by_bind, pools, closed = found
        seen, ids = self._seen, server_ids()
        return {
            "app": self._app_name,
            "version": version(),
            "python": platform.python_version(),
            "threads": threading.active_count(),
            "pools": {
                bind: {
                    **pools[bind],
                    **_of_now(by_bind[bind]),
                    "server": seen.loads.of(bind),
                    "server_ids": ids.pop(bind, []),
                }
                for bind in pools
            },
            "opened": self._opened(),
            "closed": closed,
            "server_ids": ids,  # of connections of binds that are closed, while leases go on
            "callers": {
                name: {"leases": use.leases, "seconds": exact(use.seconds), "idle": exact(use.idle)}
                for name, use in seen.usage.by_name().items()
            },
            "slow_statements": dict(seen.slow.counts()),
            **seen.of(pool.engine for pool in by_bind.values()),
        }

    def _opened(self) -> Numbers:
        """Return what is told of the binds that were opened by their names, tenants as well."""
        registry = self.registry
        told: Numbers = {}
        if registry is None:
            return told
        for pool in registry.all_pools():
            opened = registry.opened.get(pool.bind)
            if opened is not None:
                told[pool.bind] = {
                    "is_used": not opened.is_idle,
                    "unused_for": max(registry.clock() - opened.last_used, 0.0),
                    "server": pool.config.server,
                }
        return told

    def _collect_pools(self, turn: int) -> tuple[dict[str, Pool], Numbers, Numbers] | None:
        """Return the pools that are open, their numbers, and those of the ones that are closed;
        None if it is not this turn any more.
        """
        pools = [] if self.registry is None else self.registry.own_pools()
        by_bind = {pool.bind: pool for pool in pools}
        found = {bind: collect(pool) for bind, pool in by_bind.items()}
        with guard.lock:
            if self._turns != turn:
                return None
            self._turns += 1
            for bind, (reference, numbers) in self._last.copy().items():
                pool = reference()
                if pool is None:
                    self._forget_locked(bind, counters_of(numbers))
                elif by_bind.get(bind) is not pool:
                    self._settle_locked(pool)
            self._last = {bind: (weakref.ref(pool), found[bind]) for bind, pool in by_bind.items()}
            return by_bind, found, self._closed_locked()

    merge = staticmethod(merge)


def location_of(name: str, folders: Iterable[str], base: str | None) -> Location:
    """Return where the processes of an app meet that has this name and these folders.

    All that run the same app find it, whether it was imported by its full name or run as a script.
    """
    name = name.rpartition(".")[2]
    identity = "\0".join((name, *map(os.fspath, folders)))
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:40]
    return Location(base, f"{plain}-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:12]}")
