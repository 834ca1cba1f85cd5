"""Contenders measured in turn, so that what disturbs the machine disturbs them all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

OURS = "flask_pooled_db"

Samples = Mapping[str, Sequence[float]]
"""One value a round, by the contender's name."""


@dataclass(frozen=True)
class Bar:
    """What a row is held to: a limit for our value, or for its ratio to the peer's."""

    limit: float
    at_most: bool
    of_ratio: bool = True

    def __str__(self) -> str:
        sign = "at most" if self.at_most else "at least"
        return f"{'ratio' if self.of_ratio else 'ours'} {sign} {self.limit:g}"

    def is_met(self, row: Row) -> bool:
        """Whether the medians of a row are within the limit."""
        value = row.ratio if self.of_ratio else row.ours
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True)
class Row:
    """One case, ours against one peer: medians of the rounds, and how far the ratios went."""

    case: str
    unit: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    lowest: float
    highest: float
    bar: Bar | None = None
    note: str = ""

    @property
    def is_met(self) -> bool:
        """False where there is a bar and it was missed."""
        return self.bar is None or self.bar.is_met(self)


def in_turn(contenders: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """Measure A B C, C B A, and so on.

    Every second round goes backwards, so that no contender always comes after the same other one:
    a server is still busy with what it was told last when the next one's turn begins.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders.items())
    for _ in range(rounds):
        for name, measure in order:
            samples[name].append(measure())
        order.reverse()
    return samples


def compare(
    case: str,
    unit: str,
    samples: Samples,
    bars: Mapping[str, Bar] | None = None,
    note: str = "",
) -> list[Row]:
    """A row for each peer; ratios are of values of the same round. `bars` is by peer."""
    ours = samples[OURS]
    rows = []
    for peer, theirs in samples.items():
        if peer == OURS:
            continue
        ratios = [_ratio(own, other) for own, other in zip(ours, theirs, strict=True)]
        rows.append(
            Row(
                case,
                unit,
                statistics.median(ours),
                peer,
                statistics.median(theirs),
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                (bars or {}).get(peer),
                note,
            )
        )
    return rows


def _ratio(ours: float, theirs: float) -> float:
    if ours == theirs:
        return 1.0  # none against none, too
    return ours / theirs if theirs else math.inf


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
