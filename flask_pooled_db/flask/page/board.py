"""What the page is sent: built when it is asked for, and at most once a second in a process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.findings import findings, verdict
from flask_pooled_db.telemetry.overview import overview
from flask_pooled_db.telemetry.past import read_past, sample_of

FRESH = 1.0
"""Seconds for which an answer is given again."""

BUSY = 10.0
"""Seconds for which an answer may be given again while the next one is being built."""


class View(NamedTuple):
    """What is known at a moment, as all pages are told it."""

    at: float
    stats: HostStats
    text: str
    """JSON, without what is wrong: that depends on what a page has seen before."""


class Board:
    """The answers of one process about one app. Threads may ask at once: what they change is
    changed by one assignment, and at worst a view is built twice.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._known: View | None = None
        self._being_built_since: float | None = None

    @property
    def is_building(self) -> bool:
        """Whether a view is being built."""
        return self._being_built_since is not None

    def answer(self, read: Callable[[], HostStats], before: str | None = None) -> bytes:
        """Return the latest view as JSON, with what is wrong now, and since `before`: what a page
        has seen. `read` tells what all processes have published.
        """
        view = self._view(read)
        past = read_past(before, view.stats, view.at)
        found = findings(view.stats, past)
        told = {
            "verdict": verdict(found, view.stats),
            "findings": [one.as_dict() for one in found],
        }
        return f"{view.text[:-1]},{_json(told)[1:]}".encode("ascii")

    def _view(self, read: Callable[[], HostStats]) -> View:
        known, since, now = self._known, self._being_built_since, self._clock()
        if known is not None:
            is_being_built = since is not None and now - since < BUSY
            if now - known.at < (BUSY if is_being_built else FRESH):
                return known
        self._being_built_since = now
        try:
            self._known = view = _built(read(), self._clock())
        finally:
            self._being_built_since = None
        return view


def _built(stats: HostStats, now: float) -> View:
    sample = sample_of(stats, now).as_dict()
    told = {"at": now, "pid": os.getpid(), "sample": sample, **overview(stats)}
    return View(now, stats, _json(told))


def _json(told: dict[str, Any]) -> str:
    # All of it in ASCII: a name may hold a lone surrogate, which UTF-8 has no form for.
    return json.dumps(told, separators=(",", ":"))
