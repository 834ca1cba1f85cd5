"""What the failure of a call means for a lease."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers import Driver, Failure, Session
from flask_pooled_db.errors import CommitOutcomeUnknown, PooledDBError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.fate import Told
from flask_pooled_db.lease.home import Home
from flask_pooled_db.lease.preamble import Preamble
from flask_pooled_db.lease.state import TRANSITIONS, Event, State
from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import guard, refuse_to_pickle

logger = logging.getLogger("flask_pooled_db")

UNUSED, IDLE, IN_TRANSACTION, BUSY, ROLLED_BACK, ABORTED, BROKEN, RELEASED = State


UNKNOWN = object()
"""The identity of a server that does not tell."""


class Losing:
    """The part of a lease that knows what it has lost, and why."""

    __slots__ = (
        "_before",
        "_cause",
        "_doom",
        "_entry",
        "_home",
        "_is_certain",
        "_is_ready",
        "_preamble",
        "_revoked",
        "_session",
        "_state",
        "_told",
        "driver",
    )

    __reduce_ex__ = refuse_to_pickle(
        "a connection", "another process takes one of its own. Give it rows, or their keys"
    )

    driver: Driver  # that opened its connection

    _state: State
    _ended: State  # in which it was released
    _before: State  # in which its last statement found it
    _home: Home
    _entry: Entry | None  # None once it is released
    _cause: BaseException | None  # why the transaction is gone
    _doom: BaseException | None  # the cause, if a savepoint from before can undo it
    _is_certain: bool
    _is_ready: bool  # nothing comes before its next statement
    _preamble: Preamble | None
    _session: Session  # that its next statement is to find
    _revoked: str | None  # why it was, or is to be, taken back from its owner
    _told: Told  # what SQL text did to its transactions

    def release(self) -> None:
        """Return the connection."""
        raise NotImplementedError

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether it was released, or its transaction is gone."""
        return self._state > BUSY

    @property
    def is_garbage(self) -> bool:
        """Whether its connection counts as lost: a finalizer asks, and nothing may be sent."""
        return self._entry is not None and self._entry.is_garbage

    @property
    def has_committed_all(self) -> bool | None:
        """Whether it has ended with its work committed; None as long as nobody knows."""
        if self._state is not RELEASED or self._ended in (BUSY, BROKEN):
            return None
        return self._ended in (UNUSED, IDLE)

    def _failed(self, error: BaseException, before: State, sql: Any) -> None:
        """Move to the state that an error of the driver means; `before` is the state to go back to
        if only the statement failed, and `sql` its text, if there is one.
        """
        entry, cause = self._entry, self._cause
        self._cause = cause or error
        failure = self._classify(error)
        if failure is Failure.STATEMENT:
            has_survived = self._has_survived(error, before, sql)
            self._is_certain = False
            self._state, self._cause = before, cause
            if not has_survived:
                self.abort(refusals.in_doubt(error))
        elif failure is Failure.DOOMED:
            if before is IN_TRANSACTION:
                self._state, self._doom = ABORTED, error
            else:  # there is nothing to lose, or it is lost already
                self._state, self._cause = before, cause
        elif failure is Failure.ROLLED_BACK:
            self._state = ROLLED_BACK if before <= IN_TRANSACTION else before
        elif before is RELEASED:
            self._state = RELEASED
        elif entry is not None:
            entry.condemn(failure.value)
            if isinstance(error, self.driver.Error):
                self._home.invalidate()
        if self._revoked is not None:
            self.release()

    def _classify(self, error: BaseException) -> Failure:
        if isinstance(error, PooledDBError):
            return Failure.STATEMENT  # refused before anything was sent
        if isinstance(error, Exception) and self._entry is not None:
            try:
                return self.driver.classify(self._entry.raw, error)
            except Exception:
                logger.debug("Classifying an error failed", exc_info=True)
        return Failure.LOST

    def _has_survived(self, error: BaseException, before: State, sql: Any) -> bool:
        """Return whether what came before a statement is sure to have survived its error."""
        ask, entry = self.driver.transaction_survived, self._entry
        if not ask or entry is None or isinstance(error, PooledDBError):
            return True
        if before is not IN_TRANSACTION or self._before is not IN_TRANSACTION:
            return True  # there was nothing to lose
        if not isinstance(sql, str) and entry.streams:
            sql = entry.streams[0].sql
        try:
            answer = ask(entry.raw, error, sql)
        except Exception:
            logger.debug("Asking for the transaction failed", exc_info=True)
            return False
        if answer is None and self._told.probe is not None:
            self._is_ready = False  # the next statement, or COMMIT, shows whether it is still there
            return True
        # So does the end of a nested scope for its savepoint.
        return self._has_savepoint if answer is None else bool(answer)

    @property
    def _has_savepoint(self) -> bool:
        return self._preamble is not None and self._preamble.has_savepoint

    def abort(self, cause: BaseException) -> None:
        """Refuse all further work: the transaction must not be committed, because of `cause`."""
        self._move(Event.ABORT)
        self._cause = self._cause or cause
        self._doom = None

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS[event][self._state]

    def _tell_end(self, entry: Entry, state: State) -> None:
        """Tell what became of a transaction that was not committed by the end of the lease, which
        came in this state.
        """
        if self._session.readonly or isinstance(self._cause, CommitOutcomeUnknown):
            return  # there was none, or it was told
        if state is IN_TRANSACTION and entry.look() <= 0:  # else its server has ended it before
            self._home.terms.events.rolled_back()
        elif state >= IN_TRANSACTION:
            self._home.terms.events.aborted(self._cause)

    # What another thread may ask for: its caller was cancelled

    def give_up(self, reason: str) -> Entry | None:
        """Have the call under way end, at the server too, and its connection not used again, from
        any thread. Returns the connection, unless it was given back before.
        """
        with guard.lock:  # so that it is not lent to anybody else
            entry = self._entry
            if entry is not None:
                entry.condemn(reason)
        if entry is not None:
            self._home.interrupter.end(entry)
        return entry

    def identify(self) -> None:
        """Find out which server the connection leads to, if it takes that to `give_up()`.

        It is a call of the driver like any other: nobody may have the connection meanwhile.
        """
        entry = self._entry
        if entry is None or entry.origin.identity is not None or self._state > IN_TRANSACTION:
            return
        if entry.streams or self.driver.has_unread_rows(entry.raw):
            entry.origin.is_unasked = True
            return
        try:
            identity = self.call(self.driver.identity, entry.raw)
            entry.origin.identity = UNKNOWN if identity is None else identity
        except self.driver.Error:
            if self.is_over:
                raise  # it is lost, before the statement was sent
            entry.origin.identity = UNKNOWN

    def break_off(self, cause: BaseException, reason: str) -> None:
        """Refuse all further work: nobody knows what became of the last call."""
        if self._state in TRANSITIONS[Event.LOST_CONNECTION]:
            self._break(Event.LOST_CONNECTION, cause, reason)

    def _break(self, event: Event, cause: BaseException, reason: str) -> None:
        """Give the connection up."""
        self._move(event)
        self._cause = cause
        self._condemn(reason)

    def _condemn(self, reason: str) -> None:
        if self._state is UNUSED:
            self._state = IDLE
        if self._entry is not None:
            self._entry.condemn(reason)
