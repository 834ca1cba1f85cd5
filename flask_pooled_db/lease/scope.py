"""The scope: a block that is a transaction, or a part of one."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

from flask_pooled_db.config import DEFAULT_OPTIONS, ScopeOptions
from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import (
    inheritance,  # noqa: F401  takes part in forks
    refusals,
)
from flask_pooled_db.lease.classes import class_for
from flask_pooled_db.lease.deadline import around, tell_limit, time_to_wait
from flask_pooled_db.lease.enclosing import ENTERING, SUSPENDS, enclosing, holder_of, place_of
from flask_pooled_db.lease.holdings import explain
from flask_pooled_db.lease.home import Home, Leases
from flask_pooled_db.lease.line import refuse_to_disturb
from flask_pooled_db.lease.openscopes import OpenScopes, open_scopes, scopes_of
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.preamble import Part
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.shaping import able_to_shape, rows_of, shape_rows
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Engine, Entry
from flask_pooled_db.pool.opened import NotOpen, Ticket
from flask_pooled_db.pool.queue import Bell, Waiter
from flask_pooled_db.pool.replica import acquire_to_read, acquiring_to_read
from flask_pooled_db.pool.steps import Call, Steps, Turn, run
from flask_pooled_db.runtime import reporter

logger = logging.getLogger("flask_pooled_db")


_ENTERED = "a db_connection_context() can be entered once: make a new one"

# Looked up once, not for each scope.
_getframe, _reference_to = sys._getframe, weakref.ref


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
        self, pool: Engine, holder: Leases, options: ScopeOptions = DEFAULT_OPTIONS
    ) -> None:
        if options is not DEFAULT_OPTIONS:
            options.check()
        self._pool = pool
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
            raise UsageError(_ENTERED)
        code = _getframe(1).f_code
        if code.co_flags & SUSPENDS or code.co_name in ENTERING:  # most often it is a function
            frame = _getframe(1)
            self.frame, self.place = holder_of(frame), place_of(frame)
        owner, pool = current_owner(), self._pool
        scopes = open_scopes.get()
        if scopes is None or scopes.owner != owner:  # a task's and a greenlet's never is
            scopes = scopes_of(owner)
        self._scopes = scopes
        self._reference = reference = _reference_to(self)
        is_bounded = around.get() and self._look_at_time()
        joined = entry = lease = None
        try:
            if scopes:
                joined = self._look_around(owner, _getframe(1))
            if joined is not None:
                refuse_to_disturb(joined)
                self._join(joined)
                lease = joined
            elif self.options is DEFAULT_OPTIONS and not is_bounded:  # most often
                session = pool.usual_session
                entry = pool.acquire(None, session)
                make = entry.lease_class or class_for(entry, pool.lease_classes, pool.terms)
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
        return run(self._entering(owner, holder, _getframe(1), None, open_bind))

    def entering(self, frame: FrameType, bell: Bell) -> Steps[LeaseConnection]:
        """Return the steps that lead into the block in `frame`, for a task with a bell."""
        holder, self._holder = self._holder, None
        if holder is None:
            raise UsageError(_ENTERED)
        self.frame, self.place = holder_of(frame), place_of(frame)
        owner = current_owner()
        self._scopes = scopes_of(owner)
        self._reference = weakref.ref(self)
        self._look_at_time()
        return self._entering(owner, holder, frame, bell)

    def _entering(
        self,
        owner: Any,
        holder: Leases,
        frame: FrameType,
        bell: Bell | None,
        open_bind: Callable[..., Ticket] | None = None,
    ) -> Steps[LeaseConnection]:
        """Enter a block; `open_bind` opens its bind, if that is not open."""
        spent = 0.0  # of the time that the caller waits
        while True:
            began, is_open = monotonic(), open_bind is None
            ticket = joined = lease = None
            try:
                if open_bind is not None:
                    ticket = yield Call(open_bind, (self.options.timeout, spent))
                    self._pool, is_open = ticket.pool.engine, True
                    spent, began = ticket.spent, monotonic()
                if self._scopes:
                    joined = self._look_around(owner, frame)
                if joined is not None:
                    yield Turn(joined, self._join, (joined,))
                    lease = joined
                else:
                    timeout = None if ticket is None else ticket.timeout
                    lease = yield from self._borrowing(owner, holder, timeout, bell)
                self._lease = lease
                self._scopes[self._reference] = None
                return lease  # noqa: TRY300  as above
            except BaseException as error:
                ticket = None  # whoever keeps the error must not keep the bind open
                self._take_back(joined)
                if joined is None and is_open:
                    _give_back(self._pool, None, lease, holder)
                    explain(error, self._pool, holder)
                elif not is_open:
                    tell_limit(error)
                if not isinstance(error, NotOpen):
                    raise
                open_bind, spent = error.open, spent + monotonic() - began

    def _look_at_time(self) -> bool:
        """Wait no longer than a deadline allows, and return True. Raises `DeadlineExceeded` if
        nothing is left of it.
        """
        pool, asked = self._pool, self.options.timeout
        timeout = time_to_wait(asked, pool.patience)
        if timeout != asked:
            self.options = self.options._replace(timeout=timeout)
        return True

    def watch_time(self) -> None:
        """Have its lease look at the time before each statement from now on."""
        if self._lease is not None:
            self._lease.watch_time()

    def _look_around(self, owner: Any, frame: FrameType) -> LeaseConnection | None:
        """Return the lease of the nearest scope around this one that is the caller's own."""
        others: list[Scope] = self._scopes.newest_first()
        if not others:
            return None
        self.place = self.place or place_of(frame)
        around = enclosing(others)
        if around and self.frame is None:
            self.frame = around[0].frame
        if self.options.independent:
            return None
        for scope in around:
            if scope.is_of(self._pool, owner):
                self._joined, self._pool = scope, scope._pool
                return scope._lease
        return None

    def hide(self) -> None:
        """Enclose nothing any more: it is about to be left, by somebody else."""
        self._scopes.pop(self._reference, None)

    def holds(self, lease: object) -> bool:
        """Return whether this is the outermost scope of a lease."""
        return self._lease is lease and self._part is None

    def is_of(self, pool: Engine, owner: Any) -> bool:
        """Return whether it is an owner's, on a connection of a pool, or of an earlier one of the
        same bind.
        """
        lease, own = self._lease, self._pool
        is_same = own is pool or own.key == pool.key
        return lease is not None and is_same and lease.owner == owner

    def _borrow(self, owner: Any, holder: Leases) -> LeaseConnection:
        """Take a connection as the options want it."""
        pool, options = self._pool, self.options
        session = pool.session(options.readonly, options.statement_timeout)
        home: Home = pool
        entry = None
        try:
            if options.readonly:
                home, entry = acquire_to_read(pool, options.timeout, session)
            else:
                entry = pool.acquire(options.timeout, session)
            return self._lend(home, entry, owner, holder, session)
        except BaseException:
            _give_back(home, entry, None, holder)
            raise

    def _borrowing(
        self, owner: Any, holder: Leases, timeout: float | None, bell: Bell | None
    ) -> Steps[LeaseConnection]:
        """Take a connection step by step, in `timeout` seconds, or as the options say."""
        pool, options = self._pool, self.options
        timeout = options.timeout if timeout is None else timeout
        session = pool.session(options.readonly, options.statement_timeout)
        home: Home = pool
        entry = None
        try:
            if options.readonly:
                steps = acquiring_to_read(pool, timeout, session, bell)
                home, entry = yield from steps
            else:
                entry = yield from pool.acquiring(Waiter(session, bell), timeout)
            return self._lend(home, entry, owner, holder, session)
        except BaseException:
            _give_back(home, entry, None, holder)
            raise

    def _lend(
        self, home: Home, entry: Entry, owner: Any, holder: Leases, session: Session
    ) -> LeaseConnection:
        pool, options = self._pool, self.options
        reads_by = entry.driver.reads_by if options.readonly else None
        if reads_by is not None:
            session = session._replace(readonly=False)
        make = entry.lease_class or class_for(entry, pool.lease_classes, home.terms)
        lease: LeaseConnection = make(home, entry, owner, holder, session, True)
        if options.rows is not None or home is not pool:  # which may be a replica
            shape_rows(lease, rows_of(pool, options))
        if options.isolation_level is not None:
            lease.begin_with(options.isolation_level)
        elif reads_by is not None:
            lease.begin_by(reads_by)
        if around.get():
            lease.watch_time()
        return lease

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
        if options.readonly and not (session.readonly or lease.only_reads):
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
        if around.get():
            lease.watch_time()
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
        is_ours = is_ours and not lease.is_garbage
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


def enclosing_lease(pool: Engine) -> LeaseConnection | None:
    """Return the lease of the innermost scope of a pool that the caller is in, if there is one."""
    owner = current_owner()
    open_now: list[Scope] = scopes_of(owner).newest_first()
    around = enclosing(open_now)
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
