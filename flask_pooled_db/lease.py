"""The lease: a connection that is lent to a caller, and what is open on it.

A lease is a transaction: it never continues on another connection, nothing it sent is sent again,
and once the server has lost or rolled back its transaction it refuses all further work.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from flask_pooled_db.connection import PooledConnection
from flask_pooled_db.drivers import Failure, Session
from flask_pooled_db.errors import (
    CommitOutcomeUnknown,
    PooledDBError,
    TransactionAborted,
    UsageError,
)
from flask_pooled_db.interrupter import Interrupter

logger = logging.getLogger("flask_pooled_db")


_CURSORS_PER_SWEEP = 256  # how often those that are garbage are forgotten


_COMES_LATE = "a statement of it was interrupted, and the interruption may come late"


class LeasingPool(Protocol):
    """What a lease needs of the pool it came from."""

    def give_back(
        self, con: PooledConnection, discard: str | None, untouched: bool = False
    ) -> None: ...

    def lost_lease(self, con: PooledConnection) -> None: ...

    def release_share(self, con: PooledConnection, *, is_fit: bool = True) -> bool:
        """Whether this was the last share."""

    def share_changed(self) -> None: ...

    def note_leak(self) -> None: ...

    def doubt(self) -> None: ...

    @property
    def interrupter(self) -> Interrupter: ...


class OpenCursor(Protocol):
    """What a lease needs of a cursor that was made from it."""

    driver_cursor: Any


class Lease:
    """A connection lent to a caller, from its checkout to its release. It is for one thread at a
    time, and knows nothing of how the caller sees it.

    Raises `UsageError` for use after release or by two threads at once, and `TransactionAborted`
    for use after its transaction was lost.
    """

    __slots__ = (
        "__weakref__",
        "_busy",
        "_con",
        "_dirty",
        "_discard",
        "_error",
        "_failure",
        "_gone",
        "_held",
        "_is_ready",
        "_isolation",
        "_pending",
        "_pool",
        "_session",
        "cursors",
        "depth",
        "driver",
        "has_committed",
        "is_untouched",
        "owner",
    )

    _con: PooledConnection | None  # None once it is released
    _error: BaseException | None  # why the transaction is gone
    _failure: Failure | None  # the last one since COMMIT or ROLLBACK
    _discard: str | None  # why the connection can't be reused
    _gone: str | None  # why it was, or is to be, taken back from its owner
    _isolation: str | None  # the statement that begins each transaction
    _busy: bool  # a call is on the wire
    _dirty: bool  # a statement was sent since the last COMMIT or ROLLBACK
    _is_ready: bool  # nothing has to come before its next statement
    _pending: list[Savepoint] | None  # to be set before its next statement
    has_committed: bool  # by commit(), before its end
    cursors: dict[int, weakref.ref[OpenCursor]] | None  # by id; open ones, and garbage

    def __init__(
        self,
        pool: LeasingPool,
        con: PooledConnection,
        owner: Any,
        held: Held,
        session: Session,
        depth: int = 0,
    ) -> None:
        self._pool = pool
        self._con = con
        self.driver = con.driver
        self._session = session
        self._error = self._failure = self._discard = self._gone = self._isolation = None
        self._pending = self.cursors = None
        self._busy = self._dirty = self.has_committed = False
        self._is_ready = con.session is session and not con.minds_statements
        self.owner = owner
        self.is_untouched = con.shares == 0  # nothing was done with it: its end is quick
        self.depth = depth  # in how many scopes it is; 1 is the outermost
        self._held = held
        held[self] = None

    # What its caller may ask for

    def commit(self) -> None:
        """Commit. In a nested scope it raises `UsageError`: only the outermost one ends it all.

        Raises `CommitOutcomeUnknown` when the answer to COMMIT was lost.
        """
        self.usable()
        self._only_outermost("commit()")
        if self._dirty:
            self.commit_work()
            self.has_committed = True

    def rollback(self) -> None:
        """Roll back. In a nested scope it raises `UsageError`.

        After the server rolled the transaction back (a deadlock), this acknowledges the loss: the
        lease can be used again. A lost connection stays lost.
        """
        if self._con is None or self._discard is not None or self._busy:
            self.usable()
        self._only_outermost("rollback()")
        self._error = None
        con = self.usable()
        if self._dirty:
            if con.streams or self.driver.has_unread_rows(con.raw):
                self._finish_reading(con)
            self.call(con.roll_back)
            self._clean(con)

    def begin(self) -> None:
        """Nothing but a mark: a transaction begins with its first statement.

        A shared connection is shared with nobody else from here to the end of the transaction.
        """
        con = self.usable()
        if self._dirty:
            raise UsageError("begin() in an open transaction: commit() or rollback() it first")
        con._transaction = True

    def session_changed(self, how: str) -> None:
        """Its caller changed the session in a way that nobody can put back."""
        self._discard_later(f"its session was changed by {how}")

    def __repr__(self) -> str:
        state = "in use" if self._con is not None else "released"
        if self._con is not None and self._error is not None:
            state = "aborted"
        return f"<Lease of a {self.driver.name} connection, {state}>"

    # Every call of the driver that may wait for the server goes through one of these two

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver; note what an error of it means for the transaction."""
        con = self._con
        # usable(), without a call: all that is done with a lease comes by here.
        if con is None or self._error is not None or self._busy or con.is_disowned:
            raise self._refusal(con)
        self.is_untouched = False
        self._busy = True
        try:
            return function(*args)
        except BaseException as error:
            self._failed(con, error)
            raise
        finally:
            self._busy = False
            if self._gone is not None:
                self.release()

    def statement(self, function: Callable[..., Any], *args: Any) -> Any:
        """`call` for what runs SQL: what was put off until the first statement comes first."""
        if not self._is_ready:
            function = self._prepare(function)
        if not self._session.readonly:  # there, each statement is a transaction of its own
            self._dirty = True
        return self.call(function, *args)

    def execute_on(
        self,
        cursor: OpenCursor,
        function: Callable[..., Any],
        operation: Any,
        args: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        """`statement`, by a method of a cursor; the cursor, where the driver answers with its own.

        Nearly all statements come by here.
        """
        driver = self.driver
        if args == (None,):
            args = ()  # "no parameters" for every driver
        if driver.translate and (args or kwargs):
            operation = driver.translate(operation)
        if kwargs:
            function = functools.partial(function, **kwargs)
        # statement(), without a call
        if not self._is_ready:
            function = self._prepare(function)
        if not self._session.readonly:
            self._dirty = True
        result = self.call(function, operation, *args)
        if driver.is_streaming and driver.is_streaming(cursor.driver_cursor):
            self.usable().streams.append(cursor)
        return cursor if result is cursor.driver_cursor else result

    def note_cursor(self, cursor: OpenCursor) -> None:
        """Have a cursor closed at the end of the lease, if it is open by then."""
        known = self.cursors
        if known is None:
            known = self.cursors = {}
        known[id(cursor)] = weakref.ref(cursor)
        if len(known) % _CURSORS_PER_SWEEP == 0:
            self.cursors = {id_: cursor for id_, cursor in known.items() if cursor() is not None}

    def close_cursor(self, cursor: OpenCursor) -> None:
        """Close a driver's cursor, where the lease is not over, and forget it."""
        con = self._con
        if con is None or self._error is not None or con.is_disowned:  # is_over, without a call
            return
        driver = self.driver
        if self._busy or driver.has_to_close_cursors or driver.has_unread_rows(con.raw):
            self.call(cursor.driver_cursor.close)
            self.has_read(cursor)
            if self.cursors:
                self.cursors.pop(id(cursor), None)
        else:  # nothing is left to be said to the server
            cursor.driver_cursor.close()

    def _prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Do what comes before a statement. Returns what to call for it."""
        con = self.usable()
        if con.pings_on_query:
            self.check_by_ping(con)
        begins = self._isolation is not None and not self._dirty
        if con.session is not self._session or self._pending or begins:
            self.call(self._catch_up, con)
        con.count_statement()
        self._is_ready = not con.minds_statements
        return functools.partial(self._limited, con, function) if con.is_limited else function

    def _limited(self, con: PooledConnection, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver in the time that a statement may take; what takes longer fails."""
        driver = self.driver
        limit = self._pool.interrupter.limit(con, self._session.statement_timeout)
        try:
            with limit:
                result = function(*args)
        except driver.Error as error:
            if driver.is_interruption(error):
                told = driver.time_is_up(limit.seconds, error)
                if told is not error:
                    raise told from error
            elif limit.was_interrupted:
                self._discard_later(_COMES_LATE)
            raise
        if not limit.was_exceeded:
            return result
        if limit.was_interrupted:
            self._discard_later(_COMES_LATE)
        raise driver.time_is_up(limit.seconds)

    def _catch_up(self, con: PooledConnection) -> None:
        if con.session != self._session:
            self.driver.apply_session(con.raw, con.session, self._session)
        if con.session is not self._session:
            con.enter_session(self._session)
        if con.is_limited and con.identity is None:
            con.identity = self.driver.identity(con.raw)
        if self._isolation is not None and not self._dirty:
            self._dirty = True
            self.driver.execute(con.raw, self._isolation)
        for savepoint in self._pending or ():
            self._dirty = True
            self.driver.begin(con.raw)
            self.driver.execute(con.raw, f"SAVEPOINT {savepoint.name}")
            savepoint.is_set = True
        self._pending = None

    def usable(self) -> PooledConnection:
        """The connection, where it may be used; else the error that says why it may not."""
        con = self._con
        if con is not None and self._error is None and not self._busy and not con.is_disowned:
            return con
        raise self._refusal(con)

    def _refusal(self, con: PooledConnection | None) -> PooledDBError:
        if con is None:
            what = self._gone or "was released"
            return UsageError(
                f"this connection {what}: nothing can be done with it or with its cursors; "
                "do the work inside the block that took it, or take another one"
            )
        if con.is_disowned:
            return UsageError(
                "this connection was taken before a fork: it is the parent process's, and nothing "
                "can be done with it here; take another one"
            )
        if self._error is None:
            return UsageError(
                "this connection is in use by another thread, task or greenlet at this moment: "
                "each needs a connection of its own"
            )
        error: PooledDBError
        if isinstance(self._error, CommitOutcomeUnknown):
            error = _outcome_unknown()
            error.__cause__ = self._error.__cause__
            return error
        error = TransactionAborted(
            "the transaction of this connection is gone "
            f"({type(self._error).__name__} before this): nothing of it was or will be "
            "committed; let the error leave the block, and start over if need be"
        )
        error.__cause__ = self._error
        return error

    def _failed(self, con: PooledConnection, error: BaseException) -> None:
        failure = Failure.LOST
        if isinstance(error, PooledDBError):
            failure = Failure.STATEMENT  # refused before anything was sent
        elif isinstance(error, Exception):
            try:
                failure = self.driver.classify(con.raw, error)
            except Exception:
                logger.debug("Classifying an error failed", exc_info=True)
        if failure in (Failure.LOST, Failure.UNUSABLE):
            self._discard_later(failure.value)
            if isinstance(error, self.driver.Error):
                self._pool.doubt()
        self._failure = failure
        if failure is not Failure.STATEMENT:
            self._error = error

    def check_by_ping(self, con: PooledConnection) -> None:
        """Raise where the server does not answer."""
        # DBUtils too leaves a transaction alone. It would swap a dead connection; a lease keeps
        # its own to the end.
        if not self._dirty and not con.is_alive(con._connect_timeout):
            error = TransactionAborted("the connection did not answer a ping")
            self._discard_later("it did not answer a ping")
            self._failure = Failure.LOST
            self._error = error
            raise error

    def _discard_later(self, reason: str) -> None:
        self.is_untouched = False
        self._discard = self._discard or reason

    def _only_outermost(self, what: str) -> None:
        if self.depth > 1:
            raise UsageError(
                f"{what} inside a nested db_connection_context(): it would end the outer block's "
                "transaction too; let the blocks end, or use independent=True"
            )

    def _clean(self, con: PooledConnection) -> None:
        self._dirty = False
        self._failure = None
        if self._isolation is not None:  # to be set for the next transaction too
            self._is_ready = False
        con._transaction = False
        if con.shares:
            self._pool.share_changed()

    # For scopes

    @property
    def is_over(self) -> bool:
        """Whether it was released, or its transaction is gone."""
        return self._error is not None or self._con is None or self._con.is_disowned

    @property
    def session(self) -> Session:
        return self._session

    def set_session(self, session: Session) -> None:
        """The session state that the next statement is to find."""
        self._session = session
        self._is_ready = False

    def may_start_over(self, error: Exception) -> bool:
        """Whether the whole transaction is gone for a reason that another try may not meet."""
        gone = self._failure in (Failure.LOST, Failure.UNUSABLE, Failure.ROLLED_BACK)
        if isinstance(error, TransactionAborted):
            return gone
        return isinstance(error, self.driver.Error) and (gone or self.driver.is_retryable(error))

    def begin_with(self, level: str) -> None:
        """Give each transaction of this lease this isolation level."""
        self._isolation = self.driver.isolation_statement(level)
        self._is_ready = False

    def doom(self, error: BaseException) -> None:
        """Refuse all further work: `error` has left a part of the transaction."""
        self.is_untouched = False
        self._error = self._error or error

    def commit_work(self) -> None:
        """COMMIT, where there may be anything to commit; raise where that can't be done."""
        con = self._con
        if con is None:
            what = self._gone or "was released"
            raise TransactionAborted(
                f"this connection {what} before the end of its scope: what it had not "
                "committed by then was rolled back"
            )
        if not self._dirty and self._error is None:
            return
        if self._error is not None or self._busy or con.is_disowned:  # usable(), without a call
            raise self._refusal(con)
        driver = self.driver
        if driver.tells_transactions and not self._has_transaction(con):
            self._clean(con)
            return
        if con.streams or driver.has_unread_rows(con.raw):
            self._finish_reading(con)
        if con.look() > 0:
            self._discard_later("the server had closed it")
            self._failure = Failure.LOST
            self._error = TransactionAborted(
                "the server closed the connection before COMMIT was sent: nothing was committed"
            )
            raise self._error
        try:
            self.call(con.raw.commit)
        except BaseException as error:
            self._commit_failed(error)
            raise
        self._clean(con)

    def _has_transaction(self, con: PooledConnection) -> bool:
        """Whether there may be something to commit; raises where the server would not."""
        if self.driver.refuses_commit(con.raw):
            self._error = TransactionAborted(
                "a statement of this transaction failed and was not rolled back to a savepoint: "
                "the server would turn COMMIT into ROLLBACK"
            )
            raise self._error
        # An isolation level that no transaction came of would wait for the next lease's.
        certain = self._failure is None and self._isolation is None
        return not (certain and self.driver.in_transaction(con.raw) is False)

    def _commit_failed(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self._error = _outcome_unknown()
            self._error.__cause__ = error
            logger.error("COMMIT was interrupted: whether it took place is not known")
        elif self._failure is not Failure.LOST:
            self._error = error  # the server refused: nothing was committed
        elif not self.driver.never_sent(error):
            self._error = _outcome_unknown()
            raise self._error from error

    def _finish_reading(self, con: PooledConnection) -> None:
        """Read what a streaming cursor has left, so that COMMIT can be sent."""
        self._discard_later("it was released with unread rows")
        for cursor in self._open_cursors():
            self.call(cursor.driver_cursor.close)
        self.call(self.driver.finish_reading, con.raw)

    def has_read(self, cursor: OpenCursor) -> None:
        """Take note that a cursor has no more rows to read."""
        if self._con is not None and self._con.streams:
            self._con.streams = [other for other in self._con.streams if other is not cursor]

    def _open_cursors(self) -> list[OpenCursor]:
        known = (self.cursors or {}).values()
        return [cursor for reference in known if (cursor := reference()) is not None]

    def set_savepoint(self, savepoint: Savepoint) -> None:
        """Have a savepoint before the next statement, if there is one."""
        self._pending = [*(self._pending or ()), savepoint]
        self._is_ready = False

    def end_savepoint(self, savepoint: Savepoint, *, roll_back: bool) -> None:
        """Release a savepoint, or undo what came after it."""
        if not savepoint.is_set:
            pending = self._pending or ()
            self._pending = [other for other in pending if other is not savepoint]
            return
        con = self.usable()
        verb = "ROLLBACK TO SAVEPOINT" if roll_back else "RELEASE SAVEPOINT"
        self.call(self.driver.execute, con.raw, f"{verb} {savepoint.name}")

    # The end

    def release(self) -> None:
        """Give the connection back, exactly once, whatever happens; roll back what is open."""
        if self._held.pop(self, self) is self:
            return
        con = self._con
        assert con is not None  # noqa: S101  for the type checker: it was held
        self._con = None
        if con.is_disowned:
            return
        if self.is_untouched:
            self._pool.give_back(con, None, True)
            return
        is_shared = con.shares > 0
        if is_shared and not self._pool.release_share(con, is_fit=self._discard is None):
            return
        discard: str | None = "it was interrupted while being given back"
        try:
            # After COMMIT there is most often nothing to do.
            roll_back = self._dirty or is_shared
            if roll_back or self._discard is not None or self.cursors or self._session.readonly:
                self._tidy(con, roll_back)
            if self._discard is None and not self.driver.is_intact(con.raw, con.session):
                self._discard = "its autocommit mode was changed"
            discard = self._discard
        finally:
            self._pool.give_back(con, discard)

    def _tidy(self, con: PooledConnection, roll_back: bool) -> None:
        """Leave nothing open on the connection for the next lease, or see to its discard."""
        if (
            self._discard is None
            and (roll_back or self._session.readonly)  # COMMIT comes after the last row
            and (con.streams or self.driver.has_unread_rows(con.raw))
        ):
            self._discard = "it was released with unread rows"
        if self._discard is not None:
            self.driver.cut(con.raw)  # no cursor is to read on, no server to wait for
        try:
            self._close_cursors()
            con.streams.clear()
            if self._discard is None and roll_back:
                con.roll_back()
        except Exception as error:  # noqa: BLE001  the caller is to see its own error, not this
            logger.warning(
                "Rolling back a connection failed (%s); it is discarded, and the server rolls "
                "back by itself",
                type(error).__name__,
            )
            self._discard = "its rollback failed"

    def _close_cursors(self) -> None:
        for cursor in self._open_cursors():
            try:
                cursor.driver_cursor.close()
            except Exception as error:  # noqa: BLE001  the connection pays for it
                if self._discard is None:
                    self._discard = f"closing a cursor failed ({type(error).__name__})"

    def lost(self) -> None:
        """Tell the pool that nobody can give it back any more."""
        if self._con is not None and not self._con.is_disowned:
            self._pool.lost_lease(self._con)

    def take_back(self, reason: str) -> None:
        """Release it on behalf of an owner that won't; a call on the wire ends first."""
        self.is_untouched = False
        self._gone = reason
        self._pool.note_leak()
        if self._busy:
            self._discard_later(reason)
            if not self._busy and self._con is not None:  # the call ended just now
                self.release()
        else:
            self.release()


class Held(dict[Lease, None]):
    """Leases that somebody holds: an app context, or the holder of a single one.

    Each is in it from its checkout to its release, and who takes it out of it releases it.
    """

    def __del__(self) -> None:
        # Only when it is garbage with all its leases, of which nobody gave these back.
        for lease in self:
            lease.lost()


def _outcome_unknown() -> CommitOutcomeUnknown:
    return CommitOutcomeUnknown(
        "COMMIT was sent and its answer was lost: the transaction took place as a whole or not "
        "at all; look at the data before doing it again"
    )


class Savepoint:
    """A savepoint of a nested scope, set when the scope's first statement comes."""

    __slots__ = ("is_set", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_set = False
