"""The scope: a block that is a transaction, or a part of one."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, cast

from flask_pooled_db.config import DEFAULT_OPTIONS, ScopeOptions
from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import (
    inheritance,  # noqa: F401  takes part in forks
    refusals,
)
from flask_pooled_db.lease.classes import class_for
from flask_pooled_db.lease.enclosing import ENTERING, SUSPENDS, enclosing, holder_of, place_of
from flask_pooled_db.lease.holdings import explain
from flask_pooled_db.lease.home import Home, Leases
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.preamble import Part
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.shaping import able_to_shape, rows_of, shape_rows
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Engine, Entry
from flask_pooled_db.pool.opened import NotOpen, Ticket, Unopened
from flask_pooled_db.pool.replica import acquire_to_read
from flask_pooled_db.runtime import reporter

logger = logging.getLogger("flask_pooled_db")


class OpenScopes(dict["weakref.ref[Scope]", None]):
    """The scopes that a thread, task or greenlet has open, in the order it entered them.

    Weak: a scope that an interruption has kept from being left must not enclose what comes later.
    A set that is changed in place takes half the time of a context variable that is set twice.
    """

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        # The context of a task refers to this, so that this must not refer to the task.
        self.owner = owner if isinstance(owner, int) else weakref.ref(owner)

    def are_of(self, owner: Any) -> bool:
        """Return whether they are this owner's."""
        return self.owner == owner or (not isinstance(self.owner, int) and self.owner() is owner)

    def newest_first(self) -> list[Scope]:
        """Return those that are open, and forget the others: an abandoned generator may never
        leave its own.
        """
        found = []
        for reference in list(self)[::-1]:
            scope = reference()
            if scope is not None and scope.is_open:
                found.append(scope)
            else:
                self.pop(reference, None)
        return found


# Contexts that are copied share it. So it may be that of the owner whose context was copied.
_open_scopes: ContextVar[OpenScopes | None] = ContextVar("flask_pooled_db_scopes", default=None)


def scopes_of(owner: Any) -> OpenScopes:
    """Return the open scopes of the caller, who is this owner."""
    scopes = _open_scopes.get()
    if scopes is None or not scopes.are_of(owner):
        scopes = OpenScopes(owner)
        _open_scopes.set(scopes)
    return scopes


