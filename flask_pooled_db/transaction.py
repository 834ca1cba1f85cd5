"""The scope: a block that is a transaction, or a part of one."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

from flask_pooled_db.config import ScopeOptions
from flask_pooled_db.dbapi import LeaseConnection
from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import Held, Lease, Savepoint
from flask_pooled_db.ownership import current_owner
from flask_pooled_db.pool import Pool

logger = logging.getLogger("flask_pooled_db")

T = TypeVar("T")

_innermost: ContextVar[Scope | None] = ContextVar("flask_pooled_db_scope", default=None)


class Scope:
    """The block of `db_connection_context()`. It can be entered once.

    Left normally it commits, left by an exception it rolls back, and either way it releases its
    connection. Inside another scope of the same pool and the same thread, task or greenlet it is
    a part of that one's transaction instead.
    """

    __slots__ = (
        "_held",
        "_independent",
        "_isolation_level",
        "_lease",
        "_outer",
        "_outer_session",
        "_pool",
        "_readonly",
        "_savepoint",
        "_statement_timeout",
        "_timeout",
        "_with_savepoint",
    )

    _held: Held | None  # None once it was entered
    _lease: LeaseConnection | None
    _outer: Scope | None  # set once it was entered
    _outer_session: Session | None  # None where it did not join another one
    _savepoint: Savepoint | None  # set where it did

    def __init__(
        self,
        pool: Pool,
        held: Held,
        readonly: bool = False,
        timeout: float | None = None,
        statement_timeout: float | None = None,
        isolation_level: str | None = None,
        savepoint: bool = True,
        independent: bool = False,
    ) -> None:
        if timeout is not None or statement_timeout is not None or isolation_level is not None:
            ScopeOptions(readonly, timeout, statement_timeout, isolation_level).check()
        self._pool = pool
        self._held = held
        self._readonly = readonly
        self._timeout = timeout
        self._statement_timeout = statement_timeout
        self._isolation_level = isolation_level
        self._with_savepoint = savepoint
        self._independent = independent
        self._lease = self._outer_session = None

    def __enter__(self) -> LeaseConnection:
        held, self._held = self._held, None
        if held is None:
            raise UsageError("a db_connection_context() can be entered once: make a new one")
        owner = current_owner()
        pool = self._pool
        self._outer = _innermost.get()
        lease: LeaseConnection | None
        lease = None if self._outer is None or self._independent else self._find_outer(owner)
        if lease is not None:
            self._join(lease)
            lease.depth += 1
        else:
            session = pool.usual_session
            if self._readonly or self._statement_timeout is not None:
                session = pool.session(self._readonly, self._statement_timeout)
            if self._readonly and pool.replica is not None:
                pool, con = pool.acquire_to_read(self._timeout, session)
            else:
                con = pool.acquire(self._timeout, session)
            lease = con.lease_class(pool, con, owner, held, session, 1)
            if self._isolation_level is not None:
                self._begin_with(lease, self._isolation_level)
        self._lease = lease
        _innermost.set(self)
        return lease

    def _find_outer(self, owner: Any) -> LeaseConnection | None:
        """The lease of the nearest scope around this one that is the caller's own."""
        scope = self._outer
        while scope is not None:
            lease = scope._lease
            if lease is not None and scope._pool is self._pool and lease.owner == owner:
                return lease
            scope = scope._outer
        return None

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
            self._end_out_of_turn(lease, exc)
            return
        self._lease = None
        if self._outer_session is not None:
            self._end_nested(lease, self._outer_session, exc)
            return
        lease.depth = 0
        if exc is not None or lease.is_untouched:
            lease.release()
        else:
            try:
                lease.commit_work()
            finally:
                lease.release()

    def may_start_over(self, lease: Lease, error: Exception) -> bool:
        """Whether, after this error has left it, the same work can be done in a new scope."""
        if self._outer_session is None and lease.has_committed:
            return False  # a part of the work is there to stay
        if self._outer_session is not None and lease.is_over:
            return False  # more than this scope is gone
        return lease.may_start_over(error)

    def _has_inner(self, lease: Lease) -> bool:
        """Whether a scope that was entered inside this one, on its lease, is still open."""
        scope = _innermost.get()
        inside = False
        while scope is not None and scope is not self:
            inside = inside or scope._lease is lease
            scope = scope._outer
        # Not found, it is left in another context than it was entered in (a generator that
        # another thread closes); there it is passed over from now on.
        return scope is self and inside

    def _begin_with(self, lease: Lease, level: str) -> None:
        try:
            lease.begin_with(level)
        except BaseException:
            lease.release()
            raise

    # A scope inside another

    def _join(self, lease: Lease) -> None:
        if self._isolation_level is not None:
            raise UsageError(
                "isolation_level in a nested db_connection_context(): the transaction has begun; "
                "set it on the outermost block, or use independent=True"
            )
        self._outer_session = lease.session
        self._savepoint = None
        if self._statement_timeout is not None:
            lease.set_session(lease.session._replace(statement_timeout=self._statement_timeout))
        # In a readonly scope each statement is on its own, and there is nothing to roll back.
        if self._with_savepoint and not lease.session.readonly:
            self._savepoint = Savepoint(f"pooled_db_{lease.depth}")
            lease.set_savepoint(self._savepoint)

    def _end_nested(self, lease: Lease, session: Session, exc: BaseException | None) -> None:
        lease.depth -= 1
        lease.set_session(session)
        if self._savepoint is None:
            if exc is not None and not lease.session.readonly:
                lease.doom(exc)
            return
        if exc is None:
            lease.end_savepoint(self._savepoint, roll_back=False)
        elif not lease.is_over:
            try:
                lease.end_savepoint(self._savepoint, roll_back=True)
            except Exception as error:  # noqa: BLE001  the caller is to see its own error
                lease.doom(error)
                logger.warning(
                    "Rolling back to a savepoint failed (%s): the outer transaction is aborted",
                    type(error).__name__,
                )

    def _end_out_of_turn(self, lease: Lease, exc: BaseException | None) -> None:
        """End with an inner scope still open, as when generators are interleaved."""
        self._lease = None
        error = UsageError(
            "a db_connection_context() was left before one that was entered inside it: scopes end "
            "in the reverse of the order they began in. The whole transaction is rolled back"
        )
        lease.doom(error)
        lease.depth -= 1
        if self._outer_session is None:
            lease.release()
        if exc is None:
            raise error


def run_in_transaction(
    make_scope: Callable[[], Scope], function: Callable[[LeaseConnection], T], attempts: int
) -> T:
    """Call `function(conn)` in a scope; start over where the transaction is gone as a whole and
    another try may succeed. Raises what the last try raised.
    """
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise UsageError("attempts must be a whole number, 1 or more")
    for attempt in range(1, attempts + 1):
        scope = make_scope()
        lease = None
        try:
            with scope as lease:
                return function(lease)
        except Exception as error:
            if attempt == attempts or lease is None or not scope.may_start_over(lease, error):
                raise
            logger.info("Starting a transaction over after %s", type(error).__name__)
        # Apart from each other, so that two that collided do not do so again.
        time.sleep(random.uniform(0.0, 0.01 * 2**attempt))
    raise AssertionError("the last attempt returns or raises")
