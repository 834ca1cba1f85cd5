"""Ending connections of the app that belong to no process any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import click

from flask_pooled_db.config import shown
from flask_pooled_db.drivers.facts import ServerSession
from flask_pooled_db.flask.commands.servers.owners import Owned, Whose, owned, why_not_told_apart
from flask_pooled_db.flask.commands.servers.probing import PATIENCE, Probe, ask, open_entry
from flask_pooled_db.flask.commands.servers.processes import Holder, holders
from flask_pooled_db.flask.context import AppState
from flask_pooled_db.host import HostStats
from flask_pooled_db.pool import Entry
from flask_pooled_db.telemetry.shown import shown as text

MARGIN = 1.0
"""Seconds for which a connection has to have been idle longer than the numbers of each process are
old. Else it may be one that was opened, or used, since the process published."""


class Listed(Protocol):
    """The connections of one server."""

    @property
    def binds(self) -> list[Probe]:
        """What was asked through each bind."""

    @property
    def rows(self) -> list[Owned]:
        """The connections."""

    @property
    def names(self) -> str:
        """The binds, as messages name them."""


def end_orphans(
    state: AppState,
    stats: HostStats,
    listed: Sequence[Listed],
    least: float,
    *,
    told: Callable[[str], object],
    asks: bool,
) -> list[int]:
    """End the orphans that have been idle for `least` seconds, after asking if it `asks`; `told` is
    told what is done. Returns the ids of what was ended. Raises `ClickException` if nobody can tell
    which these are.
    """
    servers = [one for one in listed if _has_sessions(one)]
    _refuse(stats, servers)
    found = {id(one): list(_candidates(one.rows, _needed(stats, least))) for one in servers}
    count = sum(map(len, found.values()))
    if not count:
        told(f"Nothing is ended: no orphan has been idle for {_needed(stats, least):.0f} s.")
        return []
    for one in servers:
        ids = ", ".join(str(row.session.id) for row in found[id(one)])
        if ids:
            told(f"Orphans of {one.names}: {ids}")
        for number, holder in _held(found[id(one)]):
            told(f"Process {holder.pid} ({text(holder.program)}) has {number} open.")
            if not asks:  # nobody is there to say that this is all right
                told(f"{number} is spared: it takes an answer, without --yes, to end it.")
                found[id(one)] = [row for row in found[id(one)] if row.session.id != number]
    if not stats.processes:
        told(
            "No process of the app publishes anything here. If it runs as another user, or with "
            "another POOLED_DB_RUNTIME_DIR, these are its connections."
        )
    left = sum(map(len, found.values()))
    if asks:
        noun = "this connection" if count == 1 else f"these {count} connections"
        click.confirm(f"End {noun}?", abort=True)
    ended = [
        number
        for one in servers
        if found[id(one)]
        for number in _end_all(state, one, found[id(one)], least, told)
    ]
    told(f"{len(ended)} of {left} ended.")
    return ended


def _held(rows: Sequence[Owned]) -> Iterator[tuple[int, Holder]]:
    """Yield which of them processes of this machine have open: no process of the app, as far as its
    processes meet here.
    """
    ids = {row.session.port: row.session.id for row in rows if row.session.port is not None}
    for server in {row.probe.ends.peer[1] for row in rows if row.probe.ends is not None}:
        for port, holder in sorted(holders(server, ids).items()):
            yield ids[port], holder


def _has_sessions(listed: Listed) -> bool:
    facts = listed.binds[0].facts
    return facts is not None and facts.max_connections is not None


def _refuse(stats: HostStats, servers: Iterable[Listed]) -> None:
    """Raise if it can't be told for certain which connections are orphans."""
    if stats.problem is not None:
        raise click.ClickException(
            f"no orphan is ended, for it is not known what living processes have: {stats.problem}"
        )
    for listed in servers:
        for one in listed.binds:
            if why := why_not_told_apart(one):
                raise click.ClickException(f"no orphan of {shown(one.bind)} is ended: {why}")


def _needed(stats: HostStats, least: float) -> float:
    """Return for how many seconds a connection has to have been idle."""
    oldest = max((process.age for process in stats.processes), default=0.0)
    return max(least, oldest + MARGIN)


def _candidates(rows: Iterable[Owned], needed: float) -> Iterator[Owned]:
    """Yield the connections that are orphans for certain."""
    for row in rows:
        idle = row.session.seconds if row.session.is_at_rest else None
        if row.whose is Whose.UNKNOWN and idle is not None and idle >= needed:
            yield row


def _end_all(
    state: AppState,
    listed: Listed,
    wanted: Sequence[Owned],
    least: float,
    told: Callable[[str], object],
) -> Iterator[int]:
    """End what still is an orphan, and yield the ids: the server and the processes are asked again,
    each connection by the account that it belongs to.
    """
    for probe in listed.binds:
        mine = [row.session for row in wanted if row.probe is probe]
        if not mine:
            continue
        entry = open_entry(probe.pool)
        try:
            with entry.bounded(PATIENCE):
                again = ask(probe.pool, entry)
            if why := why_not_told_apart(again):
                raise click.ClickException(f"no orphan of {shown(probe.bind)} is ended: {why}")
            binds = [again if one is probe else one for one in listed.binds]
            for session in mine:
                if _end_one(state, entry, binds, session, least):
                    yield session.id
                else:
                    told(f"{session.id} is spared: it is no orphan any more, or has ended.")
        finally:
            entry.end()


def _end_one(
    state: AppState, entry: Entry, binds: list[Probe], session: ServerSession, least: float
) -> bool:
    """End a connection if the processes, asked once more, do not know it. Returns whether it was
    ended.
    """
    stats = state.read_host()
    _refuse(stats, ())
    needed = _needed(stats, least)
    if not any(row.session.is_still(session) for row in _candidates(owned(binds, stats), needed)):
        return False
    with entry.bounded(PATIENCE):
        return entry.driver.end_session(entry.raw, session, needed)
