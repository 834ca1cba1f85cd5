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
)
from flask_pooled_db.lease.classes import class_for
from flask_pooled_db.lease.deadline import around, tell_limit, time_to_wait
from flask_pooled_db.lease.enclosing import ENTERING, SUSPENDS, enclosing, holder_of, place_of
from flask_pooled_db.lease.holdings import explain
from flask_pooled_db.lease.home import Home, Leases
from flask_pooled_db.lease.line import refuse_to_disturb
from flask_pooled_db.lease.nesting import Nesting
from flask_pooled_db.lease.openscopes import OpenScopes, open_scopes, scopes_of
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.shaping import rows_of, shape_rows
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Engine, Entry
from flask_pooled_db.pool.opened import NotOpen, Ticket
from flask_pooled_db.pool.queue import Bell, Waiter
from flask_pooled_db.pool.replica import acquire_to_read, acquiring_to_read
from flask_pooled_db.pool.steps import Call, Steps, Turn, run

logger = logging.getLogger("flask_pooled_db")


_ENTERED = "a db_connection_context() can be entered once: make a new one"

# Looked up once, not for each scope.
_getframe, _reference_to = sys._getframe, weakref.ref


class Scope(Nesting):
    """The block of `db_connection_context()`. It can be entered once.

    Left normally it commits, left by an exception it rolls back, and either way it releases its
    connection. Inside another scope of the same pool and the same thread, task or greenlet it is
    a part of that scope's transaction instead.
    """

    __slots__ = (
        "__weakref__",
        "_holder",
        "_reference",
        "_scopes",
    )

    _holder: Leases | None  # None once it was entered
    _scopes: OpenScopes  # of its owner, this one among them while it is open
    _reference: weakref.ref[Scope]  # to itself, as it is there

    def __init__(
        self, pool: Engine, holder: Leases, options: ScopeOptions = DEFAULT_OPTIONS
    ) -> None:
        if options is not DEFAULT_OPTIONS:
            options.check()
        self._pool = pool
        self._holder = holder
        self.options = options
        self._lease = self._part = self.place = self.finished = self.frame = None

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
            if exc is not None and self.finished is not None:
                self._tell_undone(lease, self.finished, exc)
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
