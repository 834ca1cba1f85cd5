"""What the page is sent: built when it is asked for, and at most once a second in a process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.findings import findings, verdict
from flask_pooled_db.telemetry.overview import overview
from flask_pooled_db.telemetry.trail import Trail, sample_of

FRESH = 1.0
"""Seconds for which an answer is given again."""

BUSY = 10.0
"""Seconds for which an answer may be given again while the next one is being built."""


class Board:
    """The answers of one process about one app. Threads may ask at once: what they change is
    changed by one assignment, and at worst an answer is built twice.
    """

    def __init__(self, trail: Trail, clock: Callable[[], float] = monotonic) -> None:
        self._trail = trail
        self._clock = clock
        self._known: tuple[float, bytes] | None = None
        self._being_built_since: float | None = None

    @property
    def is_building(self) -> bool:
        """Whether an answer is being built."""
        return self._being_built_since is not None

    def answer(self, read: Callable[[], HostStats]) -> bytes:
        """Return the latest view as JSON. `read` tells what all processes have published."""
        known, since, now = self._known, self._being_built_since, self._clock()
        if known is not None:
            is_being_built = since is not None and now - since < BUSY
            if now - known[0] < (BUSY if is_being_built else FRESH):
                return known[1]
        self._being_built_since = now
        try:
            body = self._build(read())
            self._known = self._clock(), body
        finally:
            self._being_built_since = None
        return body

    def _build(self, stats: HostStats) -> bytes:
        now = self._clock()
        past = self._trail.past(stats, now)
        self._trail.note(sample_of(stats, now))
        found = findings(stats, past)
        view: dict[str, Any] = {
            "at": now,
            "pid": os.getpid(),
            "seen_for": 0.0 if past is None else past.seconds,
            "verdict": verdict(found, stats),
            "findings": [one.as_dict() for one in found],
            **overview(stats),
        }
        # All of it in ASCII: a name may hold a lone surrogate, which UTF-8 has no form for.
        return json.dumps(view, separators=(",", ":")).encode("ascii")
