"""What a pool tells about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """The rarer totals since the pool was made, guarded by the pool's lock."""

    timeouts: int = 0
    connects: int = 0
    connect_errors: int = 0
    discarded: int = 0
    leaked: int = 0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One consistent look at a pool, in this process alone.

    `open` counts every connection that takes one of the `maxconnections` places (0: no limit),
    those being opened and closed included; `in_use` and `idle` are the usable ones among them.
    `waiting` is the number of callers in the queue; `longest_lease` the age in seconds of the
    lease that has been out longest. The others are totals since the pool was made: `checkouts`,
    `timeouts` (callers who got no connection in time), `connects`, `connect_errors`, `discarded`
    (connections closed and not reused) and `leaked` (leases that were taken back because nobody
    returned them).
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
