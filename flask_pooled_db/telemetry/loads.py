"""How many connections the servers of an app have: asked only while somebody looks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from time import monotonic
from typing import Any, Protocol

from flask_pooled_db.drivers import ServerLoad
from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import workers

INTERVAL = 5.0
"""Seconds between two questions to a server, at least."""

PATIENCE = 1.0
"""Seconds that an answer may take."""

KEPT = 30.0
"""Seconds for which an answer is told."""

MOST_POOLS = 20
"""How many pools are asked at a time. Thousands of binds are most often on a few servers."""


class Pool(Protocol):
    """A pool, and its bind."""

    engine: Any
    bind: str


class ServerLoads:
    """What the servers of the pools of one app have answered, by bind.

    A pool that has no idle connection is not asked: its callers need all there are.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Start afresh: what was answered, was answered to the parent."""
        self._told: dict[str, tuple[float, ServerLoad | None]] = {}
        self._is_due_at = 0.0

    def look(self, pools: Iterable[Pool]) -> None:
        """Have the servers asked, soon and elsewhere, if that is due."""
        now = monotonic()
        if now < self._is_due_at:
            return
        self._is_due_at = now + INTERVAL  # two threads at once may both ask, which does no harm
        with contextlib.suppress(RuntimeError):  # the system has no more threads: the next time
            workers.start("looker", functools.partial(self._ask, list(pools)[:MOST_POOLS]))

    def _ask(self, pools: list[Pool]) -> None:
        for pool in pools:
            # If it raises, the pool has closed the connection, and its callers will be told.
            with contextlib.suppress(Exception):
                load = pool.engine.ask_idle(_load_of, PATIENCE)
                if load is not None:
                    self._told[pool.bind] = monotonic(), load

    def of(self, bind: str) -> dict[str, Any] | None:
        """Return what a server has answered lately, as plain values; None if that is nothing."""
        when, load = self._told.get(bind, (0.0, None))
        ago = monotonic() - when
        return None if load is None or ago > KEPT else {**load._asdict(), "ago": ago}


def _load_of(entry: Entry) -> ServerLoad | None:
    load: ServerLoad | None = entry.driver.load(entry.raw)
    return load
