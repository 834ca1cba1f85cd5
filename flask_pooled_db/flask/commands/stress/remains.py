"""What `flask pooled-db stress` has left behind, in this process and on the server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from flask_pooled_db.drivers.facts import ServerSession
from flask_pooled_db.flask.commands.servers.owners import why_not_known
from flask_pooled_db.flask.commands.servers.probing import ask, open_entry
from flask_pooled_db.lease.dbutils import Pool

PATIENCE = 5.0
"""Seconds in which threads end and a server sees the ends of connections."""

_GLANCE = 0.05
_COUNTS = 5

_HOUSEKEEPING = "flask-pooled-db housekeeping"  # one a process, for good


class Footprint(NamedTuple):
    """What this process has at a moment when its pools have no idle connections."""

    connections: int  # lent
    threads: frozenset[threading.Thread]
    files: int | None  # None where the system does not tell

    def more_than(self, before: Footprint) -> Left:
        """Return what there is more than before."""
        files = None
        if self.files is not None and before.files is not None:
            files = max(self.files - before.files, 0)
        connections = max(self.connections - before.connections, 0)
        return Left(connections, len(self.threads - before.threads), files)


class Left(NamedTuple):
    """What was left behind in the process."""

    connections: int = 0
    threads: int = 0
    files: int | None = 0

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing left."""
        return not any(self)


class OnServer(NamedTuple):
    """What was left behind on the server. None stands for what it does not tell."""

    connections: int | None = None
    transactions: int | None = None
    why: str = ""
    """Why it does not, if that is not the driver's fault."""


def footprint(pools: Collection[Any]) -> Footprint:
    """Return what the process has now."""
    threads = {each for each in threading.enumerate() if each.name != _HOUSEKEEPING}
    lent = sum(pool.stats().in_use for pool in pools)
    return Footprint(lent, frozenset(threads), _count_files())


def _count_files() -> int | None:
    """Return the least of a few counts: threads open files for a moment, as to publish numbers."""
    counts = []
    for _ in range(_COUNTS):
        try:
            with os.scandir("/proc/self/fd") as entries:
                counts.append(sum(1 for _ in entries) - 1)  # one is its own
        except OSError:
            return None
        time.sleep(_GLANCE / _COUNTS)
    return min(counts)


def left_since(before: Footprint, pools: Collection[Any]) -> Left:
    """Return what was left behind, when what ends by itself has ended."""
    left = Left()

    def is_nothing() -> bool:
        nonlocal left
        left = footprint(pools).more_than(before)
        return left.is_nothing

    wait_for(is_nothing)
    return left


@contextmanager
def quiet(pools: Collection[Any]) -> Iterator[None]:
    """Have the pools close what is idle, and open nothing ahead, during the block."""
    sizes = [(pool, pool.stats()) for pool in pools]
    try:
        for pool, now in sizes:
            pool.resize(0, now.maxcached, now.maxconnections)
            pool.drain()
        wait_for(lambda: all(_has_closed_idle(pool) for pool in pools))
        yield
    finally:
        for pool, was in sizes:
            pool.resize(was.mincached, was.maxcached, was.maxconnections)


def _has_closed_idle(pool: Any) -> bool:
    """Return whether a pool that was drained has nothing but leases. A connect that a caller asked
    for may have begun after that: what it brings is closed too.
    """
    now = pool.stats()
    if now.idle:
        pool.drain()
    return bool(now.open <= now.in_use)


def left_on_server(pool: Pool, used: Collection[int]) -> OnServer:
    """Return what the server has left of the connections that were used. The pool has none of them
    any more.
    """
    if not used:  # or their numbers are not known
        return OnServer()
    entry = open_entry(pool)
    try:
        driver, raw, own = entry.driver, entry.raw, entry.link.server_id
        with entry.bounded(PATIENCE):
            probe = ask(pool, entry)
        if why := why_not_known(probe):
            return OnServer(why=why)  # these numbers are not the server's

        def left() -> list[ServerSession]:
            seen = {one.id: one for one in driver.server_sessions(raw)}
            mine = seen.pop(own) if own in seen else None
            # Another program may have been given the number of a connection that has ended.
            label = None if mine is None else mine.label
            return [one for one in seen.values() if one.id in used and one.label == label]

        with entry.bounded(PATIENCE * 2):
            wait_for(lambda: not left())
            found, facts = left(), driver.facts(raw)
    finally:
        entry.end()
    if not found:
        return OnServer(0, 0)  # a transaction has a connection
    transactions = sum(one.transaction_seconds is not None for one in found)
    is_told = transactions or (facts is not None and facts.sees_others)
    return OnServer(len(found), transactions if is_told else None)


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until something holds, or has not come to hold in time."""
    deadline = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < deadline:
        time.sleep(_GLANCE)
