"""What the servers of an app's databases tell, each through a connection of the command's own."""

from __future__ import annotations

import functools
import queue
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from flask_pooled_db.drivers.facts import ServerFacts, ServerSession
from flask_pooled_db.drivers.sockets import Ends
from flask_pooled_db.errors import PooledDBError
from flask_pooled_db.flask.commands.group import in_one_line
from flask_pooled_db.flask.context import AppState
from flask_pooled_db.host import HostStats
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Entry
from flask_pooled_db.pool.reports import describe
from flask_pooled_db.runtime import workers
from flask_pooled_db.telemetry.site import Site

PATIENCE = 5.0
"""Seconds in which a server that is connected to has to have answered all questions."""

AT_ONCE = 8
"""How many servers are asked at the same time."""

_OF_THE_APP = "which the app's own code raised as it loaded the bind: correct its bind_loader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the server of a bind told, or why it did not."""

    pool: Pool = field(repr=False)
    facts: ServerFacts | None = None
    sessions: tuple[ServerSession, ...] = ()
    own_id: int | None = None
    """What the server calls the command's own connection."""
    ends: Ends | None = None
    """Where that connection begins and leads, as this machine has it."""
    latency: float | None = None
    error: str = ""

    @property
    def bind(self) -> str:
        """The name of the bind."""
        return self.pool.bind

    @property
    def label(self) -> str:
        """Which database it is, in words."""
        return Site(self.pool.bind, self.pool.config, self.pool.driver).label

    @property
    def own(self) -> ServerSession | None:
        """The command's own connection, as the server sees it."""
        return next((one for one in self.sessions if one.id == self.own_id), None)

    @property
    def is_proxied(self) -> bool:
        """Whether its connections end at a proxy, which has others of its own to the server."""
        changes_ids = self.facts is not None and self.facts.changes_ids
        return changes_ids or self.pool.config.proxy is not None


class Targets(NamedTuple):
    """The pools to ask, and why others can't be: the names of binds with what is wrong."""

    pools: list[Pool]
    failed: dict[str, str]


def targets(state: AppState, stats: HostStats, bind: str | None) -> Targets:
    """Return what a command is about: a bind, or all that the configuration names and those that
    the processes of this host have open. In place of a tenant it is its server.
    """
    fixed = sorted(state.registry.fixed)
    running = {name for process in stats.processes for name in process.numbers.get("pools", ())}
    found: dict[int, Pool] = {}
    failed: dict[str, str] = {}
    for name in (*fixed, *sorted(running - set(fixed))) if bind is None else (bind,):
        try:
            pool = _server_of(state, state.pool(name))
        except PooledDBError as error:
            if bind is not None:
                raise
            failed[name] = in_one_line(error)
        except Exception as error:  # noqa: BLE001  the app's loader raises what it likes
            failed[name] = f"{describe(error)}, {_OF_THE_APP}"
        else:
            found[id(pool.engine)] = pool
    return Targets(list(found.values()), failed)


def named(state: AppState, stats: HostStats) -> set[str]:
    """Return the binds that the processes of this host have opened by their names, tenants too."""
    parts = ("pools", "opened")
    every = (process.numbers.get(part, {}) for process in stats.processes for part in parts)
    return set().union(*every) - set(state.registry.fixed)


def _server_of(state: AppState, pool: Pool) -> Pool:
    server = pool.config.server
    return pool if server is None else state.pool(server)


def open_entry(pool: Pool) -> Entry:
    """Return a connection outside of a pool, as the pool opens its own. Raises what that raises."""
    return pool.engine.open_outside()


def probe(pool: Pool) -> Probe:
    """Connect to the server of a bind, ask it, and close the connection. Never raises."""
    try:
        entry = open_entry(pool)
        try:
            with entry.bounded(PATIENCE):
                return ask(pool, entry)
        finally:
            entry.end()
    except Exception as error:  # noqa: BLE001  drivers raise more than their own classes
        return Probe(pool=pool, error=describe(error))


def ask(pool: Pool, entry: Entry) -> Probe:
    """Return what a server tells through a connection. Raises the driver's errors."""
    driver, raw = entry.driver, entry.raw
    facts = driver.facts(raw)
    if facts is None:
        return Probe(pool=pool)
    return Probe(
        pool=pool,
        facts=facts,
        latency=driver.latency(raw),
        ends=driver.ends(raw),
        own_id=entry.link.server_id,
        sessions=tuple(driver.server_sessions(raw)),
    )


def probe_all(pools: Sequence[Pool]) -> list[Probe]:
    """Ask the servers of all these binds, a few at a time. Each has a limited time, in which all
    others are asked as well.
    """
    left, answers = deque(pools), queue.SimpleQueue[Probe]()
    threads = min(AT_ONCE, len(pools))
    for _ in range(threads):
        workers.start("asker", functools.partial(_work, left, answers))
    seconds = max(map(_longest, pools), default=0.0) * -(-len(pools) // max(threads, 1))
    found = {id(answer.pool): answer for answer in _answers(answers, len(pools), seconds)}
    silent = f"it did not answer in {seconds:.0f} s"
    return [found.get(id(pool)) or Probe(pool=pool, error=silent) for pool in pools]


def _work(left: deque[Pool], answers: queue.SimpleQueue[Probe]) -> None:
    while left:
        try:
            pool = left.popleft()
        except IndexError:  # another thread was faster
            return
        answers.put(probe(pool))


def _answers(answers: queue.SimpleQueue[Probe], count: int, seconds: float) -> Iterator[Probe]:
    deadline = monotonic() + seconds
    for _ in range(count):
        try:
            yield answers.get(timeout=max(deadline - monotonic(), 0.0))
        except queue.Empty:
            return


def _longest(pool: Pool) -> float:
    """Return how many seconds a server may take."""
    servers = len(pool.driver.servers)
    return pool.config.connect_timeout * servers + 2 * PATIENCE


def by_server(probes: Sequence[Probe]) -> list[list[Probe]]:
    """Return those that were answered, grouped by the server that did."""
    groups: dict[str, list[Probe]] = {}
    for one in probes:
        if one.facts is not None:
            groups.setdefault(one.facts.identity, []).append(one)
    return list(groups.values())
