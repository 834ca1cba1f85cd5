"""`flask pooled-db server`: the server's own list of the app's connections."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click

from flask_pooled_db.config import shown
from flask_pooled_db.drivers.facts import Activity
from flask_pooled_db.flask.commands.group import Seconds, group
from flask_pooled_db.flask.commands.live import problems, seconds
from flask_pooled_db.flask.commands.servers.orphans import end_orphans
from flask_pooled_db.flask.commands.servers.owners import Owned, Whose, owned, why_not_known
from flask_pooled_db.flask.commands.servers.probing import Probe, by_server, probe_all, targets
from flask_pooled_db.flask.commands.servers.statements import printable
from flask_pooled_db.flask.commands.tables import lines_of
from flask_pooled_db.flask.context import AppState, current
from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.shown import shown as text

_HEAD = (
    *("ID", "WORKER", "USER", "HOST", "DATABASE"),
    *("STATE", "FOR", "TRANSACTION", "STATEMENT"),
)
_WORDS = {Whose.COMMAND: "this command", Whose.UNKNOWN: "unknown", Whose.ELSEWHERE: "elsewhere"}


class Listed(NamedTuple):
    """The connections of one server, and of how many others it has."""

    binds: list[Probe]
    rows: list[Owned]

    @property
    def names(self) -> str:
        """The binds, as messages name them."""
        return ", ".join(shown(one.bind) for one in self.binds)

    def not_known(self) -> dict[str, str]:
        """Return the binds whose connections can't be told from others, and why."""
        found = {one.bind: why_not_known(one) for one in self.binds}
        return {bind: why for bind, why in found.items() if why}

    def totals(self) -> dict[str, int] | None:
        """Return how many there are, and of each kind; None if none are known."""
        if len(self.not_known()) == len(self.binds):
            return None
        counts = Counter(one.session.activity for one in self.rows)
        return {"total": len(self.rows), **{str(kind): counts[kind] for kind in Activity}}


@group.command()
@click.option("--bind", metavar="NAME", help="Only this database.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--kill-orphans", is_flag=True, help="End what no living worker knows.")
@click.option(
    *("--idle", "least"),
    type=Seconds(),
    default=300.0,
    show_default=True,
    help="Only what has run no statement for so many seconds.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
def server(bind: str | None, as_json: bool, kill_orphans: bool, least: float, yes: bool) -> None:
    """Show which connections of the app its servers have, what each does, and which worker it
    belongs to. Those of workers on other machines are marked "elsewhere"; those that no living
    worker of this one knows are "unknown", and --kill-orphans ends them.
    """
    if kill_orphans and as_json and not yes:
        raise click.UsageError("--json can't ask: add --yes")
    state = current()[0]
    stats = state.read_host()
    probes, failed = _ask(state, stats, bind)
    listed = [Listed(binds, _of_app(owned(binds, stats))) for binds in by_server(probes)]
    values: dict[str, Any] = {"servers": [_values(one) for one in listed], "failed": failed}
    if not as_json:
        for line in (*problems(stats), *_lines(listed, probes, failed)):
            click.echo(line)
    if kill_orphans:
        told = click.echo if not as_json else _nothing
        values["ended"] = end_orphans(state, stats, listed, least, told=told, asks=not yes)
    if as_json:
        click.echo(json.dumps(values))
    click.get_current_context().exit(int(bool(failed)))


def _nothing(_: object) -> None:
    pass


def _ask(state: AppState, stats: HostStats, bind: str | None) -> tuple[list[Probe], dict[str, str]]:
    found = targets(state, stats, bind)
    probes = probe_all(found.pools)
    return probes, {**found.failed, **{one.bind: one.error for one in probes if one.error}}


def _of_app(rows: Sequence[Owned]) -> list[Owned]:
    """Leave out what has another account, or is another program's."""
    return [one for one in rows if one.whose is not Whose.OTHERS]


def _lines(
    listed: Sequence[Listed], probes: Sequence[Probe], failed: dict[str, str]
) -> Iterator[str]:
    for bind, error in failed.items():
        yield f"{shown(bind)}: it can't be reached: {text(error)}"
    for one in probes:
        if one.facts is None:
            if not one.error:
                yield f"{shown(one.bind)}: nobody knows how to ask its server"
        elif one.facts.max_connections is None:
            yield f"{shown(one.bind)}: {one.facts.product} has no server"
    for each in listed:
        yield from _of_server(each)


def _of_server(listed: Listed) -> Iterator[str]:
    facts = listed.binds[0].facts
    if facts is None or facts.max_connections is None:
        return
    at = f"{listed.names} at {facts.product} {text(facts.version)}"
    totals, of_all = listed.totals(), f"{facts.connections} of {facts.max_connections}"
    if totals is None:
        yield f"{at}: {of_all} connections in all"
    else:
        yield f"{at}: {_counted(totals)}, {of_all} in all"
    for bind, why in listed.not_known().items():
        yield f"Which of them are those of {shown(bind)} is not known: {why}."
    if facts.product in ("MariaDB", "MySQL") and not facts.sees_others:
        yield (
            "Which of them are idle in a transaction is not known: it takes the privilege "
            f"{facts.privilege}."
        )
    if totals is not None:
        rows = [_row(one) for one in listed.rows]
        yield from lines_of([_HEAD, *rows], left=len(_HEAD))


def _counted(totals: dict[str, int]) -> str:
    kinds = ", ".join(
        f"{count} {text(kind)}" for kind, count in totals.items() if kind != "total" and count
    )
    count = totals["total"]
    noun = "connection" if count == 1 else "connections"
    return f"{count} {noun} of the app ({kinds})"


def _row(one: Owned) -> tuple[str, ...]:
    session = one.session
    return (
        str(session.id),
        _WORDS.get(one.whose) or str(one.pid),
        text(session.user),
        text(session.host) or "local",
        "-" if session.database is None else text(session.database),
        str(session.activity),
        seconds(session.seconds),
        seconds(session.transaction_seconds),
        "" if one.is_own else printable(session.statement),
    )


def _values(listed: Listed) -> dict[str, Any]:
    facts = listed.binds[0].facts
    return {
        "binds": [one.bind for one in listed.binds],
        "server": None if facts is None else f"{facts.product} {facts.version}",
        "connections": None if facts is None else facts.connections,
        "totals": listed.totals(),
        "not_known": listed.not_known(),
        "sessions": [
            {
                **dataclasses.asdict(one.session),
                "statement": printable(one.session.statement),
                "whose": one.whose.name.lower(),
                "pid": one.pid,
            }
            for one in listed.rows
        ],
    }
