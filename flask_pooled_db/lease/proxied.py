"""Leases behind a pooler that gives each transaction any of its sessions."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from flask_pooled_db.errors import PooledDBError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.deadline import nearest
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Entry

IN_TRANSACTION = State.IN_TRANSACTION


class ProxiedLease(Lease):
    """A lease whose transactions are begun by the pool, each with the settings that it is to have.

    The beginning of one waits inside the pooler until a session is free there: for no longer than
    a caller waits for a connection, or than a deadline allows.
    """

    __slots__ = ()

    def statement(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver with SQL, unless it would leave something in the session."""
        if self.driver.check_call:
            self.driver.check_call(function, args)
        return super().statement(function, *args)

    def _prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        entry = self.usable()
        if self.driver.in_transaction(entry.raw):
            return super()._prepare(function)
        began, seconds = monotonic(), _patience(entry)
        try:
            with entry.bounded(seconds):
                function = super()._prepare(function)
                if not self.driver.in_transaction(entry.raw):
                    self._begin(entry)
        except self.driver.Error as error:
            waited = monotonic() - began
            was_late = self.is_gone and waited >= seconds
            is_refusal = isinstance(error, PooledDBError)
            if is_refusal or not (was_late or self.driver.is_turned_away(error)):
                raise
            self._home.terms.events.timed_out(waited, tuple)  # who holds them, others know
            raise refusals.no_session(self._home.terms.bind, waited) from error
        return function

    def _begin(self, entry: Entry) -> None:
        self._state = IN_TRANSACTION
        begins_by = None if self._preamble is None else self._preamble.isolation
        if begins_by is None:
            self.call(self.driver.open_transaction, entry.raw)
        else:  # text has ended the one before
            self.call(self.driver.begin, entry.raw, begins_by)

    def _reason(self, error: BaseException) -> PooledDBError | None:
        watch = self.watch
        deadline = None if watch is None else watch.deadline
        if self.is_gone and deadline is not None and deadline.left() <= 0:
            self.note_exceeded()  # it was cut while it waited
        return super()._reason(error)


def _patience(entry: Entry) -> float:
    config, deadline = entry.origin.config, nearest()
    seconds = max(config.acquire_timeout, config.connect_timeout)
    return seconds if deadline is None else min(seconds, max(deadline.left(), 0.01))
