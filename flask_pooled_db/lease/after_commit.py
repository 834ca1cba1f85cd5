"""What is to be done after COMMIT: mail to be sent, jobs to be queued."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable
from typing import NamedTuple

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease.preamble import Part
from flask_pooled_db.lease.refusals import at
from flask_pooled_db.runtime import callers, reporter

logger = logging.getLogger("flask_pooled_db")


class Call(NamedTuple):
    """A function that is to be called."""

    function: Callable[[], object]
    part: Part | None  # the part of the transaction that asked for it
    place: callers.Place | None  # where it was asked for

    @classmethod
    def of(cls, function: Callable[[], object], part: Part | None = None) -> Call:
        """Return the call that the application asks for now."""
        if not callable(function):
            raise UsageError("on_commit() takes a function, which is called without arguments")
        if inspect.iscoroutinefunction(function):
            raise UsageError(
                "on_commit() takes a function, not a coroutine function, which nobody would await: "
                "await it after the outermost block, or give on_commit() a function that hands it "
                "to the loop by asyncio.run_coroutine_threadsafe()"
            )
        return cls(function, part, callers.place())

    def __str__(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__name__)
        return f"{name} (asked for {at(self.place)})"

    def make(self) -> None:
        """Make the call. What it raises is logged: the work it follows is committed."""
        try:
            self.function()
        except Exception:  # noqa: BLE001  as above
            text = "A function given to on_commit() failed: %s\n%s"
            reporter.tell(logger.error, text, self, traceback.format_exc())


class AfterCommit:
    """The calls that a lease's callers asked for.

    Those of a transaction that was committed are due, and are made when the lease has ended.
    """

    __slots__ = ("_due", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[Call] = []
        self._due: list[Call] = []

    def add(self, call: Call) -> None:
        """Ask for a call after the next COMMIT."""
        self._waiting.append(call)

    def committed(self) -> None:
        """Note that what was done so far is committed."""
        self._due += self._waiting
        self._waiting = []

    def undone(self, part: Part | None = None) -> None:
        """Forget what was asked for in a part of the transaction, or in all of it."""
        if part is None:
            self._waiting = []
        else:
            self._waiting = [
                call for call in self._waiting if call.part is None or part not in call.part.line()
            ]

    def unknown(self) -> None:
        """Log what is not done because nobody knows whether COMMIT took place."""
        if self._waiting:
            text = "Whether COMMIT took place is not known, so that this was not called: %s"
            reporter.tell(logger.warning, text, ", ".join(map(str, self._waiting)))
        self._waiting = []

    def run(self) -> None:
        """Make the calls that are due, in the order they were asked for."""
        while self._due:
            self._due.pop(0).make()
