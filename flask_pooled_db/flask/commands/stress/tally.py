"""What a client of `flask pooled-db stress` counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

_GROWTH = math.log(1.02)  # a bucket is 2 % wider than the one before it
_SHORTEST = 1e-7


class Times:
    """Durations in seconds, in so many buckets that a quantile is off by 1 % at most."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self._counts[round(math.log(max(seconds, _SHORTEST)) / _GROWTH)] += 1
        self.count += 1

    def join(self, other: Times) -> None:
        """Count those of another one, too."""
        self._counts += other._counts
        self.count += other.count

    def quantile(self, share: float) -> float | None:
        """Return the duration that this share of them does not exceed; None if there is none."""
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= share * self.count:
                return math.exp(bucket * _GROWTH)
        return None


class Tally:
    """What one client has done, or several together."""

    def __init__(self) -> None:
        self.scopes: dict[str, Times] = {}  # those that ended as was wanted, by their kind
        self.waits = Times()  # for a connection
        self.failed: Counter[str] = Counter()  # scopes, by their error
        self.started_over: Counter[str] = Counter()  # attempts, by their error
        self.wrong_reads = 0
        self.connections: set[int] = set()  # those used, as the server calls them

    def add(self, kind: str, seconds: float) -> None:
        """Count a scope that ended as was wanted."""
        self.scopes.setdefault(kind, Times()).add(seconds)

    def all_scopes(self) -> Times:
        """Return the durations of scopes of all kinds."""
        total = Times()
        for times in self.scopes.values():
            total.join(times)
        return total

    def join(self, other: Tally) -> None:
        """Count what another one has counted, too."""
        for kind, times in other.scopes.items():
            self.scopes.setdefault(kind, Times()).join(times)
        self.waits.join(other.waits)
        self.failed += other.failed
        self.started_over += other.started_over
        self.wrong_reads += other.wrong_reads
        self.connections |= other.connections


def total(tallies: Iterable[Tally]) -> Tally:
    """Return what several have counted together."""
    whole = Tally()
    for tally in tallies:
        whole.join(tally)
    return whole
