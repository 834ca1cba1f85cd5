"""How many connections the servers of an app have: asked only while somebody looks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Hashable, Iterable
from time import monotonic
from typing import Any, Protocol

from flask_pooled_db.config import DatabaseURL, PoolConfig
from flask_pooled_db.drivers import ServerLoad
from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import workers

INTERVAL = 5.0
"""Seconds between two questions to a server, at least."""

PATIENCE = 1.0
"""Seconds that an answer may take."""

KEPT = 30.0
"""Seconds for which an answer is told."""

MOST_SERVERS = 20
"""How many servers are asked at a time; if there are more, they take turns."""

_PLACES = ("host", "hostaddr", "port", "unix_socket", "user", "service", "read_default_file")
"""The connect arguments, in a URL or beside it, that may name a server or an account."""


class Pool(Protocol):
    """A pool, and its bind."""

    engine: Any
    bind: str
    config: PoolConfig
    driver: Any


class ServerLoads:
    """What the servers of the pools of one app have answered, by bind.

    Thousands of binds are most often on a few servers: of the pools with the same server and
    account one is asked, and all are told. A pool that has no idle connection is not asked: its
    callers need all there are.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Start afresh: what was answered, was answered to the parent."""
        self._told: dict[str, tuple[float, ServerLoad, str | None]] = {}
        self._asked_at: dict[Hashable, float] = {}
        self._is_due_at = 0.0

    def look(self, pools: Iterable[Pool]) -> None:
        """Have the servers asked, soon and elsewhere, if that is due."""
        now = monotonic()
        if now < self._is_due_at:
            return
        self._is_due_at = now + INTERVAL  # two threads at once may both ask, which does no harm
        groups = self._next(pools, now)
        with contextlib.suppress(RuntimeError):  # the system has no more threads: the next time
            workers.start("looker", functools.partial(self._ask, groups))

    def _next(self, pools: Iterable[Pool], now: float) -> list[list[Pool]]:
        """Return the pools of the servers whose turn it is: those asked longest ago, or never."""
        groups: dict[Hashable, list[Pool]] = {}
        for pool in pools:
            server = pool.driver.server
            if server is None or server.has_sessions:
                groups.setdefault(_server_of(pool), []).append(pool)
        asked = self._asked_at
        chosen = sorted(groups, key=lambda one: asked.get(one, 0.0))[:MOST_SERVERS]
        self._asked_at = {one: asked.get(one, 0.0) for one in groups} | dict.fromkeys(chosen, now)
        return [groups[one] for one in chosen]

    def _ask(self, groups: Iterable[list[Pool]]) -> None:
        kept = monotonic() - KEPT
        # A copy: another thread may have begun to ask as well.
        self._told = {bind: one for bind, one in self._told.copy().items() if one[0] > kept}
        for group in groups:
            # If it raises, the pool has closed the connection, and its callers will be told.
            with contextlib.suppress(Exception):
                found = (pool.engine.ask_idle(_load_of, PATIENCE) for pool in group)
                load = next((one for one in found if one is not None), None)
                if load is not None:
                    told = monotonic(), load, _address_of(group[0])
                    self._told.update((pool.bind, told) for pool in group)

    def of(self, bind: str) -> dict[str, Any] | None:
        """Return what a server has answered lately, as plain values; None if that is nothing."""
        when, load, at = self._told.get(bind, (0.0, None, None))
        ago = monotonic() - when
        return None if load is None or ago > KEPT else {**load._asdict(), "ago": ago, "at": at}


def _server_of(pool: Pool) -> Hashable:
    """Return what pools have in common whose server and account are the same. What only a function
    of the application knows is nobody else's.
    """
    config, url = pool.config, pool.config.url
    if not isinstance(url, DatabaseURL):
        return pool.bind
    given = [str(part.get(name)) for part in (url.query, config.connect_args) for name in _PLACES]
    return url.scheme, url.hosts, url.username, *given


def _address_of(pool: Pool) -> str | None:
    """Return where a server is, whatever the account; None if that is not known."""
    url = pool.config.url
    if not isinstance(url, DatabaseURL) or not any(host for host, _ in url.hosts):
        return None
    return ",".join(f"{host}:{port}" for host, port in url.hosts)


def _load_of(entry: Entry) -> ServerLoad | None:
    load: ServerLoad | None = entry.driver.load(entry.raw)
    return load
