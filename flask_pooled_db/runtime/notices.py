"""Warnings that many requests have cause for: each is logged once, and then counted."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from time import monotonic

from flask_pooled_db.runtime import guard
from flask_pooled_db.runtime.reporter import reporter

logger = logging.getLogger("flask_pooled_db")

MOST = 1000
"""How many causes are told from each other. All others count as one."""

PAUSE = 60.0
"""Seconds between two lines about the same cause, at least."""


class Notices:
    """What was logged, by its cause, which most often is a place in the application."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._known: dict[Hashable, tuple[float, int]] = {}  # when it was logged, how often since

    def warn(self, cause: Hashable, text: str, *args: object) -> None:
        """Log a warning, unless this cause had its line within the last minute: then count it. The
        next line says how many there were.
        """
        uncounted = self._count(cause)
        if uncounted is None:
            return
        if uncounted:
            text, args = f"{text} (%d more times since)", (*args, uncounted)
        reporter.tell(logger.warning, text, *args)

    def _count(self, cause: Hashable) -> int | None:
        """Return how often it came since its last line; None if it is not to be logged again."""
        now = self._clock()
        with guard.lock:
            if cause not in self._known and len(self._known) >= MOST:
                cause = None
            logged, count = self._known.get(cause, (-math.inf, -1))
            is_due = now - logged >= PAUSE
            self._known[cause] = (now, 0) if is_due else (logged, count + 1)
        return count + 1 if is_due else None
