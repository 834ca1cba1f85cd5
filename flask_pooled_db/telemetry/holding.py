"""Who holds connections, added up by caller: what sentences say of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask_pooled_db.host import HostStats, ProcessStats
from flask_pooled_db.telemetry.overview import cut, is_used_up, leases_of, pools_by_bind
from flask_pooled_db.telemetry.shown import shown

RESTS_IN_TRANSACTION = 10.0
"""Seconds without a statement after which an open transaction is told."""

LONGEST_PLACE = 100
"""Characters of a file's name."""

RESTS = 30.0
"""Seconds without a statement after which a connection without one is told."""

Lease = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Held:
    """The connections of a database that one caller holds now."""

    bind: str
    name: str
    place: tuple[str, int] | None
    """Where all of them were taken, if that is one place."""
    count: int
    age: float
    """Seconds, on average."""
    idle_share: float
    """The share of that in which no statement ran."""
    longest: float
    rests_for: float
    """Seconds, of the one that has rested for longest."""
    is_in_transaction: bool
    """Whether one of them has a transaction open."""


def named(name: str) -> str:
    """Return what a sentence calls a caller."""
    return shown(name)


def place_of(place: tuple[str, int]) -> str:
    """Return what a sentence calls a line: the end of its path is enough."""
    file, line = place
    return f"{shown('/'.join(file.split('/')[-3:])[-LONGEST_PLACE:])}:{line}"


def held_in(processes: Iterable[ProcessStats], bind: str) -> list[Held]:
    """Return who holds the connections of a database in these processes, the most first."""
    leases = leases_of(HostStats(tuple(processes)))
    return _by_caller([lease for lease in leases if lease["bind"] == cut(bind)])


def long_held(stats: HostStats) -> Iterator[Held]:
    """Yield who keeps connections without using them; not of a pool that is used up, whose holders
    are told anyway.
    """
    used_up = {
        (process.pid, cut(bind))
        for bind, pools in pools_by_bind(stats).items()
        for process, pool in pools
        if is_used_up(pool)
    }
    # What one that is silent does with its connections, nobody knows.
    living = HostStats(tuple(one for one in stats.processes if not one.is_silent))
    resting = [
        lease
        for lease in leases_of(living)
        if lease["rests_for"] >= (RESTS_IN_TRANSACTION if lease["in_transaction"] else RESTS)
        and (lease["pid"], lease["bind"]) not in used_up
    ]
    yield from sorted(_by_caller(resting), key=lambda held: -held.longest)


def _by_caller(leases: Collection[Lease]) -> list[Held]:
    groups: dict[tuple[str, str], list[Lease]] = {}
    for lease in leases:
        groups.setdefault((lease["bind"], lease["name"]), []).append(lease)
    found = [_held(bind, name, group) for (bind, name), group in groups.items()]
    return sorted(found, key=lambda held: (-held.count, -held.longest))


def _held(bind: str, name: str, leases: list[Lease]) -> Held:
    places = {tuple(lease["place"]) if lease["place"] else None for lease in leases}
    seconds = sum(lease["age"] for lease in leases)
    return Held(
        bind=bind,
        name=name,
        place=places.pop() if len(places) == 1 else None,
        count=len(leases),
        age=seconds / len(leases),
        idle_share=sum(lease["idle"] for lease in leases) / seconds if seconds else 0.0,
        longest=max(lease["age"] for lease in leases),
        rests_for=max(lease["rests_for"] for lease in leases),
        is_in_transaction=any(lease["in_transaction"] for lease in leases),
    )
