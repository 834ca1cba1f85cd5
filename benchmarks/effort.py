"""How long and how often to measure."""

from __future__ import annotations

from typing import NamedTuple


class Effort(NamedTuple):
    """The size of a run. More of each takes longer and is less noisy."""

    rounds: int
    calls: int
    """Bare calls of each contender in a round."""
    seconds: float
    """What each contender has in a round, where time is what limits it."""
    connects: int
    """New connections of each contender in a round."""
    threads: tuple[int, ...]
    """Numbers of threads to measure throughput with."""
    held: int
    """Connections held at once where memory is measured."""


FULL = Effort(rounds=11, calls=20_000, seconds=0.7, connects=20, threads=(1, 4, 16, 64), held=50)
QUICK = Effort(rounds=3, calls=10_000, seconds=0.3, connects=5, threads=(1, 16), held=20)
