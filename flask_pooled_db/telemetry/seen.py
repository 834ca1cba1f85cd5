"""What is seen of an app in this process, beside the numbers of its pools: what people look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, Protocol

from flask_pooled_db.pool.holding import Holder
from flask_pooled_db.runtime import callers
from flask_pooled_db.telemetry.loads import ServerLoads
from flask_pooled_db.telemetry.slow import SlowStatements
from flask_pooled_db.telemetry.usage import Usage

MOST_LEASES, MOST_STATEMENTS, MOST_EVENTS = 20, 20, 50
"""How many are told of: of leases the longest, of statements those that took the most time, of
binds that were opened or closed the last."""


class BindEvents:
    """The binds that were opened and closed last, by their names."""

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Start afresh: what was opened is the parent's."""
        self._events: deque[tuple[str, str, str, float]] = deque(maxlen=MOST_EVENTS)

    def add(self, bind: str, what: str, reason: str) -> None:
        """Note that one was "opened" or "closed"."""
        self._events.append((bind, what, reason, monotonic()))

    def told(self) -> list[dict[str, Any]]:
        """Return them as plain values, the last one first. `ago` is in seconds."""
        now, events = monotonic(), list(self._events)  # in one step, whoever adds one meanwhile
        return [
            {"bind": bind, "what": what, "reason": reason, "ago": now - when}
            for bind, what, reason, when in reversed(events)
        ]


class Held(Protocol):
    """A pool, as far as its leases are concerned."""

    def holders(self) -> list[Holder]:
        """Return who holds connections, the longest first, as far as it is known."""


class Seen:
    """All of it."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.slow = SlowStatements()
        self.binds = BindEvents()
        self.loads = ServerLoads()
        self.wants_usage = False  # set before the first lease, by whoever shows it

    def forked(self) -> None:
        """In a forked child, start afresh."""
        for part in (self.usage, self.slow, self.binds, self.loads):
            part.forked()

    def of(self, pools: Iterable[Held]) -> dict[str, Any]:
        """Return what is to be seen at this moment, as plain values."""
        holders = [holder for pool in pools for holder in pool.holders()]
        holders.sort(key=lambda holder: -holder.age)
        return {
            "program": callers.program(),
            "leases": [holder._asdict() for holder in holders[:MOST_LEASES]],
            "slow": self.slow.worst(MOST_STATEMENTS),
            "events": self.binds.told(),
        }
