"""`flask pooled-db binds`: the databases that are open, by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import click

from flask_pooled_db.config import DEFAULT_BIND, shown
from flask_pooled_db.flask.commands.group import group
from flask_pooled_db.flask.commands.live import Lines, live_options, nobody, seconds, show
from flask_pooled_db.flask.commands.tables import lines_of
from flask_pooled_db.host import HostStats

_COLUMNS = {"OPEN": "open", "IN USE": "in_use", "IDLE": "idle", "WAITING": "waiting"}


@dataclasses.dataclass(slots=True)
class _Bind:
    """What all processes together have of a bind."""

    name: str
    processes: int = 0
    """How many have it open."""
    open: int = 0
    in_use: int = 0
    idle: int = 0
    waiting: int = 0
    is_used: bool = False
    """Whether somebody uses it, or is about to. It is only told of binds opened by their names."""
    unused_for: float | None = None
    """Seconds since the last use in any process; None for binds of the configuration, which are
    not closed for that."""
    server: str | None = None
    """The bind whose connections a tenant shares: they are counted there."""


@group.command()
@live_options
@click.option("--bind", metavar="NAME", help="Only this database.")
def binds(bind: str | None, **how: Any) -> None:
    """List the databases that the processes of this app on this host have open: those of the
    configuration, and those that were opened by their names. Connections are those of all
    processes together.
    """

    def read(stats: HostStats) -> tuple[Any, Lines]:
        found = [one for one in _binds_of(stats) if bind in (None, one.name)]
        return [dataclasses.asdict(one) for one in found], _lines(found, bind)

    show(read, **how)


def _binds_of(stats: HostStats) -> list[_Bind]:
    """Return the binds that are open in some process: the default one, and the others by name."""
    found: dict[str, _Bind] = {}
    for process in stats.processes:
        pools = process.numbers.get("pools", {})
        opened = process.numbers.get("opened", {})
        for name in pools.keys() | opened.keys():
            one = found.setdefault(name, _Bind(name))
            one.processes += 1
            for field in _COLUMNS.values():
                setattr(one, field, getattr(one, field) + pools.get(name, {}).get(field, 0))
            if told := opened.get(name):
                unused = told["unused_for"] + process.age
                one.unused_for = unused if one.unused_for is None else min(unused, one.unused_for)
                one.is_used = one.is_used or told["is_used"]
                one.server = told["server"]
    return sorted(found.values(), key=lambda one: (one.name != DEFAULT_BIND, one.name))


def _lines(found: Sequence[_Bind], wanted: str | None) -> Lines:
    if not found:
        yield nobody(wanted)
        return
    rows = [("BIND", "PROCESSES", *_COLUMNS, "UNUSED FOR", "SHARES")]
    for one in found:
        numbers = [str(getattr(one, field)) for field in _COLUMNS.values()]
        unused = "" if one.unused_for is None else seconds(one.unused_for)
        rows.append(
            (
                shown(one.name),
                str(one.processes),
                *(numbers if one.server is None else [""] * len(numbers)),
                "in use" if one.is_used else unused,
                "" if one.server is None else shown(one.server),
            )
        )
    if not any(one.server for one in found):
        rows = [row[:-1] for row in rows]
    yield from lines_of(rows)
