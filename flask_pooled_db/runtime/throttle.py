"""At most so many log lines in a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic

from flask_pooled_db.runtime import guard


class Throttle:
    """Lets `most` through in each period, of so many seconds, and counts the others."""

    def __init__(
        self, most: int, period: float = 1.0, clock: Callable[[], float] = monotonic
    ) -> None:
        self._most = most
        self._period = period
        self._clock = clock
        self._began = -math.inf  # the present period
        self._let_through = 0
        self._left_out = 0

    def admit(self) -> int | None:
        """Return how many were left out since the last one that was let through; None if this one
        is to be left out as well.
        """
        now = self._clock()
        with guard.lock:
            if now - self._began >= self._period:
                self._began, self._let_through = now, 0
            if self._let_through >= self._most:
                self._left_out += 1
                return None
            self._let_through += 1
            left_out, self._left_out = self._left_out, 0
        return left_out
