"""Whether a server has as many connections as all workers may open together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flask_pooled_db.config import AppConfig, shown
from flask_pooled_db.drivers.facts import ServerFacts
from flask_pooled_db.flask.commands.servers.findings import Finding, Findings, Severity
from flask_pooled_db.flask.commands.servers.owners import Owned, Whose
from flask_pooled_db.flask.commands.servers.probing import Probe
from flask_pooled_db.flask.commands.servers.processes import Running
from flask_pooled_db.flask.commands.servers.webserver import WebServer

TOPIC = "connections"


class Demand(NamedTuple):
    """How many connections a worker may open to a server, and how that comes about."""

    most: int | None
    """None: any number."""
    reason: str
    key: str
    """What to set to less."""


def demand_of(binds: Sequence[Probe], config: AppConfig, fixed: frozenset[str]) -> Demand:
    """Return what a worker may open for these binds, which have a server in common; `fixed` are
    those that the configuration names, all others come and go.
    """
    of_app = config.binds_maxconnections
    sizes = {one.bind: one.pool.config.maxconnections for one in binds}
    loaded = [size for bind, size in sizes.items() if bind not in fixed]
    own = [size for bind, size in sizes.items() if bind in fixed]
    parts = [f"{size} of {shown(bind)}" for bind, size in sizes.items() if bind in fixed]
    key = "MAXCONNECTIONS"
    total = sum(own)
    if loaded:
        count = config.max_binds or len(loaded)
        total += count * max(loaded)
        told = f"{count} binds by name, at most" if config.max_binds else f"{count} binds by name"
        parts.append(f"{max(loaded)} each of {told}")
        key = "MAXCONNECTIONS or MAX_BINDS"
    if of_app and (total > of_app or not all(sizes.values())):
        return Demand(of_app, f"{of_app} (BINDS_MAXCONNECTIONS)", "BINDS_MAXCONNECTIONS")
    if not all(sizes.values()):
        return Demand(None, "any number (MAXCONNECTIONS is 0)", key)
    return Demand(total, f"{total} (MAXCONNECTIONS: {', '.join(parts)})", key)


class Room(NamedTuple):
    """What a server, or an account, has for the app's workers on this host."""

    limit: str
    most: int
    free: int
    told: str


class Case(NamedTuple):
    """What all servers of the app have in common."""

    config: AppConfig
    fixed: frozenset[str]
    """The binds that the configuration names; all others come and go."""
    web: WebServer
    running: Running


def of_server(binds: Sequence[Probe], rows: Sequence[Owned], case: Case) -> Findings:
    """Yield what is found of the connections of a server; `rows` are those that it has now."""
    facts = binds[0].facts
    if facts is None or facts.max_connections is None:
        return
    direct = [one for one in binds if not one.is_proxied]
    for members in _by_proxy(binds):
        yield _at_proxy(members, facts, case)
    if direct:
        yield _compared(direct, _of_server(facts, rows), case)
    accounts: dict[str, list[Probe]] = {}
    for one in direct:
        if one.own is not None:
            accounts.setdefault(one.own.user, []).append(one)
    for user, members in accounts.items():
        for room in _of_account(user, members[0].facts or facts, rows):
            yield _compared(members, room, case)


def of_unseen(config: AppConfig) -> Finding:
    """Return the finding of an app that opens binds by name, none of which is open or asked for."""
    limit = config.max_binds
    many = f"as many as {limit} (MAX_BINDS)" if limit else "any number (MAX_BINDS is 0)"
    cure = "give --bind with the name of one" + ("" if limit else ", and set MAX_BINDS")
    text = (
        f"the app has a bind_loader, and {many} of its binds may be open in a worker; none is now, "
        f"so that no number here has them in it: {cure}"
    )
    return Finding(Severity.WARNING, None, TOPIC, text)


def _of_server(facts: ServerFacts, rows: Sequence[Owned]) -> Room:
    ours = sum(one.whose in (Whose.WORKER, Whose.COMMAND, Whose.UNKNOWN) for one in rows)
    others = max((facts.connections or 0) - ours, 0)
    most = facts.max_connections or 0
    told = f"the server has {most} (max_connections)"
    taken = [f"{facts.reserved} are reserved"] if facts.reserved else []
    taken += [f"others use {others} now"] if others else []
    told += f", of which {' and '.join(taken)}" if taken else ""
    return Room("max_connections", most, most - facts.reserved - others, told)


