"""Callers that wait long for a connection are logged, with who held connections meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from flask_pooled_db.config import shown
from flask_pooled_db.pool import NoEvents
from flask_pooled_db.pool.holding import Holder
from flask_pooled_db.runtime import Throttle, callers, reporter

logger = logging.getLogger("flask_pooled_db")

LINES = 10
"""Lines a minute, at most, in this process."""

MOST_NAMED = 3
"""How many of those who held connections a line names."""

throttle = Throttle(LINES, 60.0)
"""One for all apps of the process."""


class SlowAcquire(NoEvents):
    """Logs the waits for a connection of one pool that took `least` seconds and more."""

    def __init__(self, least: float, bind: str) -> None:
        self._least = least
        self._bind = bind

    def waited(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None:
        self._note("waited %.3f s for a connection of bind %s", seconds, holders)

    def bind_waited(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None:
        self._note("waited %.3f s until bind %s could be opened", seconds, holders)

    def timed_out(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None:
        self._note("waited in vain for %.3f s for a connection of bind %s", seconds, holders)

    def _note(self, what: str, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None:
        if seconds < self._least:
            return
        left_out = throttle.admit()
        if left_out is None:
            return
        held = [holder for holder in holders() if holder.age > 0.0][:MOST_NAMED]
        reporter.tell(
            logger.warning,
            f"%s {what} (POOLED_DB_SLOW_ACQUIRE is %g s)%s%s",
            callers.who(),
            seconds,
            shown(self._bind),
            self._least,
            f"; held longest now by {'; by '.join(map(str, held))}" if held else "",
            f" ({left_out} other waits were not logged since the line before)" if left_out else "",
        )
