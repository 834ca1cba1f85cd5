"""The scope: a block that is a transaction, or a part of one."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from flask_pooled_db.config import DEFAULT_OPTIONS, ScopeOptions
from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import inheritance  # noqa: F401  takes part in forks
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.preamble import Savepoint
from flask_pooled_db.lease.proxy import LeaseConnection, class_for
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Engine
from flask_pooled_db.pool.replica import acquire_to_read

logger = logging.getLogger("flask_pooled_db")

_innermost: ContextVar[Scope | None] = ContextVar("flask_pooled_db_scope", default=None)


class Scope:
    """The block of `db_connection_context()`. It can be entered once.

    Left normally it commits, left by an exception it rolls back, and either way it releases its
    connection. Inside another scope of the same pool and the same thread, task or greenlet it is
    a part of that scope's transaction instead.
    """

    __slots__ = ("_holder", "_lease", "_outer", "_outer_session", "_pool", "_savepoint", "options")

    _holder: Leases | None  # None once it was entered
    _lease: LeaseConnection | None
    _outer: Scope | None  # the innermost scope when this one was entered
    _outer_session: Session | None  # None if it did not join another scope
    _savepoint: Savepoint | None  # only if it did

    def __init__(
        self, pool: Engine, holder: Leases, options: ScopeOptions = DEFAULT_OPTIONS
    ) -> None:
        if options is not DEFAULT_OPTIONS:
            options.check()
        self._pool = pool
        self._holder = holder
        self.options = options
        self._lease = self._outer_session = None

    def __enter__(self) -> LeaseConnection:
        holder, self._holder = self._holder, None
        if holder is None:
            raise UsageError("a db_connection_context() can be entered once: make a new one")
        owner = current_owner()
        self._outer = outer = _innermost.get()
        lease = None
        if outer is not None and not self.options.independent:
            lease = self._find_outer(owner)
        if lease is not None:
            self._join(lease)
        elif self.options is DEFAULT_OPTIONS:  # most often
            pool = self._pool
            session = pool.usual_session
            entry = pool.acquire(None, session)
            make = entry.lease_class or class_for(entry, pool.lease_classes)
            lease = make(pool, entry, owner, holder, session, 1)
        else:
            lease = self._borrow(owner, holder)
        self._lease = lease
        _innermost.set(self)
        return lease

    def _find_outer(self, owner: Any) -> LeaseConnection | None:
        """Return the lease of the nearest scope around this one that is the caller's own."""
        scope = self._outer
        while scope is not None:
            lease = scope._lease
            if lease is not None and scope._pool is self._pool and lease.owner == owner:
                return lease
            scope = scope._outer
        return None

    def _borrow(self, owner: Any, holder: Leases) -> LeaseConnection:
        """Take a connection as the options want it."""
        pool, options = self._pool, self.options
        session = pool.session(options.readonly, options.statement_timeout)
        if options.readonly:
            pool, entry = acquire_to_read(pool, options.timeout, session)
        else:
            entry = pool.acquire(options.timeout, session)
        make = entry.lease_class or class_for(entry, pool.lease_classes)
        lease: LeaseConnection = make(pool, entry, owner, holder, session, 1)
        if options.isolation_level is not None:
            try:
                lease.begin_with(options.isolation_level)
            except BaseException:
                lease.release()
                raise
        return lease

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease = self._lease
        if lease is None:
            raise UsageError("this db_connection_context() is not entered, or was left already")
        if _innermost.get() is self:
            _innermost.set(self._outer)
        elif self._has_inner(lease):
            self._end_out_of_order(lease, exc)
            return
        self._lease = None
        if self._outer_session is None:
            lease.finish(exc)
        else:
            self._end_nested(lease, self._outer_session, exc)

    def may_start_over(self, lease: LeaseConnection, error: Exception) -> bool:
        """Return whether the same work can be done in a new scope after this error has left it."""
        if self._outer_session is None and lease.has_committed:
            return False  # a part of the work is there to stay
        if self._outer_session is not None and lease.is_over:
            return False  # more than this scope is lost
        return lease.may_start_over(error)

    def _has_inner(self, lease: Lease) -> bool:
        """Return whether a scope that was entered inside this one, on its lease, is still open.

        If this scope is not found, it is being left in another context than it was entered in (a
        generator that another thread closes): there it is skipped from now on.
        """
        scope = _innermost.get()
        inside = False
        while scope is not None and scope is not self:
            inside = inside or scope._lease is lease
            scope = scope._outer
        return scope is self and inside

    # A scope inside another

    def _join(self, lease: LeaseConnection) -> None:
        options = self.options
        if options.isolation_level is not None:
            raise UsageError(
                "isolation_level in a nested db_connection_context(): the transaction has begun; "
                "set it on the outermost block, or use independent=True"
            )
        if options.readonly and not lease.session.readonly:
            raise UsageError(
                "readonly=True in a db_connection_context() that writes: the block is a part of "
                "its transaction; leave it out, or use independent=True"
            )
        self._outer_session = session = lease.session
        self._savepoint = None
        if options.statement_timeout is not None:
            lease.set_session(session._replace(statement_timeout=options.statement_timeout))
        # In a readonly scope each statement is on its own, and there is nothing to roll back.
        if options.savepoint and not session.readonly:
            self._savepoint = Savepoint(f"pooled_db_{lease.depth}")
        lease.enter_scope(self._savepoint)

    def _end_nested(
        self, lease: LeaseConnection, session: Session, exc: BaseException | None
    ) -> None:
        lease.leave_scope(session, self._savepoint)
        if exc is None and lease.state is State.RELEASED and not lease.session.readonly:
            lease.usable()  # raises: nobody else tells that this block's work was rolled back
        if self._savepoint is None:
            if exc is not None and not lease.session.readonly:
                lease.abort(exc)
        elif exc is None:
            try:
                lease.end_savepoint(self._savepoint, roll_back=False)
            except Exception as error:
                lease.abort(error)  # the block fails: what it did must not be committed
                raise
        elif not lease.is_over:
            try:
                lease.end_savepoint(self._savepoint, roll_back=True)
            except Exception as error:  # noqa: BLE001  the caller must see its own error
                lease.abort(error)
                logger.warning(
                    "Rolling back to a savepoint failed (%s): the outer transaction is aborted",
                    type(error).__name__,
                )

    def _end_out_of_order(self, lease: LeaseConnection, exc: BaseException | None) -> None:
        """End with an inner scope still open, as interleaved generators do."""
        self._lease = None
        error = UsageError(
            "a db_connection_context() was left before one that was entered inside it: scopes end "
            "in the reverse of the order they began in. The whole transaction is rolled back"
        )
        lease.abort(error)
        if self._outer_session is None:
            lease.release()
        else:
            lease.leave_scope(lease.session, self._savepoint)
        if exc is None:
            raise error
