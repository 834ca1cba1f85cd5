"""The state of a pool in numbers, and the first subscriber to its events: counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_pooled_db.pool.events import NoEvents
from flask_pooled_db.pool.evictions import kind_of
from flask_pooled_db.pool.histogram import NOTHING, Histogram, Times
from flask_pooled_db.runtime import guard
from flask_pooled_db.runtime.callers import Place


class Counters(NoEvents):
    """Totals of a pool since it was made, of what it does not count itself under its own lock.

    Checkouts and returns are not among them: see `state.State`.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Start afresh: what was counted is the parent's."""
        self._totals: dict[str, int] = {}
        self._evictions: dict[str, int] = {}
        self._wait_times, self._connect_times = Times(), Times()
        self._found_dead = 0
        self._told_at_once = 0

    def taken_locked(self, taken: int) -> dict[str, Any]:
        """Return the numbers of this moment, by their names in `PoolStats`. `taken` is how many
        connections callers have, had, or were about to have and found dead.
        """
        waited = self._wait_times.taken_locked()
        # Those that neither waited nor were checked first. What was told is never taken back.
        self._told_at_once = max(self._told_at_once, taken - waited.count - self._found_dead)
        counts = (waited.counts[0] + self._told_at_once, *waited.counts[1:])
        return {
            **self._totals,
            "checkouts": self._told_at_once + waited.count,
            "evictions": dict(self._evictions),
            "wait_time": Histogram(counts, waited.sum),
            "connect_time": self._connect_times.taken_locked(),
        }

    def _count(self, name: str) -> None:
        with guard.lock:
            self._totals[name] = self._totals.get(name, 0) + 1

    def opened(self, seconds: float) -> None:
        with guard.lock:
            self._count("connects")
            self._connect_times.add_locked(seconds)

    def connect_failed(self, error: BaseException) -> None:
        self._count("connect_errors")

    def queued(self) -> None:
        self._count("waits")

    def waited(self, seconds: float, holders: object) -> None:
        with guard.lock:
            self._wait_times.add_locked(seconds)

    def timed_out(self, seconds: float, holders: object) -> None:
        self._count("timeouts")

    def found_dead(self) -> None:
        with guard.lock:
            self._found_dead += 1

    def was_reset(self) -> None:
        self._count("resets")

    def evicted(self, reason: str) -> None:
        kind = kind_of(reason)
        with guard.lock:
            self._evictions[kind] = self._evictions.get(kind, 0) + 1

    def leaked(self, place: Place | None) -> None:
        self._count("leaked")

    def committed(self) -> None:
        self._count("commits")

    def rolled_back(self) -> None:
        self._count("rollbacks")

    def aborted(self, cause: BaseException | None) -> None:
        self._count("aborted")

    def outcome_unknown(self) -> None:
        self._count("outcomes_unknown")

    def implicitly_committed(self) -> None:
        self._count("implicit_commits")


@dataclass(frozen=True)
class PoolStats:
    """One consistent snapshot of a pool, of this process alone.

    `open` counts every connection that takes one of the `maxconnections` places (0: no limit),
    including those being opened and closed; `in_use` and `idle` are the usable ones among them. The
    pool keeps `mincached` connections; `maxcached` of them may be idle (0: no limit). `waiting` is
    the number of callers in the queue; `longest_lease` is the age in seconds of the oldest lease.

    The others are totals since the pool was made in this process:

    - `checkouts`: connections that callers got; `waits`: callers that had to wait for one, and
      `timeouts`: those that got none in time.
    - `connects` and `connect_errors`: connections that were opened, and connects that failed.
    - `evictions`: connections that were closed, by reason: "idle" (IDLE_TIMEOUT), "lifetime"
      (MAX_LIFETIME, MAXUSAGE), "surplus" (more than the pool may keep), "drained", "closed" (with
      the pool), "fork", "dead" (found so by a check), "broken" (by an error or an interruption),
      "unclean" (unread rows, or a session that can't be reset), "leaked".
    - `resets`: sessions that were reset before the next lease.
    - `commits`, `rollbacks` (that a caller or its exception wanted), `aborted` (transactions that
      were lost, or could not be committed), `outcomes_unknown` (COMMITs without an answer) and
      `implicit_commits` (by SQL text).
    - `leaked`: leases that were taken back because their owner did not return them.
    - `wait_time` of checkouts, `use_time` of leases that were returned, `connect_time`: histograms,
      in seconds.
    """

    open: int
    in_use: int
    idle: int
    waiting: int
    maxconnections: int
    mincached: int
    maxcached: int
    longest_lease: float
    checkouts: int
    waits: int = 0
    timeouts: int = 0
    connects: int = 0
    connect_errors: int = 0
    evictions: Mapping[str, int] = field(default_factory=dict)
    resets: int = 0
    commits: int = 0
    rollbacks: int = 0
    aborted: int = 0
    outcomes_unknown: int = 0
    implicit_commits: int = 0
    leaked: int = 0
    wait_time: Histogram = NOTHING
    use_time: Histogram = NOTHING
    connect_time: Histogram = NOTHING

    @property
    def discarded(self) -> int:
        """How many connections were closed."""
        return sum(self.evictions.values())
