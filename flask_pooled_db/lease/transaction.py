"""The transaction of a lease: COMMIT, ROLLBACK, savepoints, and what their failure means."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import (
    CommitOutcomeUnknown,
    PooledDBError,
    TransactionAborted,
    UsageError,
)
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.after_commit import AfterCommit, Call
from flask_pooled_db.lease.fate import NOTHING_TOLD
from flask_pooled_db.lease.preamble import Part, Preamble
from flask_pooled_db.lease.state import TRANSITIONS, Event, State
from flask_pooled_db.lease.watching import WatchingLease
from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import reporter

logger = logging.getLogger("flask_pooled_db")

UNUSED, IDLE, IN_TRANSACTION, _, ROLLED_BACK, ABORTED, BROKEN, RELEASED = State


class TransactionLease(WatchingLease):
    """A lease with a transaction on it, which a caller or a scope ends."""

    __slots__ = ()

    # What its caller may ask for

    def commit(self) -> None:
        """Commit. In a nested scope it raises `UsageError`: only the outermost one ends it all.

        It is sent unless the driver knows that no transaction is open. Raises
        `CommitOutcomeUnknown` when the answer to COMMIT was lost.
        """
        entry = self.usable()
        self._refuse_if_nested("commit()")
        self._refuse_open_block()
        if entry.streams:
            self.clear_way(entry)
        self.refuse_if_busy(entry)
        self._look_for_transaction(entry)
        if self._state is IN_TRANSACTION:
            self._commit_and_tell()
            self.has_committed = True
        elif self.after_commit is not None:
            self.after_commit.committed()

    def rollback(self) -> None:
        """Roll back. In a nested scope it raises `UsageError`.

        After the server rolled the transaction back (a deadlock), this acknowledges the loss, and
        the lease can be used again. A lost connection stays lost.
        """
        state = TRANSITIONS[Event.ROLLBACK].get(self._state)
        entry = self._entry
        if state is None or entry is None:
            raise self._refusal()
        self._refuse_if_nested("rollback()")
        self._refuse_open_block()
        self._look_for_transaction(entry)
        if self._state in (UNUSED, IDLE):
            return
        was_lost, (cause, self._cause) = self.is_over, (self._cause, None)
        self._state, self._before = IN_TRANSACTION, IDLE  # nothing of it is to survive
        try:
            if entry.streams or self.driver.has_unread_rows(entry.raw):
                self.drop_unread(entry)
            self.call(functools.partial(self.undo, entry))
        except BaseException as error:
            if self._state is IN_TRANSACTION:  # what was to be undone must not be committed
                self.abort(cause or error)
            raise
        self._end_transaction()
        if was_lost:
            self._home.terms.events.aborted(cause)
        else:
            self._home.terms.events.rolled_back()
        if self.after_commit is not None:
            self.after_commit.undone()

    def on_commit(self, function: Callable[[], object]) -> None:
        """Have a function called, without arguments, when what is done here is committed.

        Functions are called in the order they were given, each once, after COMMIT was acknowledged
        and the connection was given back. They are not called if the transaction, or the nested
        scope that asks, is rolled back, nor if nobody knows whether COMMIT took place: a warning
        names them then. Without anything to commit, the end of the scope counts. What a function
        raises is logged.
        """
        if self._entry is None or self.is_over:
            raise self._refusal()
        if self.after_commit is None:
            self.after_commit = AfterCommit()
        self.after_commit.add(Call.of(function, self.innermost()))

    def _look_for_transaction(self, entry: Entry, *, is_certain: bool = False) -> None:
        """Move to IN_TRANSACTION unless the driver knows that there is none, or only if it
        `is_certain` that there is one: more may have been done than the lease has seen.
        """
        if self._state in (UNUSED, IDLE):
            answer = self.driver.in_transaction(entry.raw)
            if answer or (answer is None and not is_certain):
                self._state = IN_TRANSACTION

    def _commit_and_tell(self) -> None:
        """Commit, and tell who waits for that."""
        after = self.after_commit
        try:
            self.commit_work()
        except BaseException:
            if after is not None and isinstance(self._cause, CommitOutcomeUnknown):
                after.unknown()
            raise
        if after is not None:
            after.committed()

    def begin(self) -> None:
        """Check that no transaction is open. One begins with its first statement."""
        self.usable()
        if self._state is IN_TRANSACTION:
            raise UsageError(refusals.BEGUN)

    def _refuse_if_nested(self, what: str) -> None:
        if self.is_nested:
            raise refusals.nested(what)

    def _end_transaction(self) -> None:
        """Note that COMMIT or ROLLBACK was answered, or that there is nothing to commit."""
        if self._state is not RELEASED:  # it may have been taken back in the meantime
            self._state = IDLE
        self._is_certain = True
        self.has_committed = self.may_have_committed
        self._doom = None
        if self._told is not NOTHING_TOLD:
            self._told = self._told.after_end()
        if self._preamble is not None and self._preamble.isolation is not None:
            self._is_ready = False  # it is to be set for the next transaction too

    @property
    def has_work(self) -> bool:
        """Whether a ROLLBACK may undo something."""
        return self._state is IN_TRANSACTION

    # For scopes

    def begin_with(self, level: str) -> None:
        """Give each transaction of this lease an isolation level."""
        statement = self.driver.isolation_statement(level)
        if statement is not None:
            self.begin_by(statement)

    def begin_by(self, statement: str) -> None:
        """Have each transaction of this lease begin as the driver's `begin` makes it of that."""
        if self._preamble is None:
            self._preamble = Preamble(self._session)
        self._preamble.isolation = statement
        self._is_ready = False

    @property
    def only_reads(self) -> bool:
        """Whether its transactions are such as refuse what writes."""
        begins_by = None if self._preamble is None else self._preamble.isolation
        return begins_by is not None and begins_by == self.driver.reads_by

    def enter_scope(self, part: Part) -> None:
        """Begin a nested scope: its savepoint is set before its first statement, if one comes."""
        if self._preamble is None:
            self._preamble = Preamble(self._session)
        self._is_ready = False
        part.entered = self._entered
        self._preamble.add(part)
        if self._told.commits_each:
            part.has_savepoint = False  # none can be set
        self._session = part.session

    def leave_scope(self, part: Part) -> None:
        """End a nested scope, and go back to the session of the newest that is open."""
        part.is_open, part.frame = False, None
        self._is_ready = False
        if self._preamble is not None:
            self._session = self._preamble.session_of(next(reversed(self._preamble.parts()), None))

    def session_of(self, part: Part | None) -> Session:
        """Return the session state of a nested scope, or of the outermost one."""
        return self._session if self._preamble is None else self._preamble.session_of(part)

    @property
    def is_nested(self) -> bool:
        """Whether a nested scope has not ended."""
        return self._preamble is not None and bool(self._preamble.parts())

    def why_not_ended(self, part: Part) -> UsageError | None:
        """Return why a nested scope can't be ended at this moment, if it can't."""
        if self._preamble is not None and self._preamble.has_inside(part):
            return refusals.out_of_order()
        return refusals.open_block() if self._entered > part.entered else None

    def finish_part(self, part: Part) -> bool:
        """Read what the statements of a nested scope have left. Returns whether that has failed,
        with an error that its savepoint can undo.
        """
        entry = self._entry
        if part.set_as and entry is not None and self._state is IN_TRANSACTION:
            try:
                if self.has_left(entry):
                    self.finish_reading(entry)
            except self.driver.Error as error:
                part.failure = error
                return True
        return False

    def end_savepoint(self, part: Part, *, roll_back: bool) -> None:
        """Release the savepoint of a nested scope, or undo what came after it."""
        if not part.set_as:
            return
        if roll_back and self._doom is not None and self._state is ABORTED:
            self._move(Event.UNDONE)  # if it succeeds, which it does not in a lost transaction
            self._cause = self._doom = None
        entry = self.usable()
        if not roll_back and self._preamble is not None and self._preamble.has_after(part.set_as):
            return  # RELEASE would take the later savepoints with it; this one ends with them all
        if roll_back and self.has_left(entry):
            self.drop_unread(entry)
        if entry.streams or self._told.probe is not None:
            self.settle(entry)
        if not part.set_as:
            return  # it is gone, as the probe has told
        end = functools.partial(self.driver.end_savepoint, roll_back=roll_back)
        self.call(end, entry.raw, part.savepoint)

    @property
    def can_be_undone(self) -> bool:
        """Whether a savepoint from before can still undo what came after it."""
        return not self.is_over or (self._doom is not None and self._state is ABORTED)

    @property
    def _last_state(self) -> State:
        """The state it is in, or was in when it was released."""
        return self._ended if self._state is RELEASED else self._state

    def may_start_over(self, error: Exception) -> bool:
        """Return whether the transaction is lost as a whole and a retry might succeed."""
        is_lost = self._last_state in (ROLLED_BACK, BROKEN)
        if self.watch is not None and self.watch.is_overdue:
            return False
        if any(map(self.driver.is_interruption, filter(None, (error, error.__cause__)))):
            return False  # what took too long takes as long again
        if isinstance(error, TransactionAborted):
            return is_lost
        is_drivers = isinstance(error, self.driver.Error) and not isinstance(error, PooledDBError)
        return is_drivers and (is_lost or self.driver.is_retryable(error))

    def finish(self, exc: BaseException | None) -> None:
        """End the outermost scope: commit, unless an exception leaves it, and release."""
        self._in_scope = False
        try:
            if self._preamble is not None and self.is_nested:
                self.abort(refusals.out_of_order())
                if exc is None:
                    raise refusals.out_of_order()
            elif exc is None and self._state is UNUSED:
                if self.after_commit is not None:
                    self.after_commit.committed()
            elif exc is None:
                self._refuse_open_block()
                self._look_at_end()
                if self.after_commit is None:
                    self.commit_work()
                else:
                    self._commit_and_tell()
        finally:
            self.release()

    def _look_at_end(self) -> None:
        """See what SQL text has done that the end of the scope must not pass over in silence."""
        entry, error = self._entry, None
        if entry is None or self._state > IN_TRANSACTION:
            return
        if self._session.readonly:
            self.read_results(entry)
            if self.driver.in_transaction(entry.raw):
                error = refusals.readonly_wrote()
        elif self._state is IDLE:
            self._look_for_transaction(entry, is_certain=True)
        if self._told.offence is not None and entry.origin.config.implicit_commit == "error":
            error = refusals.implicit_commit(self._told.offence)
        if error is not None:
            self.abort(error)
            raise error

    def commit_work(self) -> None:
        """Send COMMIT if there may be anything to commit. Raises if it can't be committed."""
        entry, driver = self._entry, self.driver
        if self._state is not IN_TRANSACTION or entry is None:
            if entry is None:
                raise refusals.released_early(self._revoked)
            if self._state > IN_TRANSACTION:
                raise self._refusal()
            return
        if self._preamble is not None:
            self._check_age_at_end(entry)
        if entry.streams or self._told.probe is not None or driver.has_unread_rows(entry.raw):
            self.settle(entry)  # the driver's flags may be those of an earlier result
        if driver.tells_transactions and not self._has_transaction(entry):
            self._end_transaction()
            return
        if entry.look() > 0:
            error = TransactionAborted(refusals.SERVER_LEFT)
            self._break(Event.COMMIT_UNANSWERED, error, "the server had closed it")
            raise error
        self._before = IDLE  # an error of COMMIT need not be asked about
        try:
            self.send_commit(entry)
        except BaseException as error:
            self._commit_failed(entry, error)
            raise
        self._end_transaction()
        self._home.terms.events.committed()

    def send_commit(self, entry: Entry) -> None:
        """Send COMMIT."""
        commit = entry.raw.commit
        if (
            self._preamble is not None
            and entry.session.statement_timeout != self._session.statement_timeout
        ):  # which a deadline, or a nested scope, has set
            commit = entry.commit_unlimited
        try:
            self.call(commit)
        except self.driver.Error as error:
            cursors = [cursor.driver_cursor for cursor in self._open_cursors()]
            if not self.driver.unblock_commit(entry.raw, error, cursors):
                raise
            self.call(entry.raw.commit)

    def _has_transaction(self, entry: Entry) -> bool:
        """Return whether there may be anything to commit; raise if the server would roll back."""
        if self.driver.refuses_commit(entry.raw):
            self._move(Event.COMMIT_REFUSED)
            self._cause = TransactionAborted(refusals.COMMIT_IS_ROLLBACK)
            raise self._cause
        # An isolation level that no transaction followed would apply to the next lease's.
        is_certain = self._is_certain and (
            self._preamble is None or self._preamble.isolation is None
        )
        return not (is_certain and self.driver.in_transaction(entry.raw) is False)

    def _commit_failed(self, entry: Entry, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self._lose_outcome(error)
            text = "COMMIT was interrupted: whether it took place is not known"
            reporter.tell(logger.error, text)
            return
        if isinstance(error, PooledDBError) and isinstance(error.__cause__, self.driver.Error):
            error = error.__cause__
        known = (self.driver.Error, PooledDBError)
        if self._state is IN_TRANSACTION and not isinstance(error, known):
            # It may have come after the answer, from who traces the driver's calls.
            self._break(Event.COMMIT_UNANSWERED, error, "its COMMIT ended in an unknown way")
        if self._last_state is not BROKEN:
            if self._state is not RELEASED:
                self._move(Event.COMMIT_REFUSED)  # nothing was committed
            self._cause = error
        elif not self.driver.never_sent(entry.raw, error):
            raise self._lose_outcome(error) from error

    def _lose_outcome(self, error: BaseException) -> CommitOutcomeUnknown:
        self._cause = unknown = refusals.outcome_unknown(error)
        self._home.terms.events.outcome_unknown()
        return unknown
