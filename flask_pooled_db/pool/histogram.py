"""Histograms of times, with fixed buckets."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""The upper bounds of the buckets, in seconds. Above the last one there is one more bucket."""


SHORTEST = BOUNDS[0]


@dataclass(frozen=True)
class Histogram:
    """How often a time was in each bucket (up to its bound, and above the one before), and the sum
    of all times in seconds.
    """

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    sum: float = 0.0
    bounds: tuple[float, ...] = BOUNDS

    @property
    def count(self) -> int:
        """How many times there were."""
        return sum(self.counts)


NOTHING = Histogram()
"""Of no times."""


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the time, in seconds, that this share of all times were not longer than, as far as
    buckets tell: times are taken to be spread evenly in theirs. None if there are none; infinity if
    it is above the last bound.
    """
    rank, below, lower = share * sum(counts), 0, 0.0
    if not rank:
        return None
    for count, bound in zip(counts, (*BOUNDS, math.inf), strict=True):
        if below + count >= rank:
            return bound if math.isinf(bound) else lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return math.inf


class Times:
    """A histogram that is being made. Whoever adds to it, or looks at it, holds the lock."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: list[int] | None = None  # made for the first time: there may be many pools
        self.total = 0.0

    def add_locked(self, seconds: float) -> None:
        """Add a time."""
        if self.counts is None:
            self.counts = [0] * (len(BOUNDS) + 1)
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def taken_locked(self) -> Histogram:
        """Return it as it is at this moment."""
        return NOTHING if self.counts is None else Histogram(tuple(self.counts), self.total)
