"""`flask pooled-db status`: what the pools of all processes do."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import click

from flask_pooled_db.config import shown
from flask_pooled_db.flask.commands.group import group
from flask_pooled_db.flask.commands.live import Lines, live_options, nobody, seconds, show, whole
from flask_pooled_db.flask.commands.tables import lines_of
from flask_pooled_db.flask.numbers import added
from flask_pooled_db.host import HostStats
from flask_pooled_db.pool.histogram import quantile
from flask_pooled_db.telemetry.shown import shown as text

_COLUMNS = {
    "IN USE": "in_use",
    "IDLE": "idle",
    "WAITING": "waiting",
    "MAX": "maxconnections",
    "CHECKOUTS": "checkouts",
    "TIMEOUTS": "timeouts",
    "ABORTED": "aborted",
    "LEAKS": "leaked",
}
_TIMES = {"WAIT P95": "wait_time", "USE P95": "use_time"}

_BY_BIND = ("pools", "closed", "opened", "server_ids")
"""The numbers that are told by the names of binds."""

_OF_BINDS = ("leases", "slow", "events")
"""Lists, of which each element tells its bind."""


@group.command()
@live_options
@click.option("--bind", metavar="NAME", help="Only this database.")
def status(bind: str | None, **how: Any) -> None:
    """Show what the pools of all processes of this app on this host do: a line for each pool of
    each process, and their sums. Counts and times begin with the process.
    """

    def read(stats: HostStats) -> tuple[Any, Lines]:
        wanted = stats if bind is None else _only(stats, bind)
        return dataclasses.asdict(wanted), _lines(wanted, bind)

    show(read, **how)


def _only(stats: HostStats, bind: str) -> HostStats:
    """Return what tells of a bind, in the shape of the whole. What is counted by caller is of all
    binds: nothing tells them apart.
    """
    return dataclasses.replace(
        stats,
        processes=tuple(
            dataclasses.replace(one, numbers=_of(bind, one.numbers)) for one in stats.processes
        ),
        totals=_of(bind, stats.totals),
        ended=_of(bind, stats.ended),
    )


def _of(bind: str, numbers: Mapping[str, Any]) -> Mapping[str, Any]:
    found = dict(numbers)
    for name in numbers.keys() & {*_BY_BIND}:
        found[name] = {key: value for key, value in numbers[name].items() if key == bind}
    for name in numbers.keys() & {*_OF_BINDS}:
        found[name] = [each for each in numbers[name] if each.get("bind") == bind]
    if "named" in found:
        found["named"] = [name for name in found["named"] if name == bind]
    return found


def _lines(stats: HostStats, wanted: str | None) -> Lines:
    found = list(whole(stats))
    if not found:
        yield nobody(wanted)
        return
    for process, bind, pool in found:
        if down := pool.get("down"):
            yield (
                f"The database of bind {shown(bind)} is away for process {process.pid}, for "
                f"{seconds(down['since'] + process.age)}: {text(down['reason'])}"
            )
    rows = [("BIND", "PID", "PROGRAM", "UP FOR", *_COLUMNS, *_TIMES)]
    for bind in dict.fromkeys(bind for _, bind, _ in sorted(found, key=lambda each: each[1])):
        pools = []
        for process, _, pool in (each for each in found if each[1] == bind):
            pools.append({name: pool[name] for name in (*_COLUMNS.values(), *_TIMES.values())})
            program = text(str(process.numbers.get("program", "")))
            about = (shown(bind), str(process.pid), program, seconds(process.uptime))
            rows.append((*about, *_cells(pools[-1])))
        if len(pools) > 1:
            rows.append((shown(bind), "all", "", "", *_cells(functools.reduce(added, pools))))
    yield from lines_of(rows, left=3)


def _cells(pool: dict[str, Any]) -> list[str]:
    times = [seconds(quantile(pool[name]["counts"], 0.95)) for name in _TIMES.values()]
    return [*(str(pool[name]) for name in _COLUMNS.values()), *times]
