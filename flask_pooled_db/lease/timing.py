"""What a lease does about time: the deadline of its caller, and the age of its transaction."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import PooledDBError, TransactionAborted
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.deadline import TOLERANCE, Deadline, fits, nearest
from flask_pooled_db.lease.losing import Losing
from flask_pooled_db.lease.preamble import Preamble
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Entry

IN_TRANSACTION, BROKEN = State.IN_TRANSACTION, State.BROKEN


class Watch:
    """What a lease has to know of time. Only one that is limited in this way has it."""

    __slots__ = ("began", "deadline", "is_exceeded", "is_overdue")

    def __init__(self) -> None:
        self.began: float | None = None  # the transaction, as far as its age is limited
        self.deadline: Deadline | None = None  # that its last statement is limited by
        self.is_exceeded = False  # the pool has ended that statement
        self.is_overdue = False  # a transaction of it was open for too long


class Timing(Losing):
    """The part of a lease that knows what time is left.

    The server's limit of a statement is a state of the session. It is set anew when what is left
    has become another by more than a tenth. A limit that costs nothing to set is exact.
    """

    __slots__ = ()

    _session: Session

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver."""
        raise NotImplementedError

    def watch_time(self) -> None:
        """Look at the time before each statement from now on."""
        preamble = self._preamble
        if preamble is None:
            preamble = self._preamble = Preamble(self._session)
        if preamble.watch is None:
            preamble.watch = Watch()
        self._is_ready = False

    @property
    def watch(self) -> Watch | None:
        """What it knows of time, if it looks at it."""
        preamble = self._preamble
        return None if preamble is None else preamble.watch

    # A deadline

    def _in_time(self, entry: Entry, watch: Watch, wanted: Session) -> Session:
        """Return the session that a statement is to find instead of the one that is `wanted`, so
        that it ends with the caller's deadline. Raises `DeadlineExceeded` if it may not begin.
        """
        deadline = nearest()
        watch.deadline, watch.is_exceeded = None, False
        if deadline is None:
            return wanted
        left, own = deadline.time_to_run(), wanted.statement_timeout
        if own and own <= left:
            return wanted
        watch.deadline = deadline
        driver, origin = self.driver, entry.origin
        if origin.needs_interrupting:  # the pool keeps it, without a word to the server
            if origin.identity is None:
                origin.identity = self.call(driver.identity, entry.raw)
            return wanted
        if not driver.keeps_time:
            return wanted
        now = entry.session.statement_timeout
        stays = not driver.sets_time_for_free and fits(now, left)
        session = wanted._replace(statement_timeout=now if stays else left)
        return entry.session if session == entry.session else session

    def time_left(self, usual: float) -> float:
        """Return how long a call may take whose time the pool keeps: `usual` (0: any time), or what
        is left of the deadline that its statement is limited by.
        """
        watch = self.watch
        if watch is None or watch.deadline is None:
            return usual
        left = max(watch.deadline.left(), 0.001)
        return min(usual, left) if usual else left

    def note_exceeded(self) -> None:
        """Note that the pool has ended a statement since its time was up."""
        watch = self.watch
        if watch is not None:
            watch.is_exceeded = True

    # The age of a transaction

    def _check_age(self, entry: Entry, seconds: float) -> None:
        """Raise `TransactionAborted` if the transaction has been open for longer than it may."""
        watch = self.watch
        if watch is None:
            self.watch_time()
            watch = self.watch
        if watch is None or self._session.readonly:
            return
        now = self._home.terms.clock()
        if self._state is not IN_TRANSACTION or watch.began is None:
            watch.began = now
        elif now - watch.began > seconds:
            if self.driver.in_transaction(entry.raw) is False and entry.look() <= 0:
                watch.began = now  # what its text did has ended it
            else:
                self._expire(entry, watch, seconds)

    def _check_age_at_end(self, entry: Entry) -> None:
        if seconds := entry.origin.config.transaction_timeout:
            self._check_age(entry, seconds)

    def _expire(self, entry: Entry, watch: Watch, seconds: float) -> None:
        watch.is_overdue = True
        error = refusals.overdue(seconds)
        is_free = not (entry.streams or self.driver.has_unread_rows(entry.raw))
        if entry.look() > 0:
            entry.condemn("the server has ended it, with its transaction")
        elif is_free:
            with contextlib.suppress(self.driver.Error, PooledDBError):  # its end does it otherwise
                self.undo_at_once(entry)
        self.abort(error)
        self._cause = error
        raise error

    def undo_at_once(self, entry: Entry) -> None:
        """Roll back before the end of the lease, so that others need not wait for its locks."""
        self.call(functools.partial(self.undo, entry))

    def undoing(self) -> Callable[[Entry], None]:
        """Return what sends the ROLLBACK of its end. It does not refer to the lease: an error's
        frames would keep that.
        """
        return Entry.roll_back

    def undo(self, entry: Entry) -> None:
        """Send ROLLBACK. What its failure means, its caller knows."""
        entry.roll_back()

    def _clock_again(self) -> None:
        """Note that what comes next belongs to another transaction."""
        watch = self.watch
        if watch is not None:
            watch.began = None

    # What a caller is told

    def _reason(self, error: BaseException) -> PooledDBError | None:
        """Return what to raise in place of a driver's error that a limit of time has led to."""
        watch, entry = self.watch, self._entry
        if watch is None or not isinstance(error, self.driver.Error):
            return None
        if isinstance(error, PooledDBError):
            return None
        deadline = watch.deadline
        if deadline is not None and (
            watch.is_exceeded or (self.driver.is_time_limit(error) and _may_be_over(deadline))
        ):
            return deadline.exceeded(self.driver.failures[0])
        if entry is not None and self._state is BROKEN and watch.began is not None:
            seconds = entry.origin.config.transaction_timeout
            if seconds and self._home.terms.clock() - watch.began > seconds:
                watch.is_overdue = True
                told: TransactionAborted = refusals.overdue(seconds)
                return told
        return None


def _may_be_over(deadline: Deadline) -> bool:
    """Return whether a deadline has come, or is as near as a session's limit may be too short."""
    return deadline.left() <= deadline.seconds * TOLERANCE * 1.2 + 0.05
