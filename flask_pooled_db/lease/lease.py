"""The lease: a connection that is lent to a caller, and the transaction on it.

A lease is a transaction: it never continues on another connection, nothing it sent is sent again,
and once the server has lost or rolled back its transaction it refuses all further work.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, ClassVar

from flask_pooled_db.drivers import Session
from flask_pooled_db.drivers.effects import Effect
from flask_pooled_db.errors import PooledDBError, TransactionAborted
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.after_commit import AfterCommit
from flask_pooled_db.lease.fate import NOTHING_TOLD
from flask_pooled_db.lease.home import Alone, Home, Leases, OpenCursor, OpenCursors
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.preamble import Part, enter_session
from flask_pooled_db.lease.state import (
    AFTER_CALL,
    AFTER_READ,
    AFTER_STATEMENT,
    Event,
    State,
)
from flask_pooled_db.lease.tidy import tidy
from flask_pooled_db.lease.timing import Timing
from flask_pooled_db.pool import Entry, evictions, reports
from flask_pooled_db.pool.holding import Hold
from flask_pooled_db.pool.state import Terms
from flask_pooled_db.runtime import callers, guard

logger = logging.getLogger("flask_pooled_db")

UNUSED, IDLE, IN_TRANSACTION, BUSY, ROLLED_BACK, ABORTED, BROKEN, RELEASED = State
PLAIN = Effect.NONE


class Lease(Timing):
    """A connection lent to a caller, from its checkout to its release.

    It is for one thread at a time. Its state decides what a call may do: see `state`.

    Raises `UsageError` for use after release or by two threads at once, and `TransactionAborted`
    for use after its transaction was lost.
    """

    __slots__ = (
        "__weakref__",
        "_cursors",
        "_ended",
        "_holder",
        "_in_scope",
        "after_commit",
        "cursor_settings",
        "has_committed",
        "hold",
        "line",
        "owner",
        "unread",
        "wanted_rows",
    )

    # Set by the class that is made for a driver's connections
    cursor_class: ClassVar[Any]  # of cursors that are made without arguments
    streaming_class: ClassVar[Any]  # of those whose rows the server sends as they are fetched
    named_class: ClassVar[Any]  # of PostgreSQL's, which run their statement as they are read

    place: callers.Place | None = None  # where it was taken, if that is known
    taker: str | None = None  # who took it, if that is known

    _cursors: OpenCursors | None
    after_commit: AfterCommit | None  # what its callers want to be called then
    line: Any  # of the calls that tasks make; not set before the first
    # As in `Part`; both are unset where all rows are as the driver makes them.
    wanted_rows: Any
    cursor_settings: Any
    hold: Hold | None  # set where holders are known; None once it is released
    unread: dict[int, Any]  # set where statements are observed: whose rows are being counted

    def __init__(
        self,
        home: Home,
        entry: Entry,
        owner: Any,
        holder: Leases,
        session: Session,
        in_scope: bool = False,
    ) -> None:
        self._state = self._before = UNUSED
        self._home = home
        self._entry = entry
        self.driver = entry.driver
        self._session = session
        self._is_ready = entry.ready_session is session  # nothing comes before its next statement
        self._is_certain = True  # no statement failed, so what the driver says is up to date
        self._in_scope = in_scope  # which ends it
        self._cause = self._revoked = self._preamble = self._cursors = None
        self._doom = self.after_commit = None
        self._told = NOTHING_TOLD
        self.has_committed = False  # by commit(), before its end
        self.owner = owner
        self._holder = holder
        holder[self] = None

    def session_changed(self, how: str) -> None:
        """Note that the caller changed the session in a way that cannot be undone."""
        self._condemn(evictions.changed_by(how))

    def __repr__(self) -> str:
        state = "aborted" if self._state in (ROLLED_BACK, ABORTED, BROKEN) else "in use"
        state = "released" if self._state is RELEASED else state
        return f"<Lease of a {self.driver.name} connection, {state}>"

    # Every call of the driver that may wait for the server goes through `call`

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver; note what an error of it means for the transaction."""
        after = AFTER_CALL[self._state]
        if after is None:
            raise self._refusal()
        if guard.is_inside():
            raise reports.inside()
        try:
            self._state = BUSY
            result = function(*args)
            if self._state is BUSY:  # else it was aborted in the meantime
                self._state = after
        except BaseException as error:
            before = after if self._state is BUSY else self._state
            self._state = BROKEN  # until the error is understood: that may be interrupted as well
            self._failed(error, before, args[0] if args else None)
            reason = None if self._preamble is None else self._reason(error)
            if reason is not None:
                raise reason from error
            raise
        if self._revoked is not None:
            self.release()
        return result

    def statement(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver with SQL: whatever was put off until the next statement comes first.

        The first of `args` is its text; without any it is not known.
        """
        self._before = self._state
        if not self._is_ready:
            function = self._prepare(function)
        if not args or self.driver.effects(args[0]) is not PLAIN:
            return self.watched(function, *args)
        return self.sent(function, *args)

    def script(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver with a script."""
        return self.statement(function, *args)

    def way_of(self, name: str) -> Callable[..., Any]:
        """Return by which of these a driver's method of this name is to be called."""
        driver = self.driver
        if name in driver.scripts:
            return self.script
        if name in driver.harmless:
            return self.fetch
        return self.rows_only if name in driver.rows_only else self.statement

    def rows_only(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement that is known to do nothing but read and write rows."""
        self._before = self._state
        if not self._is_ready:
            function = self._prepare(function)
        return self.sent(function, *args)

    def watched(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement that may do more than read and write rows."""
        return self.sent(function, *args)

    def sent(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement for which all is ready."""
        after = (AFTER_READ if self._session.readonly else AFTER_STATEMENT)[self._state]
        if after is not None:
            self._state = after
        return self.call(function, *args)

    fetch = call
    """Call the driver for what a statement has left: its rows, its other results, their end."""

    def usable(self) -> Entry:
        """Return the connection if it may be used, else raise the error that says why not."""
        entry = self._entry
        if entry is None or self._state > IN_TRANSACTION:
            raise self._refusal()
        return entry

    def touch(self) -> Entry:
        """Return the connection like `usable()`, and note that something is done with it."""
        after, entry = AFTER_CALL[self._state], self._entry
        if after is None or entry is None:
            raise self._refusal()
        self._state = after
        return entry

    def lends(self, entry: Entry) -> bool:
        """Return whether this is the lease of a connection."""
        return self._entry is entry

    def is_of(self, raw: Any) -> bool:
        """Return whether this is the lease of a driver's connection."""
        return self._entry is not None and raw is self._entry.raw

    def _refusal(self) -> PooledDBError:
        return refusals.refusal(self.driver, self._state, self._cause, self._revoked)

    def _prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Do what comes before a statement. Returns what to call for it."""
        entry = self.usable()
        if seconds := entry.origin.config.transaction_timeout:
            self._check_age(entry, seconds)
        if entry.origin.ping.on_query:
            self.check_by_ping()
        preamble, is_open = self._preamble, self._state is IN_TRANSACTION
        due: list[Part] = []
        if preamble is not None:
            is_owner = self.owner == current_owner()
            due, self._session = preamble.before_statement(is_owner=is_owner)
        wanted = self._session
        if preamble is not None and preamble.watch is not None:
            wanted = self._in_time(entry, preamble.watch, wanted)
        if entry.session is not wanted and self.call(enter_session, entry, wanted):
            self._state = IN_TRANSACTION
        if preamble is not None and (due or (preamble.isolation is not None and not is_open)):
            self._state = IN_TRANSACTION
            self.call(functools.partial(preamble.send, entry, due, is_open=is_open))
        entry.count_use()
        self._is_ready = entry.ready_session is self._session and not (
            preamble is not None and preamble.is_needed
        )
        return function

    def check_by_ping(self) -> None:
        """Raise if the server does not answer. DBUtils too leaves an open transaction alone; it
        would replace a dead connection, while a lease keeps its own to the end.
        """
        entry = self.usable()
        seconds = entry.origin.config.connect_timeout
        if self._state is IN_TRANSACTION or entry.streams:
            return  # a stream that is being read is an answer
        if not entry.answers(seconds):
            error = TransactionAborted(refusals.NO_PING)
            self._break(Event.LOST_CONNECTION, error, "it did not answer a ping")
            raise error

    def innermost(self) -> Part | None:
        """Return the nested scope that the caller is in; None if it is the outermost one."""
        if self._preamble is None:
            return None
        return self._preamble.look(is_owner=self.owner == current_owner())

    def work_in(self, part: Part | None) -> Part | None:
        """Have what comes next belong to this part, or to `ANYWHERE`: to the one on the stack.
        Returns what it belonged to before.
        """
        if self._preamble is None:
            return part
        before, self._preamble.working_in = self._preamble.working_in, part
        return before

    @property
    def is_gone(self) -> bool:
        """Whether it has no connection any more, or a lost one."""
        return self._entry is None or self._state is BROKEN

    @property
    def terms(self) -> Terms:
        """What its pool was made from."""
        return self._home.terms

    def uncommitted(self) -> str | None:
        """Return the first statement that its end would undo, if that is known."""
        return None

    @property
    def state(self) -> State:
        """What it is in."""
        return self._state

    @property
    def session(self) -> Session:
        """The session state that its next statement is to find."""
        return self._session

    def _open_cursors(self) -> list[OpenCursor]:
        return [] if self._cursors is None else self._cursors.all()

    # The end

    def release(self) -> None:
        """Return the connection, exactly once, whatever happens; roll back what is open."""
        if self._holder.pop(self, self) is self:
            return
        entry, self._entry = self._entry, None
        self._ended = ended = self._state
        self._state = RELEASED
        if entry is None:
            return  # for the type checker: it was held
        if guard.is_inside():  # nothing may wait here: the pool will find it
            entry.link.reason = "its lease ended while its thread was at work inside the pool"
            self._cause = self._doom = None
        elif ended is UNUSED:
            self._home.release(entry, True)  # by place: a keyword takes each empty block time
        else:
            if ended is not IDLE:
                self._tell_end(entry, ended)
            self._cause = self._doom = None  # their frames refer to this lease
            if entry.is_garbage:  # others close it
                self._home.release(entry, unused=True)
            else:
                self._give_back(entry, ended)

    def _give_back(self, entry: Entry, state: State) -> None:
        """Return the connection of a lease that ended in this state, fit for the next one."""
        try:
            if self._cursors is not None and self._cursors.entered:
                entry.condemn("a block of its driver's was entered and not left")
            # After COMMIT there is most often nothing left to do.
            if state is not IDLE or entry.condemned or self._cursors or self._session.readonly:
                readonly = self._session.readonly
                tidy(entry, state, self._open_cursors(), self.undoing(), readonly=readonly)
            driver = self.driver
            if driver.forget:
                driver.forget(entry.raw)
            entry.is_changed = entry.is_changed or driver.has_changed(entry.raw)
            if entry.condemned is None and not driver.is_intact(entry.raw, entry.session):
                entry.condemn(evictions.OTHER_STATE)
        except Exception as error:  # noqa: BLE001  the caller must see its own error, not this one
            entry.condemn("its state could not be told")
            logger.debug("Returning a connection failed: %s", type(error).__name__)
        except BaseException:
            entry.condemn("it was interrupted while being returned")
            raise
        finally:
            self._home.release(entry)

    def revoke(self, reason: str, *, is_leak: bool = True) -> None:
        """Release the lease on behalf of an owner that will not. A call under way ends first.

        One that is no leak is released as its owner would.
        """
        if self._state is UNUSED:
            self._state = IDLE  # its owner may be doing something with it
        if is_leak:
            self._revoked = reason
            self._home.terms.events.leaked(self.place)
        if self._state is BUSY:
            self._revoked = reason
            self._condemn(reason)
            if self._state is BUSY:
                return  # the end of the call releases it
        self.release()
        self._revoked = reason

    def outlive_holder(self) -> None:
        """Stay with its user, when its app context has ended, and be garbage once that drops it."""
        holder, self._holder = self._holder, Alone()  # first: its user may be releasing it
        holder.pop(self, None)

    def inherit(self) -> None:
        """In a forked child, refuse everything: the connection is the parent's."""
        self._holder.pop(self, None)
        self._ended = self._state
        self._entry, self._state, self._revoked = None, RELEASED, refusals.INHERITED
