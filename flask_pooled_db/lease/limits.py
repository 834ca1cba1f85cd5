"""Leases whose pool keeps the time limits of statements, since their server does not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.pool import Entry

_COMES_LATE = "a statement of it was interrupted, and the interruption may come late"
_WAS_CUT = "a statement of it exceeded its time limit and could not be interrupted"


class LimitedLease(Lease):
    """A lease whose calls take no longer than the session's `statement_timeout`, or what is left of
    a deadline, allows.

    Each call that waits for the server has that time: the statement itself, and each one that
    fetches what it left. Other connections do not pay for it.
    """

    __slots__ = ()

    def _prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        function = super()._prepare(function)
        return functools.partial(self._run_limited, self.usable(), function)

    def fetch(self, function: Callable[..., Any], *args: Any) -> Any:
        entry, driver = self.usable(), self.driver
        if driver.has_to_close_cursors or driver.has_unread_rows(entry.raw):
            return self.call(self._run_limited, entry, function, *args)
        return self.call(function, *args)  # the driver has all that there is

    def _run_limited(self, entry: Entry, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver; raise its error if that takes too long.

        The connection is condemned if the call ended in another way than by its interruption.
        """
        driver = self.driver
        seconds = self.time_left(self._session.statement_timeout)
        if not (seconds and entry.origin.needs_interrupting):
            return function(*args)
        limit = self._home.interrupter.limit(entry, seconds)
        try:
            with limit:
                result = function(*args)
        except driver.Error as error:
            if limit.was_exceeded:
                self.note_exceeded()
            if limit.was_cut:
                entry.condemn(_WAS_CUT)
                raise driver.time_is_up(seconds) from error
            was_interrupted = driver.is_interruption(error)
            if limit.interruptions > (1 if was_interrupted else 0):
                entry.condemn(_COMES_LATE)
            told = driver.time_is_up(seconds, error) if was_interrupted else error
            if told is not error:
                raise told from error
            raise
        if not limit.was_exceeded:
            return result
        if limit.interruptions:
            entry.condemn(_COMES_LATE)
        self.note_exceeded()
        raise driver.time_is_up(seconds)
