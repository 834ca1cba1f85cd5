"""The scope of a task: the same block as a thread's, whose waiting leaves the event loop alone.

It has no rules of its own. A `Scope` enters and leaves, and this decides where its steps are taken:
what may wait for the server, in worker threads; all else in the loop's.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, TypeVar

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.awaited import AsyncConnection
from flask_pooled_db.lease.hops import Bell, call_commit, call_for_sure, is_closing, take
from flask_pooled_db.lease.line import Job, Line, end_in_turn
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.retry import Attempts
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.lease.state import State
from flask_pooled_db.runtime import guard, housekeeper

T = TypeVar("T")


class AsyncScope:
    """The block of `async_connection_context()`. It can be entered once."""

    __slots__ = ("_connection", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._connection: AsyncConnection | None = None

    def __aenter__(self) -> Coroutine[Any, Any, AsyncConnection]:
        return self._enter(sys._getframe(1))

    async def _enter(self, frame: FrameType) -> AsyncConnection:
        try:
            bell = Bell()
        except RuntimeError as error:
            raise UsageError(
                "async_connection_context() needs a running event loop of asyncio"
            ) from error
        lease = await take(self.scope.entering(frame, bell), bell)
        self._connection = connection = AsyncConnection.of(lease)
        return connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            raise UsageError("this async_connection_context() is not entered, or was left already")
        lease, line, leave = connection.lease, connection.line, self.scope.__exit__
        # It was not used, or its connection was taken back before.
        has_nothing = lease.state in (State.UNUSED, State.RELEASED)
        has_nothing = has_nothing and line.is_idle and lease.after_commit is None
        # No thread may be waited for, nor started, or others are about to close it as garbage.
        is_cut = is_closing(exc) and line.is_idle and (housekeeper.is_current or lease.is_garbage)
        try:
            if has_nothing or is_cut or guard.is_inside():  # nothing is sent
                leave(exc_type, exc, traceback)
            elif is_closing(exc) or line.is_left:  # nothing may, or can, be awaited
                error = exc or refusals.left_alone()
                self.scope.hide()
                line.submit(Job(leave, (type(error), error, None), lease))
                if exc is None:
                    raise error
            elif exc is None and self.scope.holds(lease):
                await self._commit(lease, line)
            else:
                await call_for_sure(lease, line, leave, exc_type, exc, traceback)
        except RuntimeError as error:
            if self.scope.is_open:  # the system has no more threads
                reason = "there was no thread to roll it back"
                lease.give_up(reason)
                end_in_turn(lease, reason, functools.partial(leave, type(error), error, None))
            raise

    async def _commit(self, lease: LeaseConnection, line: Line) -> None:
        leave = self.scope.__exit__
        try:
            await call_commit(lease, line, leave, None, None, None)
        except asyncio.CancelledError as error:
            if self.scope.is_open:  # it came before the call had begun
                await call_for_sure(lease, line, leave, type(error), error, None)
            raise


async def run_in_transaction(
    make_scope: Callable[[], AsyncScope],
    function: Callable[[AsyncConnection], Awaitable[T]],
    attempts: int,
) -> T:
    """Await `function(conn)` in a scope, as `retry.run_in_transaction` calls it."""
    following = Attempts(attempts)
    while True:
        scope = make_scope()
        connection = None
        try:
            async with scope as connection:
                return await function(connection)
        except Exception as error:
            lease = None if connection is None else connection.lease
            pause = following.pause(scope.scope, lease, error)
            if pause is None:
                raise
        await asyncio.sleep(pause)
