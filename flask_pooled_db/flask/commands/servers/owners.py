"""Whose a connection is that a server has: the list of a server beside what processes publish."""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from flask_pooled_db.drivers.configuration import read_label
from flask_pooled_db.drivers.facts import ServerSession
from flask_pooled_db.flask.commands.servers.probing import Probe
from flask_pooled_db.host import HostStats


class Whose(enum.IntEnum):
    """Whose a connection is, as far as anybody can tell. Of two answers the lower is right."""

    WORKER = 0
    COMMAND = 1
    UNKNOWN = 2
    """The account's, from this machine, and of no process of the app that lives here."""
    ELSEWHERE = 3
    """The account's, from another machine."""
    OTHERS = 4


class Owned(NamedTuple):
    """A connection, whose it is, the process if it is known, and the bind whose account it has."""

    session: ServerSession
    whose: Whose
    pid: int | None
    probe: Probe

    @property
    def is_own(self) -> bool:
        """Whether it is the one that has asked."""
        return self.session.id == self.probe.own_id and not self.probe.is_proxied


def known_ids(stats: HostStats, binds: Iterable[str]) -> dict[int, int]:
    """Return the processes that have published connections, by the server's id: those of these
    binds, and of all others. A bind that is closed, can't be reached or is left out may be on the
    same server, with the same account. One on another server may have the same id; then a
    connection that is an orphan is spared.
    """
    of_binds: dict[int, int] = {}
    of_others: dict[int, int] = {}
    wanted = set(binds)
    for process in stats.processes:
        pools, closed = process.numbers.get("pools", {}), process.numbers.get("server_ids", {})
        for bind in pools.keys() | closed.keys():
            found = of_binds if bind in wanted else of_others
            for number in (*pools.get(bind, {}).get("server_ids", ()), *closed.get(bind, ())):
                found[number] = process.pid
    return of_others | of_binds


def owned(group: Sequence[Probe], stats: HostStats) -> list[Owned]:
    """Return the connections of a server, which these binds have in common."""
    # What has the name of a bind behind a proxy is the proxy's, which others use as well.
    binds = {one.bind for one in group if not one.is_proxied}
    known, living = known_ids(stats, binds), {process.pid for process in stats.processes}
    found: dict[int, Owned] = {}
    for one in group:
        for each in _by_account(one, binds, known, living):
            other = found.get(each.session.id)
            if other is None or each.whose < other.whose:
                found[each.session.id] = each
    return sorted(found.values(), key=lambda each: each.session.id)


def _by_account(
    probe: Probe, binds: set[str], known: Mapping[int, int], living: set[int]
) -> Iterator[Owned]:
    """Yield what the account of a bind sees."""
    own = probe.own
    for session in probe.sessions:
        is_account = own is not None and session.user == own.user
        pid = known.get(session.id) if is_account or own is None else None
        whose = Whose.WORKER
        if probe.is_proxied:  # the same id is another connection's
            whose, pid = Whose.OTHERS, None
        elif session.id == probe.own_id or pid == os.getpid():
            whose, pid = Whose.COMMAND, os.getpid()
        elif pid is None:
            told = read_label(session.label or "", binds)
            if is_account and told in living:
                pid = told  # it has opened it since it published
            else:
                whose = _unpublished(session, own, is_ours=told is not None)
        yield Owned(session, whose, pid, probe)


def _unpublished(session: ServerSession, own: ServerSession | None, *, is_ours: bool) -> Whose:
    """Return whose a connection is that no process of this host has published."""
    if own is None or (session.user, session.database) != (own.user, own.database):
        return Whose.OTHERS
    if session.label is not None and session.label != own.label and not is_ours:
        return Whose.OTHERS  # another program with the same account
    return Whose.UNKNOWN if session.host == own.host else Whose.ELSEWHERE


def why_not_told_apart(probe: Probe) -> str:
    """Return why it can't be told for certain on which machine the clients of a server are; "" if
    the server sees them as they are.
    """
    own = probe.own
    if probe.is_proxied:
        return (
            "a proxy is in between, which gives connections other ids than the server: nobody can "
            "tell whose they are"
        )
    if probe.own_id is None:
        return "the driver does not tell what the server calls its connections"
    if own is None:
        return "the server does not list the command's own connection: a proxy may be in between"
    if own.port is None:
        return ""  # a local socket leads to this machine
    if probe.ends is None:
        return "the driver does not tell where its connections begin"
    host, port = probe.ends.own
    if port != own.port or not _is_same(own.host, host):
        return (
            "the server sees the command's connection come from another address than its own: a "
            "proxy or a translation of addresses is in between, and hides which machine is which"
        )
    return ""


def why_not_known(probe: Probe) -> str:
    """Return why none of a server's connections is known to be of a bind; "" if some are."""
    is_known = probe.own is not None and not probe.is_proxied
    return "" if is_known else why_not_told_apart(probe)


def _is_same(seen: str, own: str) -> bool:
    """Return whether a host, as a server sees it, is this address of this machine."""
    try:
        return _plain(seen) == _plain(own)
    except ValueError:  # it is a name
        pass
    try:
        return any(_plain(str(found[4][0])) == _plain(own) for found in socket.getaddrinfo(seen, 0))
    except (OSError, ValueError):
        return False


def _plain(text: str) -> str:
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
