"""`flask pooled-db check`: whether the configuration fits its servers and gunicorn."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from flask_pooled_db.config import shown
from flask_pooled_db.drivers.facts import Activity, Limit
from flask_pooled_db.flask.commands.group import group
from flask_pooled_db.flask.commands.live import problems, seconds
from flask_pooled_db.flask.commands.servers.capacity import Case, of_server, of_unseen
from flask_pooled_db.flask.commands.servers.findings import (
    Finding,
    Severity,
    Terms,
    of_app,
    of_probe,
    unreachable,
)
from flask_pooled_db.flask.commands.servers.owners import Owned, Whose, owned, why_not_known
from flask_pooled_db.flask.commands.servers.probing import (
    Probe,
    Targets,
    by_server,
    named,
    probe_all,
    targets,
)
from flask_pooled_db.flask.commands.servers.processes import running
from flask_pooled_db.flask.commands.servers.remedies import remedy
from flask_pooled_db.flask.commands.servers.webserver import WebServer, learn
from flask_pooled_db.flask.commands.tables import lines_of
from flask_pooled_db.flask.context import AppState, current
from flask_pooled_db.host import HostStats
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.telemetry.shown import shown as text

_HEAD = (
    *("BIND", "DATABASE", "SERVER", "TLS", "LATENCY"),
    *("CONNECTIONS", "MAX_CONNECTIONS", "IDLE TIMEOUT"),
)


class Checked(NamedTuple):
    """All that was found."""

    probes: list[Probe]
    web: WebServer
    findings: list[Finding]

    @property
    def has_errors(self) -> bool:
        """Whether requests would be lost."""
        return any(one.severity is Severity.ERROR for one in self.findings)


@group.command()
@click.option("--bind", metavar="NAME", help="Only this database.")
@click.option("--workers", type=click.IntRange(1), help="gunicorn's workers.")
@click.option("--threads", type=click.IntRange(1), help="gunicorn's threads.")
@click.option("--timeout", type=click.IntRange(0), help="gunicorn's timeout, in seconds.")
@click.option(
    "--per-request",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Connections that a request has at the same time, by independent=True for example.",
)
@click.option("--gunicorn-config", metavar="FILE", help="gunicorn's configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def check(as_json: bool, **given: Any) -> None:
    """Connect to each database of the app, print what its server tells, and compare that with the
    pools' settings and with gunicorn's. The exit status is 1 if requests would be lost.
    """
    state = current()[0]
    stats = state.read_host()
    checked = _check(state, stats, **given)
    if as_json:
        click.echo(json.dumps(_values(checked)))
    else:
        for line in (*problems(stats), *_lines(checked)):
            click.echo(line)
    click.get_current_context().exit(int(checked.has_errors))


def _check(
    state: AppState,
    stats: HostStats,
    bind: str | None,
    gunicorn_config: str | None,
    per_request: int,
    **given: Any,
) -> Checked:
    found, now = targets(state, stats, bind), running(stats)
    web = learn(given, now, gunicorn_config, Path.cwd())
    every = probe_all([*found.pools, *_others(state, stats, found, bind)])
    probes = every[: len(found.pools)]
    config = state.registry.config
    terms = Terms(web, config.request_deadline, per_request, config.binds_maxconnections)
    case = Case(config, state.registry.fixed, web, now)
    all_of_them = [unreachable(name, error) for name, error in found.failed.items()]
    all_of_them += of_app(terms)
    if state.extension.loader is not None and not _by_name(state, stats, bind):
        all_of_them.append(of_unseen(config))
    names = {one.bind for one in probes}
    for binds in by_server(every):
        rows = owned(binds, stats)
        of_one = (*of_server(binds, rows, case), *_of_others(binds, rows))
        all_of_them += [one for one in of_one if one.bind in names]
    for one in probes:
        all_of_them += _of_bind(one, terms)
    order = list(Severity)
    return Checked(probes, web, sorted(all_of_them, key=lambda one: order.index(one.severity)))


def _others(state: AppState, stats: HostStats, found: Targets, bind: str | None) -> list[Pool]:
    """Return the pools of the app that are not asked about: they may be on the same server, whose
    connections they take as well.
    """
    if bind is None:
        return []
    known = {id(pool.engine) for pool in found.pools}
    every = targets(state, stats, None).pools
    return [pool for pool in every if id(pool.engine) not in known]


def _by_name(state: AppState, stats: HostStats, bind: str | None) -> bool:
    """Return whether a bind that is opened by its name is open, or is asked about."""
    return bind not in (None, *state.registry.fixed) or bool(named(state, stats))


def _of_bind(one: Probe, terms: Terms) -> Iterator[Finding]:
    if one.error:
        yield unreachable(one.bind, one.error, remedy(one.error))
    elif one.facts is None:
        told = "nobody knows how to ask its server: compare its limits with these settings"
        yield Finding(Severity.WARNING, one.bind, "server", told)
    else:
        yield from of_probe(one, terms)


def _of_others(binds: list[Probe], rows: list[Owned]) -> Iterator[Finding]:
    """Yield how the app's connections are told from others', and what is not known of these."""
    facts = binds[0].facts
    if facts is None or facts.max_connections is None:
        return
    words = _how_known(binds, rows)
    if not facts.sees_others:
        words += (
            f"; of other accounts' nothing but the number is known without {facts.privilege}: "
            "GRANT it to be told more"
        )
    yield Finding(Severity.OK, binds[0].bind, "others", words)
    yield Finding(Severity.OK, binds[0].bind, "states", _states(binds))


def _how_known(binds: list[Probe], rows: list[Owned]) -> str:
    hidden = {one.bind: why for one in binds if (why := why_not_known(one))}
    reasons = "; ".join(sorted(set(hidden.values())))
    if len(hidden) == len(binds):
        return f"which connections are the app's own is not known: {reasons}"
    mine = [one for one in rows if one.whose in (Whose.COMMAND, Whose.WORKER, Whose.UNKNOWN)]
    has_labels = any(one.session.label for one in mine)
    told = "what they call themselves" if has_labels else "their user, host and database"
    words = f"the app's own connections are known by the ids that workers publish, and by {told}"
    if hidden:
        words += f"; those of {', '.join(map(shown, hidden))} are not known: {reasons}"
    return words


def _states(binds: list[Probe]) -> str:
    """Return how many connections a server has in each state, as far as an account of these sees
    them.
    """
    seen = {one.id: one for probe in binds for one in probe.sessions}.values()
    counts = Counter(one.activity for one in seen)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in Activity if counts[kind])
    ages = [one.transaction_seconds for one in seen if one.activity is Activity.IN_TRANSACTION]
    oldest = max((age for age in ages if age is not None), default=None)
    since = "" if oldest is None else f" (the oldest transaction of these for {seconds(oldest)})"
    return f"of the server's connections, this account sees {told}{since}"


def _lines(checked: Checked) -> Iterator[str]:
    yield from lines_of([_HEAD, *map(_row, checked.probes)], left=4)
    yield ""
    yield f"gunicorn: {'; '.join(_sources(checked.web))}"
    yield ""
    for one in checked.findings:
        of = "" if one.bind is None else f"{shown(one.bind)}: "
        yield f"{one.severity:7}  {of}{one.text}"


def _sources(web: WebServer) -> Iterator[str]:
    """Yield the settings of gunicorn by what has told them."""
    names: dict[str, list[str]] = {}
    for name, told in web.settings.items():
        if name != "worker_connections" or not web.counts_threads:
            names.setdefault(told.where, []).append(f"{name} {text(str(told.value))}")
    return (f"{', '.join(settings)} ({where})" for where, settings in names.items())


def _row(one: Probe) -> tuple[str, ...]:
    facts = one.facts
    if facts is None:
        return (shown(one.bind), text(one.label), "away" if one.error else "-", *["-"] * 5)
    idle = facts.idle_timeout
    return (
        shown(one.bind),
        text(one.label),
        text(f"{facts.product} {facts.version}"),
        "-" if facts.tls is None else text(facts.tls) or "none",
        seconds(one.latency),
        "-" if facts.connections is None else str(facts.connections),
        "-" if facts.max_connections is None else str(facts.max_connections),
        "-" if idle is None else f"{idle.value:g} s" if idle.value else "none",
    )


def _values(checked: Checked) -> dict[str, Any]:
    return {
        "binds": [
            {
                "bind": one.bind,
                "database": one.label,
                "latency": one.latency,
                "error": one.error or None,
                "server": None if one.facts is None else _facts(dataclasses.asdict(one.facts)),
            }
            for one in checked.probes
        ],
        "gunicorn": {name: told._asdict() for name, told in checked.web.settings.items()},
        "findings": [one._asdict() for one in checked.findings],
    }


def _facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return a server's facts, with limits by their names."""
    del facts["identity"]
    for name, value in facts.items():
        limits = (value,) if isinstance(value, Limit) else value
        if isinstance(limits, tuple):
            facts[name] = {limit.name: limit.value for limit in limits}
    return facts
