"""A cursor of a lease: the driver's, as long as the lease lasts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

from flask_pooled_db.drivers import Driver


class CursorOwner(Protocol):
    """What a cursor needs of the lease it was made from."""

    @property
    def driver(self) -> Driver: ...

    @property
    def is_over(self) -> bool: ...

    def usable(self) -> Any: ...

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    def statement(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    def note_stream(self, cursor: LeaseCursor) -> None: ...


_set = object.__setattr__  # the way past the cursor's own, which costs a function call


class LeaseCursor:
    """A driver's cursor that works as long as its lease does."""

    __slots__ = ("__weakref__", "_lease", "driver_cursor", "is_closed", "is_unread")

    def __init__(self, lease: CursorOwner, driver_cursor: Any) -> None:
        _set(self, "_lease", lease)
        _set(self, "driver_cursor", driver_cursor)
        _set(self, "is_unread", False)
        _set(self, "is_closed", False)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is the driver's cursor's own: it ends with it."""
        if hasattr(LeaseCursor, name):
            object.__setattr__(self, name, value)
        else:
            self._lease.usable()
            setattr(self.driver_cursor, name, value)

    @property
    def connection(self) -> Any:
        """The connection this cursor was made from."""
        return self._lease

    def execute(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement; the arguments are the driver's."""
        return self._execute(self.driver_cursor.execute, operation, args, kwargs)

    def executemany(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement once for each set of parameters."""
        return self._execute(self.driver_cursor.executemany, operation, args, kwargs)

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        """Call a stored procedure."""
        return self._lease.statement(self.driver_cursor.callproc, *args, **kwargs)

    def _execute(
        self, function: Callable[..., Any], operation: Any, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        lease = self._lease
        if args == (None,):
            args = ()  # "no parameters" for every driver
        if args or kwargs:
            operation = lease.driver.translate(operation)
        result = lease.statement(function, operation, *args, **kwargs)
        if lease.driver.is_streaming(self.driver_cursor):
            self.is_unread = True
            lease.note_stream(self)
        return self if result is self.driver_cursor else result

    def fetchone(self) -> Any:
        """The next row, or None."""
        row = self._lease.call(self.driver_cursor.fetchone)
        if row is None:
            self.is_unread = False
        return row

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """The next rows."""
        rows = self._lease.call(self.driver_cursor.fetchmany, *args, **kwargs)
        if not rows:
            self.is_unread = False
        return rows

    def fetchall(self) -> Any:
        """All rows that are left."""
        rows = self._lease.call(self.driver_cursor.fetchall)
        self.is_unread = False
        return rows

    def close(self) -> None:
        """Close the cursor. Where its connection was released, or its transaction lost, there is
        nothing to close: in a `finally`, an error here would hide the one that says why.
        """
        if not self._lease.is_over:
            self._lease.call(self.driver_cursor.close)
            _set(self, "is_unread", False)
            _set(self, "is_closed", True)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchone, None)

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __enter__(self) -> LeaseCursor:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def arraysize(self) -> int:
        """How many rows `fetchmany` gets."""
        return int(self.driver_cursor.arraysize)

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        self.driver_cursor.arraysize = size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._lease.usable()
        attribute = getattr(self.driver_cursor, name)
        if callable(attribute):
            runs_sql = name.startswith("execute")
            call = self._lease.statement if runs_sql else self._lease.call
            return functools.partial(self._driver_call, call, attribute)
        return attribute

    def _driver_call(
        self, call: Callable[..., Any], method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        result = call(method, *args, **kwargs)
        return self if result is self.driver_cursor else result
