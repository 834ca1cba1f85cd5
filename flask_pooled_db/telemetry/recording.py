"""The statements that an app context ran, on record; and those that it ran once for each row."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from flask_pooled_db.config import shown as shown_bind
from flask_pooled_db.pool.statements import NoObserver, Rows, Statement
from flask_pooled_db.runtime import callers, reporter
from flask_pooled_db.telemetry.shown import shown

logger = logging.getLogger("flask_pooled_db")

MOST = 1000
"""How many statements of an app context are kept. Further ones are not."""

LONGEST = 10_000
"""Characters of a text that are kept."""

REPEATS = 10
"""How often a statement may be run from one line before it is reported."""


class RecordedStatement(NamedTuple):
    """A statement that an app context ran."""

    text: str
    """Without its parameters; cut after 10,000 characters."""
    rows: int | None
    """How many rows it returned or changed, as far as they were read; None if nobody knows."""
    duration: float
    """Seconds until the driver returned, or raised."""
    file: str | None
    line: int | None
    """Where in the application it was run, if that is known."""
    waited: bool
    """Whether its block had to wait for a connection, or for a new one to be opened."""
    bind: str
    error: str | None
    """The name of the class of the error that it failed with."""


class _Repeats:
    """How often a statement was run from one line, and what tells of it."""

    def __init__(self) -> None:
        self.count = 0
        self.caller = ""


class Recording:
    """What one app context ran. Several threads may run statements in it."""

    def __init__(self) -> None:
        self._kept: list[tuple[RecordedStatement, Rows]] = []
        self._repeats: dict[tuple[callers.Place | None, str], _Repeats] = {}

    def add(self, statement: Statement) -> None:
        """Put a statement on record."""
        text, place = statement.text[:LONGEST], callers.place_of_asking()
        if len(self._kept) < MOST:
            error = statement.error
            file, line = place or (None, None)
            one = RecordedStatement(
                text,
                None,
                statement.duration,
                file,
                line,
                statement.has_waited,
                statement.lease.terms.bind,
                None if error is None else type(error).__name__,
            )
            self._kept.append((one, statement.rows))
        self._count(place, text, statement)

    def _count(self, place: callers.Place | None, text: str, statement: Statement) -> None:
        key = place, text
        repeats = self._repeats.get(key)
        if repeats is None:
            if len(self._repeats) >= MOST or place is None:
                return
            repeats = self._repeats[key] = _Repeats()
        repeats.count += 1
        if repeats.count == REPEATS + 1:
            # At the end of its context, its request is gone.
            name = callers.named() or callers.name_of(statement.lease.owner)
            repeats.caller = f"{name} {callers.at(place)}, on bind"
            repeats.caller += f" {shown_bind(statement.lease.terms.bind)}"

    def statements(self) -> list[RecordedStatement]:
        """Return what is on record, in the order in which it ended."""
        return [one._replace(rows=rows.count) for one, rows in list(self._kept)]

    def report(self) -> None:
        """Log each line that ran one statement again and again: once, with the statement that it
        ran most often.
        """
        most: dict[callers.Place | None, tuple[str, _Repeats]] = {}
        for (place, text), repeats in self._repeats.copy().items():
            if repeats.count > REPEATS and repeats.count > _count_of(most.get(place)):
                most[place] = text, repeats
        self._repeats.clear()
        for text, repeats in most.values():
            reporter.tell(
                logger.warning,
                "N+1: a statement was run %d times by %s: fetch what it asks for in one statement, "
                "or use executemany(): %s",
                repeats.count,
                repeats.caller,
                shown(text),
            )


def _count_of(found: tuple[str, _Repeats] | None) -> int:
    return 0 if found is None else found[1].count


class Recorder(NoObserver):
    """The observer of an app that puts statements on record."""

    least = 0.0

    def __init__(
        self, is_wanted: Callable[[], bool], recording: Callable[[], Recording | None]
    ) -> None:
        """`is_wanted` says whether the app is to be recorded now. `recording` returns that of the
        current app context, or None if there is none.
        """
        self._is_wanted = is_wanted
        self._recording = recording

    def is_on(self) -> bool:
        """Return whether the app is to be recorded now."""
        return self._is_wanted()

    def ran(self, statement: Statement) -> None:
        """Put a statement on record."""
        recording = self._recording() if self.is_on() else None
        if recording is not None:
            recording.add(statement)