class Scope:
    """The block of `db_connection_context()`. It can be entered once.

    Left normally it commits, left by an exception it rolls back, and either way it releases its
    connection. Inside another scope of the same pool and the same thread, task or greenlet it is
    a part of that scope's transaction instead.
    """

    __slots__ = (
        "__weakref__",
        "_finished",
        "_holder",
        "_joined",
        "_lease",
        "_part",
        "_pool",
        "_reference",
        "_scopes",
        "frame",
        "options",
        "place",
    )

    frame: FrameType | None  # of the generator or coroutine that it is in, while it is open
    _holder: Leases | None  # None once it was entered
    _lease: LeaseConnection | None  # None unless it is open
    _part: Part | None  # None if it did not join another scope
    _joined: Scope  # only if it did
    place: tuple[str, int] | None  # where it was entered, if a message may need it
    _scopes: OpenScopes  # of its owner, this one among them while it is open
    _reference: weakref.ref[Scope]  # to itself, as it is there
    _finished: tuple[str, int] | None  # where a block that has ended well had joined it

    def __init__(
        self, pool: Engine | Unopened, holder: Leases, options: ScopeOptions = DEFAULT_OPTIONS
    ) -> None:
        if options is not DEFAULT_OPTIONS:
            options.check()
        # Until it is entered, a bind need not be open. It fails, and is opened, when it is used.
        self._pool = cast("Engine", pool)
        self._holder = holder
        self.options = options
        self._lease = self._part = self.place = self._finished = self.frame = None

    @property
    def is_open(self) -> bool:
        """Whether it was entered and not left, and its lease was not taken from it."""
        lease = self._lease
        return lease is not None and lease.state is not State.RELEASED

    def __enter__(self) -> LeaseConnection:
        holder, self._holder = self._holder, None
        if holder is None:
            raise UsageError("a db_connection_context() can be entered once: make a new one")
        code = sys._getframe(1).f_code
        if code.co_flags & SUSPENDS or code.co_name in ENTERING:  # most often it is a function
            frame = sys._getframe(1)
            self.frame, self.place = holder_of(frame), place_of(frame)
        owner, pool = current_owner(), self._pool
        scopes = _open_scopes.get()
        if scopes is None or scopes.owner != owner:  # a task's and a greenlet's never is
            scopes = scopes_of(owner)
        self._scopes = scopes
        self._reference = reference = weakref.ref(self)
        joined = entry = lease = None
        try:
            if scopes:
                joined = self._look_around(owner, sys._getframe(1))
            if joined is not None:
                self._join(joined)
                lease = joined
            elif self.options is DEFAULT_OPTIONS:  # most often
                session = pool.usual_session
                entry = pool.acquire(None, session)
                make = entry.lease_class or class_for(entry, pool.lease_classes)
                lease = make(pool, entry, owner, holder, session, True)
            else:
                lease = self._borrow(owner, holder)
            self._lease = lease
            scopes[reference] = None
            return lease  # noqa: TRY300  an interruption may come before each line
        except BaseException as error:
            self._take_back(joined)
            if joined is None:
                _give_back(pool, entry, lease, holder)
                explain(error, pool, holder)
            if not isinstance(error, NotOpen):
                raise
            open_bind = error.open
        return self._enter_by_name(open_bind, owner, holder, sys._getframe(1))

    def _enter_by_name(
        self,
        open_bind: Callable[..., Ticket],
        owner: Any,
        holder: Leases,
        frame: FrameType,
    ) -> LeaseConnection:
        """Enter a block whose bind is not open, or was closed after it had been looked up."""
        spent = 0.0  # of the time that the caller waits
        while True:
            ticket = open_bind(self.options.timeout, spent)
            pool = self._pool = ticket.pool.engine
            joined = lease = None
            spent, began = ticket.spent, monotonic()
            try:
                if self._scopes:
                    joined = self._look_around(owner, frame)
                if joined is not None:
                    self._join(joined)
                    lease = joined
                else:
                    lease = self._borrow(owner, holder, ticket.timeout)
                self._lease = lease
                self._scopes[self._reference] = None
                return lease  # noqa: TRY300  as above
            except BaseException as error:
                del ticket  # whoever keeps the error must not keep the bind open
                self._take_back(joined)
                if joined is None:
                    _give_back(pool, None, lease, holder)
                    explain(error, pool, holder)
                if not isinstance(error, NotOpen):
                    raise
                open_bind, spent = error.open, spent + monotonic() - began

    def _look_around(self, owner: Any, frame: FrameType) -> LeaseConnection | None:
        """Return the lease of the nearest scope around this one that is the caller's own."""
        open_scopes = self._scopes.newest_first()
        if not open_scopes:
            return None
        self.place = self.place or place_of(frame)
        around = enclosing(open_scopes)
        if around and self.frame is None:
            self.frame = around[0].frame
        if self.options.independent:
            return None
        for scope in around:
            if scope.is_of(self._pool, owner):
                self._joined, self._pool = scope, scope._pool
                return scope._lease
        return None

    def holds(self, lease: object) -> bool:
        """Return whether this is the outermost scope of a lease."""
        return self._lease is lease and self._part is None

    def is_of(self, pool: Engine | Unopened, owner: Any) -> bool:
        """Return whether it is an owner's, on a connection of a pool, or of an earlier one of the
        same bind.
        """
        lease, own = self._lease, self._pool
        is_same = own is pool or own.key == pool.key
        return lease is not None and is_same and lease.owner == owner

    def _borrow(self, owner: Any, holder: Leases, timeout: float | None = None) -> LeaseConnection:
        """Take a connection as the options want it, in `timeout` seconds, or as they say too."""
        pool, options = self._pool, self.options
        timeout = options.timeout if timeout is None else timeout
        session = pool.session(options.readonly, options.statement_timeout)
        home: Home = pool
        entry = lease = None
        try:
            if options.readonly:
                home, entry = acquire_to_read(pool, timeout, session)
            else:
                entry = pool.acquire(timeout, session)
            make = entry.lease_class or class_for(entry, pool.lease_classes)
            lease = make(home, entry, owner, holder, session, True)
            if options.rows is not None or home is not pool:  # which may be a replica
                shape_rows(lease, rows_of(pool, options))
            if options.isolation_level is not None:
                lease.begin_with(options.isolation_level)
            return lease  # noqa: TRY300  as above
        except BaseException:
            _give_back(home, entry, lease, holder)
            raise

    def _take_back(self, joined: LeaseConnection | None) -> None:
        """Undo what an `__enter__` that failed did to the scopes around it."""
        if joined is not None and self._part is not None:
            joined.leave_scope(self._part)
        self._scopes.pop(self._reference, None)
        self._lease = self.frame = None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease, part = self._lease, self._part
        if lease is None:
            raise UsageError("this db_connection_context() is not entered, or was left already")
        try:
            self._scopes.pop(self._reference, None)
            self._lease = self.frame = None
            if exc is not None and self._finished is not None:
                self._tell_undone(lease, self._finished, exc)
            if part is None:
                lease.finish(exc)
                if lease.after_commit is not None:
                    lease.after_commit.run()
            else:
                self._end_nested(lease, part, exc)
        except BaseException as error:  # also one that comes between two lines
            if part is None:
                lease.release()
                if lease.after_commit is not None:
                    lease.after_commit.run()  # what a commit() by hand has made due
            elif not lease.is_over and error is not part.failure:
                lease.abort(error)
            raise

    def may_start_over(self, lease: LeaseConnection, error: Exception) -> bool:
        """Return whether the same work can be done in a new scope after this error has left it."""
        if self._part is None and lease.may_have_committed:
            return False  # a part of the work is there to stay
        if self._part is not None and lease.is_over:
            return False  # more than this scope is lost
        return lease.may_start_over(error)

    # A scope inside another

    def _join(self, lease: LeaseConnection) -> None:
        options = self.options
        if options.isolation_level is not None:
            raise UsageError(
                "isolation_level in a nested db_connection_context(): the transaction has begun; "
                "set it on the outermost block, or use independent=True"
            )
        outer = self._joined._part
        session = lease.session_of(outer)
        if options.readonly and not session.readonly:
            raise UsageError(
                "readonly=True in a db_connection_context() that writes: the block is a part of "
                "its transaction; leave it out, or use independent=True"
            )
        # In a readonly scope each statement is on its own, and there is nothing to roll back.
        has_savepoint = options.savepoint and not session.readonly
        if options.statement_timeout is not None:
            session = session._replace(statement_timeout=options.statement_timeout)
        rows = rows_of(self._pool, options)
        if rows != "tuple":
            able_to_shape(lease)
        self._part = Part(outer, self.frame, session, has_savepoint=has_savepoint, rows=rows)
        lease.enter_scope(self._part)

    def _end_nested(self, lease: LeaseConnection, part: Part, exc: BaseException | None) -> None:
        refusal = lease.why_not_ended(part)
        if exc is None and not refusal and lease.finish_part(part) and part.failure is not None:
            self._end_nested(lease, part, part.failure)  # as if it had left the block
            raise part.failure
        lease.leave_scope(part)
        if exc is not None and lease.after_commit is not None:
            lease.after_commit.undone(part)
        is_readonly = lease.session.readonly
        if refusal is not None:  # nothing is sent to undo it
            lease.abort(refusal)
            if exc is None:
                raise refusal
        elif exc is None:
            if lease.state is State.RELEASED and not is_readonly:
                lease.usable()  # raises: nobody else tells that this block's work was rolled back
            lease.end_savepoint(part, roll_back=False)
            self._joined._finished = self._joined._finished or self.place
        elif not part.has_savepoint:
            if not is_readonly:
                lease.abort(exc)
        elif part.set_as and lease.can_be_undone:
            self._undo(lease, part, exc)

    def _undo(self, lease: LeaseConnection, part: Part, exc: BaseException) -> None:
        """Roll back to the savepoint; where that is not enough, or too much, abort it all."""
        # The garbage collector may close a generator in any thread, in the middle of anything.
        is_ours = lease.state is not State.BUSY and lease.owner == current_owner()
        if part.is_mixed or not is_ours:
            lease.abort(refusals.not_alone(self.place, exc))
            return
        try:
            lease.end_savepoint(part, roll_back=True)
        except Exception as error:  # noqa: BLE001  the caller must see its own error
            lease.abort(error)
            reporter.tell(
                logger.warning,
                "Rolling back to a savepoint failed (%s): the outer transaction is aborted",
                type(error).__name__,
            )

    def _tell_undone(
        self, lease: LeaseConnection, finished: tuple[str, int], exc: BaseException
    ) -> None:
        """Log what is lost with a generator that was not exhausted: whoever closed it sees no
        error.
        """
        if isinstance(exc, GeneratorExit) and lease.state > State.IDLE:
            reporter.tell(
                logger.error,
                "The generator that holds the block %s was closed before its end: what it had not "
                "committed is rolled back, and with it what the block %s did, which had ended "
                "without an error. Exhaust the generator, or give one of them independent=True",
                refusals.at(self.place),
                refusals.at(finished),
            )


def enclosing_lease(pool: Engine | Unopened) -> LeaseConnection | None:
    """Return the lease of the innermost scope of a pool that the caller is in, if there is one."""
    owner = current_owner()
    around = enclosing(scopes_of(owner).newest_first())
    return next((scope._lease for scope in around if scope.is_of(pool, owner)), None)


def _give_back(
    home: Home, entry: Entry | None, lease: LeaseConnection | None, holder: Leases
) -> None:
    """Return what an interrupted `__enter__` took. The lease may be known to its holder alone."""
    if lease is None and entry is not None:
        lease = next((other for other in list(holder) if other.lends(entry)), None)
    if lease is not None:
        lease.release()
    elif entry is not None:
        home.release(entry, unused=True)
