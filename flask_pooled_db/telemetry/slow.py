"""Statements that take too long: each is counted by who ran it, and some are logged."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

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


class SlowStatements:
    """How many slow statements there were in this process, by who ran them."""

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Start afresh: what was counted is the parent's."""
        self._counts: dict[str, int] = {}

    def count(self, name: str) -> None:
        """Count one."""
        with guard.lock:
            name = counted_as(name, self._counts)
            self._counts[name] = self._counts.get(name, 0) + 1

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
        name = callers.named()
        self._statements.count(label_of(name or callers.kind_of(lease.owner)))
        told = (
            shown_bind(lease.terms.bind),
            statement.duration,
            self.least,
            "" if error is None else f" and failed with {type(error).__name__}",
            name or callers.name_of(lease.owner),
            callers.at(callers.place_of_asking()),
            shown(statement.text),
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
