"""What a task sees of a lease: a connection and its cursors, whose methods are awaited."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from time import monotonic
from types import TracebackType
from typing import Any, Self

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease.cursor import LeaseCursor
from flask_pooled_db.lease.handle import GONE, is_plain
from flask_pooled_db.lease.hops import call, call_commit, is_closing
from flask_pooled_db.lease.line import Line, line_of
from flask_pooled_db.lease.observing import ObservingLease
from flask_pooled_db.lease.proxy import LeaseConnection, SendingConnection
from flask_pooled_db.lease.shaping import ShapedCursor
from flask_pooled_db.lease.streaming import StreamingCursor
from flask_pooled_db.runtime import callers

_AHEAD = 200
"""How many rows `async for` reads at once, at most."""

_AHEAD_FOR = 0.002
"""Seconds that it reads on for, if the next row is not there at once."""

_ABSENT = object()
_BUFFERING = (LeaseCursor, StreamingCursor)  # the others ask the server, or may
_UNKNOWN = {"rowcount": -1, "lastrowid": None, "description": None, "arraysize": 1}
"""What a cursor tells that is not made yet."""

_BLOCKS = (
    "would block the event loop, and is not offered here: use a cursor's execute(), executemany(), "
    "callproc(), nextset() and its methods that fetch, or do it in a blocking "
    "db_connection_context() of a function that asyncio.to_thread() calls"
)


class AsyncConnection:
    """A connection lent to a task, as PEP 249 has it, but for the methods that wait for the server:
    they are awaited.

    The driver's exception classes are attributes (`conn.IntegrityError`). Calls that several tasks
    make at once come one after the other. See `LeaseConnection` for what it raises.
    """

    __slots__ = ("__weakref__", "lease", "line")

    def __init__(self, lease: LeaseConnection, line: Line) -> None:
        self.lease = lease
        self.line = line

    @classmethod
    def of(cls, lease: LeaseConnection) -> AsyncConnection:
        """Return the one of a lease. There is one at a time."""
        line = line_of(lease)
        face: AsyncConnection | None = None if line.face is None else line.face()
        if face is None:
            kind = ObservedAsyncConnection if isinstance(lease, ObservingLease) else cls
            face = kind(lease, line)
            line.face = weakref.ref(face)
        return face

    def __repr__(self) -> str:
        return f"<Asynchronous {self.lease!r}>"

    def cursor(self, *args: Any, **kwargs: Any) -> AsyncCursor:
        """Return a new cursor; the arguments are the driver's. It can be a block: `async with`."""
        lease = self.lease
        made = None
        if self.line.is_idle and not (
            lease.pings_on_cursor or isinstance(lease, SendingConnection)
        ):
            made = lease.cursor(*args, **kwargs)
        part = lease.innermost()  # whose rows it gives, whatever block it is first used in

        def make() -> LeaseCursor:
            around = lease.work_in(part)
            try:
                return lease.cursor(*args, **kwargs)
            finally:
                lease.work_in(around)

        return AsyncCursor(self, made, make)

    async def commit(self) -> None:
        """Commit, as `LeaseConnection.commit()` does."""
        await call_commit(self.lease, self.line, self.lease.commit)

    async def rollback(self) -> None:
        """Roll back, as `LeaseConnection.rollback()` does."""
        await call(self.lease, self.line, self.lease.rollback)

    async def ping(self) -> None:
        """Raise if the server does not answer."""
        await call(self.lease, self.line, self.lease.ping)

    def on_commit(self, function: Callable[[], object]) -> None:
        """Have a function called, in a worker thread, when what is done here is committed: see
        `LeaseConnection.on_commit()`.
        """
        self.lease.on_commit(function)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name[:1].isupper():
            return self.lease.driver_exception(name)
        if name in GONE:
            return self.lease.answer(name)
        raise AttributeError(f"{name} of a connection {_BLOCKS}")


