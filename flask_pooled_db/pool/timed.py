"""A pool that tells how long each caller waited, and how long each connection was lent.

Others know nothing of it, and a checkout of theirs costs nothing more.
"""

from __future__ import annotations

from typing import Any

from flask_pooled_db.drivers import Session
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.queue import ServerDown, Waiter
from flask_pooled_db.pool.steps import Steps
from flask_pooled_db.pool.watchers import Watchers


class TimedEngine(Engine):
    """A pool whose checkouts are told."""

    def __init__(self, *args: Any, watchers: Watchers, **options: Any) -> None:
        super().__init__(*args, watchers=watchers, **options)
        assert watchers.checkouts is not None  # noqa: S101  for the type checker
        self._checkouts = watchers.checkouts

    def acquire(self, timeout: float | None = None, session: Session | None = None) -> Entry:
        """Return a connection like `Engine.acquire()`, and tell of it."""
        began, entry = self._clock(), None
        try:
            entry = super().acquire(timeout, session)
            self._checkouts.lent(began, self._clock(), entry)
            return entry  # noqa: TRY300  an interruption may come before each line
        except BaseException as error:
            self._failed(began, entry, error)
            raise

    def acquiring(self, waiter: Waiter, timeout: float | None) -> Steps[Entry]:
        """Return the steps of `acquire()`."""
        began, entry = self._clock(), None
        try:
            entry = yield from super().acquiring(waiter, timeout)
            self._checkouts.lent(began, self._clock(), entry)
            return entry  # noqa: TRY300  as above
        except BaseException as error:
            self._failed(began, entry, error)
            raise

    def _failed(self, began: float, entry: Entry | None, error: BaseException) -> None:
        if entry is not None:
            self._abandon(entry)
        elif not isinstance(error, ServerDown):  # else its caller goes on elsewhere
            self._checkouts.refused(began, self._clock(), error)

    def joined(self, began: float) -> None:
        """Tell of a caller who got a connection that others have as well."""
        self._checkouts.lent(began, self._clock(), None)

    def release(self, entry: Entry, unused: bool = False) -> None:
        """Take a connection back like `Engine.release()`, and tell of it."""
        since, is_lent = entry.since, entry.ref in self.state.in_use
        super().release(entry, unused=unused)
        if is_lent:
            self._checkouts.returned(self._clock() - since)
