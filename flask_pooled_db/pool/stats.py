"""The state of a pool in numbers, and the first subscriber to its events: counters."""

from __future__ import annotations

from dataclasses import dataclass

from flask_pooled_db.pool.events import NoEvents
from flask_pooled_db.runtime import guard


class Counters(NoEvents):
    """Totals of a pool's rarer events since it was made.

    Checkouts are not among them: the pool numbers those itself, under its own lock.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        self.timeouts = 0
        self.connects = 0
        self.connect_errors = 0
        self.discarded = 0
        self.leaks = 0

    def opened(self) -> None:
        with guard.lock:
            self.connects += 1

    def connect_failed(self, error: BaseException) -> None:
        with guard.lock:
            self.connect_errors += 1

    def timed_out(self) -> None:
        with guard.lock:
            self.timeouts += 1

    def evicted(self, reason: str) -> None:
        with guard.lock:
            self.discarded += 1

    def leaked(self) -> None:
        with guard.lock:
            self.leaks += 1


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One consistent snapshot of a pool, of this process alone.

    `open` counts every connection that takes one of the `maxconnections` places (0: no limit),
    including those being opened and closed; `in_use` and `idle` are the usable ones among them.
    `waiting` is the number of callers in the queue; `longest_lease` is the age in seconds of the
    oldest lease. The others are totals since the pool was made: `checkouts`, `timeouts` (callers
    that got no connection in time), `connects`, `connect_errors`, `discarded` (connections that
    were closed and not reused) and `leaked` (leases that were taken back because their owner did
    not return them).
    """

    open: int
    in_use: int
    idle: int
    waiting: int
    maxconnections: int
    longest_lease: float
    checkouts: int
    timeouts: int
    connects: int
    connect_errors: int
    discarded: int
    leaked: int