class AsyncCursor:
    """A cursor whose methods are awaited. What they have found out are plain attributes."""

    __slots__ = ("_ahead", "_connection", "_late", "_lease", "_line", "_made", "_make")

    def __init__(
        self, connection: AsyncConnection, made: Any, make: Callable[[], LeaseCursor]
    ) -> None:
        self._connection = connection
        self._lease = connection.lease
        self._line = connection.line
        self._made = made  # None until the first call, if it sends something
        self._make = make
        self._ahead: deque[Any] = deque()  # rows that `async for` has read
        self._late: BaseException | None = None  # what came after them

    @property
    def connection(self) -> AsyncConnection:
        """The connection this cursor was made from."""
        return self._connection

    # Statements

    def execute(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Run a statement; the arguments are the driver's."""
        return self._run("execute", args, kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Run a statement once for each set of parameters."""
        return self._run("executemany", args, kwargs)

    def callproc(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call a stored procedure."""
        return self._run("callproc", args, kwargs)

    def nextset(self) -> Coroutine[Any, Any, Any]:
        """Go on to the next result."""
        return self._run("nextset", (), {})

    async def _run(self, name: str, args: Any, kwargs: Any) -> Any:
        self._ahead.clear()
        self._late = None
        result = await call(self._lease, self._line, self._call, name, args, kwargs)
        if result is self._made:
            return self
        if not is_plain(result):
            raise UsageError(f"what {name}() of this driver returns {_BLOCKS}")
        return result

    def _call(self, name: str, args: Any, kwargs: Any) -> Any:
        """Call a method of the cursor, in a worker thread."""
        if self._made is None:
            self._made = self._make()
        self._lease.identify()
        return getattr(self._made, name)(*args, **kwargs)

    # Rows

    async def fetchone(self) -> Any:
        """Return the next row, or None."""
        if self._ahead:
            return self._ahead.popleft()
        return await self._fetch("fetchone")

    async def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        if not self._ahead:
            return await self._fetch("fetchmany", *args, **kwargs)
        wanted = next(iter((*args, *kwargs.values())), None) or self.arraysize
        rows = [self._ahead.popleft() for _ in range(min(wanted, len(self._ahead)))]
        left = wanted - len(rows)
        return [*rows, *await self._fetch("fetchmany", left)] if left else rows

    async def fetchall(self) -> Any:
        """Return all rows that are left."""
        rows = [*self._ahead]
        self._ahead.clear()
        rest = await self._fetch("fetchall")
        return [*rows, *rest] if rows else rest

    async def _fetch(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._late is not None:
            late, self._late = self._late, None
            raise late
        if self._is_at_hand:
            return getattr(self._made, name)(*args, **kwargs)
        return await call(self._lease, self._line, self._call, name, args, kwargs)

    @property
    def _is_at_hand(self) -> bool:
        """Whether the driver has all rows already, so that nobody has to wait."""
        made = self._made
        kind = type(made.unshaped if type(made) is ShapedCursor else made)
        return kind in _BUFFERING and self._line.is_idle and self._lease.has_all

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if not self._ahead and self._late is None and not self._is_at_hand:
            await call(self._lease, self._line, self._read_ahead)
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    def _read_ahead(self) -> None:
        """Read some rows, in a worker thread: one at least, and those that come at once."""
        made, until = self._made, monotonic() + _AHEAD_FOR
        for _ in range(_AHEAD):
            try:
                row = next(made, _ABSENT)
            except BaseException as error:  # noqa: BLE001  it is raised after the rows
                self._late = error
                return
            if row is _ABSENT:
                return
            self._ahead.append(row)
            if monotonic() > until:
                return

    # What is known

    @property
    def rowcount(self) -> Any:
        """How many rows the last statement returned or changed."""
        return self._attribute("rowcount")

    @property
    def description(self) -> Any:
        """What is known of the columns; None if the statement returned no rows."""
        return self._attribute("description")

    @property
    def arraysize(self) -> Any:
        """How many rows `fetchmany` returns."""
        return self._attribute("arraysize")

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        if self._made is None:
            raise UsageError(
                "arraysize can be set after the first statement here: give fetchmany()"
                " the number of rows"
            )
        self._made.arraysize = size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._attribute(name)

    def _attribute(self, name: str) -> Any:
        made = self._made
        if made is None:
            if name in _UNKNOWN:
                return _UNKNOWN[name]
            raise AttributeError(f"{name} of a cursor is known after its first statement")
        is_method = callable(getattr(made.driver_cursor, name, None))
        value = None if is_method else getattr(made, name)
        if is_method or not (is_plain(value) or name == "description"):
            raise AttributeError(f"{name} of a cursor {_BLOCKS}")
        return value

    # The end

    async def close(self) -> None:
        """Close the cursor, as `LeaseCursor.close()` does."""
        self._ahead.clear()
        if self._made is None or self._lease.is_over:
            return
        if self._line.is_idle and self._lease.has_all:
            self._made.close()
        else:
            await call(self._lease, self._line, self._made.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not is_closing(exc):  # else its connection closes it
            await self.close()


class ObservedAsyncConnection(AsyncConnection):
    """A connection whose lease is observed."""

    __slots__ = ()

    def cursor(self, *args: Any, **kwargs: Any) -> AsyncCursor:
        """Return a new cursor; the arguments are the driver's."""
        cursor = super().cursor(*args, **kwargs)
        cursor.__class__ = ObservedAsyncCursor
        return cursor


class ObservedAsyncCursor(AsyncCursor):
    """A cursor whose statements are known to have come from the line that asked for them."""

    __slots__ = ()

    def _run(self, name: str, args: Any, kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self._run_from(callers.place(), name, args, kwargs)

    async def _run_from(
        self, place: callers.Place | None, name: str, args: Any, kwargs: Any
    ) -> Any:
        with callers.asked_from(place):
            return await super()._run(name, args, kwargs)
