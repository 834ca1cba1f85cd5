"""What was seen of a host a while ago, so that it can be said what has happened since.

The page keeps it, and brings it along: so a server keeps nothing, all workers answer alike, and a
worker that is killed takes nothing with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_pooled_db.host import HostStats

WINDOW = 60.0
"""Seconds to look back."""

OLDEST = 2 * WINDOW
"""Seconds after which what was seen tells nothing any more."""

MOST_BINDS, MOST_NAMES, MOST_WORKERS = 30, 20, 300
"""How much a sample tells of: binds, callers with slow statements, workers."""

LONGEST_NAME = 60
"""Characters of a name in a sample; others are left out."""

LONGEST_TEXT = 16_000
"""Characters of a sample that is brought along."""

LARGEST = 2**53
"""The largest number that a page can count to."""

COUNTERS = ("timeouts", "aborted", "outcomes_unknown", "connect_errors", "leaked")
EVICTIONS = ("dead", "broken")

Numbers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of a host at a moment of the monotonic clock, which all processes share."""

    at: float
    workers: Mapping[str, int]
    """The process ids of those that lived, by their tokens."""
    counts: Mapping[str, Mapping[str, int]]
    """By bind; those that are 0 are left out."""
    slow: Mapping[str, int] = field(default_factory=dict)
    """Slow statements by who ran them."""
    is_whole: bool = True
    """Whether binds and callers that are not there have counted nothing."""

    def of(self, bind: str, name: str) -> int | None:
        """Return a counter of a bind; None if it is not known."""
        found = self.counts.get(bind)
        if found is None:
            return 0 if self.is_whole else None
        return found.get(name, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain values."""
        return {
            "at": self.at,
            "workers": self.workers,
            "counts": self.counts,
            "slow": self.slow,
            "is_whole": self.is_whole,
        }


@dataclass(frozen=True, slots=True)
class Past:
    """What was seen lately."""

    seconds: float
    """How long ago the sample was taken."""
    before: Sample
    gone: Mapping[str, int]
    """The process ids of those that lived since, and do not now, by their tokens."""

    def since(self, bind: str, name: str, now: int) -> int:
        """Return by how much a counter of a bind has grown to what it is now."""
        earlier = self.before.of(bind, name)
        return 0 if earlier is None else max(now - earlier, 0)

    def slow_since(self, name: str, now: int) -> int:
        """Return by how many the slow statements of a caller have grown to what they are now."""
        earlier = self.before.slow.get(name, 0 if self.before.is_whole else now)
        return max(now - earlier, 0)


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
    slow = stats.totals.get("slow_statements", {})
    kept = _short(counts, MOST_BINDS), _short(slow, MOST_NAMES)
    workers = {one.token: one.pid for one in stats.processes if one.token}
    is_whole = (len(kept[0]), len(kept[1])) == (len(counts), len(slow))
    return Sample(at, workers, *kept, is_whole)


def _short(by_name: Numbers, most: int) -> dict[str, Any]:
    """Return a part of what is told by name, if it is too much; the same part each time."""
    names = [name for name in sorted(by_name) if len(name) <= LONGEST_NAME]
    return {name: by_name[name] for name in names[:most]}


def read_past(text: str | None, stats: HostStats, now: float) -> Past | None:
    """Return what a page has brought along, which came from outside: None if it makes no sense. Its
    workers are all that it has seen since.
    """
    if not text or len(text) > LONGEST_TEXT:
        return None
    try:
        found = json.loads(text)
        before = Sample(
            float(found["at"]),
            _numbers(found["workers"], MOST_WORKERS),
            {name: _numbers(each) for name, each in found["counts"].items()},
            _numbers(found["slow"]),
            found["is_whole"] is True,
        )
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return None
    if not 0 <= now - before.at <= OLDEST:
        return None
    living = {one.token for one in stats.processes}
    gone = {token: pid for token, pid in before.workers.items() if token not in living}
    return Past(now - before.at, before, {} if stats.is_alone else gone)


def _numbers(found: Any, most: int = MOST_BINDS) -> dict[str, int]:
    """Check numbers by name. Raises `ValueError` or `AttributeError`."""
    numbers = dict(found.items())
    are_counts = all(type(each) is int and 0 <= each <= LARGEST for each in numbers.values())
    if len(numbers) > most or not are_counts:
        raise ValueError("these are no numbers")
    return numbers