def _of_account(user: str, facts: ServerFacts, rows: Sequence[Owned]) -> list[Room]:
    elsewhere = sum(one.whose is Whose.ELSEWHERE and one.session.user == user for one in rows)
    found = []
    for limit in facts.account_limits:
        most = int(limit.value)
        told = f"{limit.name} allows {most}"
        told += f", of which {elsewhere} are used elsewhere" if elsewhere else ""
        found.append(Room(limit.name, most, most - elsewhere, told))
    return found


def _beside(binds: Sequence[Probe], running: Running) -> int:
    """Return what processes that are no workers may open."""
    names = {one.bind for one in binds}
    return sum(
        int(pool.get("maxconnections", 0))
        for process in running.others
        for bind, pool in process.numbers.get("pools", {}).items()
        if bind in names
    )


def _by_proxy(binds: Sequence[Probe]) -> Iterable[list[Probe]]:
    """Return those behind proxies, grouped by where these listen."""
    groups: dict[object, list[Probe]] = {}
    for one in binds:
        if one.is_proxied:
            groups.setdefault(one.ends and one.ends.peer, []).append(one)
    return groups.values()


def _at_proxy(binds: Sequence[Probe], facts: ServerFacts, case: Case) -> Finding:
    """Return what is to be compared with the limits of a proxy, which nobody can ask it."""
    demand, bind = demand_of(binds, case.config, case.fixed), binds[0].bind
    most, size = "its limit of clients", "what it opens to the server"
    if facts.product == "PostgreSQL":
        most, size = "pgbouncer's max_client_conn", "its default_pool_size for each user"
    fits = f"{size} has to fit into the server's max_connections ({facts.max_connections})"
    if demand.most is None:
        text = f"{_of(binds)}a worker may open {demand.reason} to the proxy: set {demand.key}"
        return Finding(Severity.WARNING, bind, TOPIC, f"{text}, and compare it with {most}; {fits}")
    need, told = _need(binds, demand, demand.most, case)
    text = f"{told} to the proxy: {most} has to be {need} at least, and more for others; {fits}"
    return Finding(Severity.OK, bind, TOPIC, text)


def _of(binds: Sequence[Probe]) -> str:
    return f"{', '.join(shown(one.bind) for one in binds)}: " if len(binds) > 1 else ""


def _need(binds: Sequence[Probe], demand: Demand, most: int, case: Case) -> tuple[int, str]:
    """Return how many connections all processes may open, each worker `most`, and it in words."""
    beside = _beside(binds, case.running)
    need = case.web.workers * most + beside
    told = f"{_of(binds)}{_workers(case.web.workers)} x {demand.reason}"
    told += f", and {beside} of other processes of the app" if beside else ""
    return need, f"{told} = {need} connections"


def _compared(binds: Sequence[Probe], room: Room, case: Case) -> Finding:
    demand, web = demand_of(binds, case.config, case.fixed), case.web
    bind = binds[0].bind
    if demand.most is None:
        text = f"{_of(binds)}a worker may open {demand.reason}, and {room.told}: set {demand.key}"
        return Finding(Severity.WARNING, bind, TOPIC, text)
    need, told = _need(binds, demand, demand.most, case)
    told = f"{told}; {room.told}"
    if need <= room.free:
        return Finding(Severity.OK, bind, TOPIC, told)
    beside = need - web.workers * demand.most
    each = (room.free - beside) // web.workers
    lower = f"set {demand.key} to {each} at most"
    if each < 1:
        lower = "run fewer workers"
    elif len(binds) > 1 and demand.key != "BINDS_MAXCONNECTIONS":
        lower = f"set {demand.key} so that a worker has {each} in all"
    left = f", which leaves {max(room.free, 0)}" if room.free != room.most else ""
    raised = f"raise {room.limit} to {room.most + need - room.free}"
    return Finding(Severity.ERROR, bind, TOPIC, f"{told}{left}: {lower}, or {raised}")


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
