"""`flask pooled-db top`: who holds connections, the longest first."""

from __future__ import annotations

from typing import Any

import click

from flask_pooled_db.config import shown
from flask_pooled_db.flask.commands.group import group
from flask_pooled_db.flask.commands.live import Lines, live_options, seconds, show, whole
from flask_pooled_db.flask.commands.tables import lines_of
from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.overview import leases_in
from flask_pooled_db.telemetry.shown import shown as text

_UNKNOWN = (
    "It is not known who holds connections{of}: set POOLED_DB_LEAK_THRESHOLD or "
    "POOLED_DB_SLOW_ACQUIRE, or register metrics_blueprint() or page_blueprint()."
)


@group.command()
@live_options
@click.option("--bind", metavar="NAME", help="Only this database.")
@click.option("--limit", type=click.IntRange(1), help="Only so many.")
def top(bind: str | None, limit: int | None, **how: Any) -> None:
    """Show who holds connections, the longest first: of each process the 20 that have held theirs
    for longest, with the place in the application where each was taken.
    """

    def read(stats: HostStats) -> tuple[Any, Lines]:
        leases = _leases(stats, bind)[:limit]
        return leases, _lines(leases, stats, bind)

    show(read, **how)


def _leases(stats: HostStats, wanted: str | None) -> list[dict[str, Any]]:
    found = [
        lease
        for process in stats.processes
        for lease in leases_in(process)
        if wanted in (None, lease["bind"])
    ]
    return sorted(found, key=lambda lease: -lease["age"])


def _lines(leases: list[dict[str, Any]], stats: HostStats, wanted: str | None) -> Lines:
    pools = [each for each in whole(stats) if wanted in (None, each[1])]
    unknown = sorted({bind for _, bind, pool in pools if not pool.get("tells_holders")})
    if unknown:
        every = len(unknown) == len({bind for _, bind, _ in pools})
        yield _UNKNOWN.format(of="" if every else f" of {', '.join(map(shown, unknown))}")
    if not leases:
        if not unknown:
            yield "Nobody holds a connection at the moment."
        return
    head = "AGE", "IDLE", "TRANSACTION", "BIND", "PID", "WHO", "TAKEN AT"
    yield from lines_of([head, *map(_row, leases)], left=len(head))


def _row(lease: dict[str, Any]) -> tuple[str, ...]:
    place = lease["place"]
    return (
        seconds(lease["age"]),
        f"{lease['idle'] / lease['age']:.0%}" if lease["age"] else "-",
        _doing(lease),
        shown(lease["bind"]),
        str(lease["pid"]),
        text(lease["name"]),
        "-" if place is None else text(f"{place[0]}:{place[1]}"),
    )


def _doing(lease: dict[str, Any]) -> str:
    state = "open" if lease["in_transaction"] else "none"
    rests = lease["rests_for"]
    return f"{state}, idle for {seconds(rests)}" if rests else f"{state}, a statement runs"
