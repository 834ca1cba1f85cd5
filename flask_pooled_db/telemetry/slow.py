"""Statements that take too long: each is counted by who ran it, and some are logged."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any

from flask_pooled_db.config import shown as shown_bind
from flask_pooled_db.pool.statements import NoObserver, Rows, Statement
from flask_pooled_db.runtime import Throttle, callers, guard, reporter
from flask_pooled_db.telemetry.shown import rows, shown
from flask_pooled_db.telemetry.usage import counted_as, label_of

logger = logging.getLogger("flask_pooled_db")

LINES = 5
"""Lines a second, at most, in this process."""

throttle = Throttle(LINES)
"""One for all apps of the process."""


MOST_TEXTS = 100
"""How many statements are told from each other. One more takes the place of the one that took the
least time in all."""


class Slow:
    """A statement that was slow, and how often. All times are in seconds."""

    __slots__ = ("count", "last", "longest", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = self.longest = 0.0
        self.last = 0.0  # when it was, by the monotonic clock

    def add(self, seconds: float) -> None:
        """Count it once more."""
        self.count += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)
        self.last = monotonic()


class SlowStatements:
    """The slow statements of this process: how many there were, by who ran them, and which took
    the most time.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Start afresh: what was counted is the parent's."""
        self._counts: dict[str, int] = {}
        self._worst: dict[tuple[str, str, str], Slow] = {}

    def count(self, name: str, bind: str, text: str, seconds: float) -> None:
        """Count one that this caller ran; `text` is as it is shown."""
        key = bind, name, text
        with guard.lock:
            name = counted_as(name, self._counts)
            self._counts[name] = self._counts.get(name, 0) + 1
            if key not in self._worst and len(self._worst) >= MOST_TEXTS:
                self._forget_least_locked()
            self._worst.setdefault(key, Slow()).add(seconds)

    def _forget_least_locked(self) -> None:
        # A copy, which is made in one step: a finalizer may count another one between any two.
        worst = self._worst.copy()
        self._worst.pop(min(worst, key=lambda one: worst[one].seconds), None)

    def worst(self, most: int) -> list[dict[str, Any]]:
        """Return those that took the most time in all, as plain values. `last` is how many seconds
        ago they ran.
        """
        now = monotonic()
        with guard.lock:
            found = sorted(self._worst.copy().items(), key=lambda pair: -pair[1].seconds)[:most]
            return [
                {
                    **dict(zip(("bind", "name", "text"), key, strict=True)),
                    "count": slow.count,
                    "seconds": slow.seconds,
                    "longest": slow.longest,
                    "last": now - slow.last,
                }
                for key, slow in found
            ]

    def counts(self) -> Mapping[str, int]:
        """Return the numbers, the highest first."""
        with guard.lock:
            counts = dict(self._counts)
        return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


class SlowLog(NoObserver):
    """The observer of one pool that counts and logs statements of `least` seconds and more."""

    def __init__(self, least: float, statements: SlowStatements) -> None:
        self.least = least
        self._statements = statements

    def is_on(self) -> bool:
        """Return True."""
        return True

    def ran(self, statement: Statement) -> None:
        """Count a statement, and log it as soon as the number of its rows is known."""
        lease, rows, error = statement.lease, statement.rows, statement.error
        name, text = callers.named(), shown(statement.text)
        caller = label_of(name or callers.kind_of(lease.owner))
        self._statements.count(caller, lease.terms.bind, text, statement.duration)
        told = (
            shown_bind(lease.terms.bind),
            statement.duration,
            self.least,
            "" if error is None else f" and failed with {type(error).__name__}",
            name or callers.name_of(lease.owner),
            callers.at(callers.place_of_asking()),
            text,
        )
        rows.when_final(functools.partial(_log, told, rows, has_failed=error is not None))


def _log(told: tuple[object, ...], number: Rows, *, has_failed: bool) -> None:
    left_out = throttle.admit()
    if left_out is None:
        return
    *facts, text = told
    reporter.tell(
        logger.warning,
        "A statement of bind %s took %.3f s (POOLED_DB_SLOW_STATEMENT is %g s)%s, run by %s %s%s%s"
        ": %s",
        *facts,
        "" if has_failed else f", {rows(number.count)}",
        f" ({left_out} other slow ones were not logged since the line before)" if left_out else "",
        text,
    )
