"""What was seen of a host a while ago, so that it can be said what has happened since.

It is noted while somebody looks, and published with the numbers of the process that was asked. So
all workers of a host answer alike, whichever of them a page asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_pooled_db.host import HostStats

WINDOW = 60.0
"""Seconds to look back."""

SPACING = 8.0
"""Seconds between two samples, at least."""

KEPT = WINDOW + 2 * SPACING
"""Seconds after which a sample is forgotten."""

MOST_BINDS = 200
"""How many binds a sample tells of."""

COUNTERS = ("timeouts", "aborted", "outcomes_unknown", "connect_errors", "leaked")
EVICTIONS = ("dead", "broken")

PUBLISHED = "trail"
"""The name of the samples among the numbers of a process."""

Numbers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of a host at a moment of the monotonic clock, which all processes share."""

    at: float
    workers: Mapping[str, int]
    """The process ids of those that lived, by their tokens."""
    counts: Mapping[str, Numbers]
    """By bind; those that are 0 are left out."""
    slow: Mapping[str, int] = field(default_factory=dict)
    """Slow statements by who ran them."""
    is_whole: bool = True
    """Whether binds that are not there have counted nothing."""

    def of(self, bind: str, name: str) -> int | None:
        """Return a counter of a bind; None if it is not known."""
        found = self.counts.get(bind)
        if found is None:
            return 0 if self.is_whole else None
        return int(found.get(name, 0))


@dataclass(frozen=True, slots=True)
class Past:
    """What was seen lately."""

    seconds: float
    """How long ago the first sample was taken."""
    before: Sample
    gone: Mapping[str, int]
    """The process ids of those that lived since, and do not now, by their tokens."""

    def since(self, bind: str, name: str, now: int) -> int:
        """Return by how much a counter of a bind has grown to what it is now."""
        earlier = self.before.of(bind, name)
        return 0 if earlier is None else max(now - earlier, 0)


def counts_of(totals: Numbers) -> dict[str, int]:
    """Return what is counted of a bind, of the totals of its pools, by name; nothing that is 0."""
    evictions = totals.get("evictions", {})
    found = {name: totals.get(name, 0) for name in COUNTERS}
    found.update({name: evictions.get(name, 0) for name in EVICTIONS})
    return {name: count for name, count in found.items() if count}


def sample_of(stats: HostStats, at: float) -> Sample:
    """Return what there is to remember of a host."""
    pools = stats.totals.get("pools", {})
    counts = {bind: found for bind, totals in pools.items() if (found := counts_of(totals))}
    is_whole = len(counts) <= MOST_BINDS
    if not is_whole:
        counts = {bind: counts[bind] for bind in sorted(counts)[:MOST_BINDS]}
    workers = {one.token: one.pid for one in stats.processes}
    return Sample(at, workers, counts, dict(stats.totals.get("slow_statements", {})), is_whole)


class Trail:
    """The samples that were taken in this process. Threads may use it at once: each changes it by
    one assignment.
    """

    def __init__(self) -> None:
        self._samples: tuple[Sample, ...] = ()

    def note(self, sample: Sample) -> None:
        """Remember a sample, unless the last one is a short while old."""
        kept = self._kept(sample.at)
        if not kept or sample.at - kept[-1].at >= SPACING:
            self._samples = (*kept, sample)

    def published(self, now: float) -> list[Numbers]:
        """Return the samples in plain values; none if nobody has looked lately."""
        if not self._samples:
            return []
        self._samples = self._kept(now)
        return [
            {"at": one.at, "workers": one.workers, "counts": one.counts, "slow": one.slow}
            | ({} if one.is_whole else {"is_whole": False})
            for one in self._samples
        ]

    def past(self, stats: HostStats, now: float) -> Past | None:
        """Return what this process and the others have seen lately; None if nobody has looked."""
        found = [*self._kept(now), *_published_in(stats, now)]
        if stats.is_alone or not found:
            found = [one for one in self._kept(now) if one.workers.keys() == _tokens(stats)]
        if not found:
            return None
        found.sort(key=lambda one: one.at)
        early = [one for one in found if now - one.at >= WINDOW]
        before = early[-1] if early else found[0]
        living, gone = _tokens(stats), {}
        for one in found:
            if one.at >= before.at:
                gone.update({token: pid for token, pid in one.workers.items() if token})
        gone = {token: pid for token, pid in gone.items() if token not in living}
        return Past(now - before.at, before, gone)

    def _kept(self, now: float) -> tuple[Sample, ...]:
        return tuple(one for one in self._samples if 0 <= now - one.at <= KEPT)


def _tokens(stats: HostStats) -> set[str]:
    return {one.token for one in stats.processes}


def _published_in(stats: HostStats, now: float) -> Iterable[Sample]:
    for process in stats.processes:
        for found in process.numbers.get(PUBLISHED, ()):
            if 0 <= now - found["at"] <= KEPT:
                yield Sample(
                    found["at"],
                    found["workers"],
                    found["counts"],
                    found["slow"],
                    found.get("is_whole", True),
                )
