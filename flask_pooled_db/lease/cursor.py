"""What a caller sees of a lease's cursors, as PEP 249 has them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from flask_pooled_db.lease.reading import ReadingLease

_set = object.__setattr__  # past LeaseCursor's own, which forwards


class LeaseCursor:
    """A driver's cursor that works as long as its lease does."""

    __slots__ = ("__weakref__", "_lease", "driver_cursor")

    def __init__(self, lease: ReadingLease, driver_cursor: Any) -> None:
        _set(self, "_lease", lease)
        _set(self, "driver_cursor", driver_cursor)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the driver's cursor; it ends with the cursor."""
        if hasattr(LeaseCursor, name):
            object.__setattr__(self, name, value)
        else:
            self._lease.usable()
            setattr(self.driver_cursor, name, value)

    @property
    def connection(self) -> ReadingLease:
        """The connection this cursor was made from."""
        lease: ReadingLease = self._lease
        return lease

    def execute(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement; the arguments are the driver's."""
        return self._run(self.driver_cursor.execute, operation, args, kwargs)

    def executemany(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement once for each set of parameters."""
        return self._run(self.driver_cursor.executemany, operation, args, kwargs)

    def _run(
        self, function: Callable[..., Any], operation: Any, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if args and args[0] is None and len(args) == 1:
            args = ()  # "no parameters" for every driver
        if kwargs:
            function = functools.partial(function, **kwargs)
        result = self._lease.statement(function, operation, *args)
        return self if result is self.driver_cursor else result

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        """Call a stored procedure."""
        # The name is no statement, so it is not passed as one.
        return self._lease.statement(
            functools.partial(self.driver_cursor.callproc, *args, **kwargs)
        )

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        row = self._lease.fetch(self.driver_cursor.fetchone)
        if row is None:
            self._lease.has_read(self)
        return row

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        rows = self._lease.fetch(functools.partial(self.driver_cursor.fetchmany, **kwargs), *args)
        if not rows:
            self._lease.has_read(self)
        return rows

    def fetchall(self) -> Any:
        """Return all rows that are left."""
        rows = self._lease.fetch(self.driver_cursor.fetchall)
        self._lease.has_read(self)
        return rows

    def close(self) -> None:
        """Close the cursor. If its connection was released or its transaction is lost, there is
        nothing to close: an error in a `finally` would hide the one that says why.
        """
        self._lease.close_cursor(self)

    def __iter__(self) -> Iterator[Any]:
        fetch = self.fetchone
        while (row := fetch()) is not None:
            yield row

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lease.close_cursor(self)

    @property
    def description(self) -> Any:
        """What is known of the columns; None if the statement returned no rows."""
        self._lease.usable()
        return self.driver_cursor.description

    @property
    def arraysize(self) -> int:
        """How many rows `fetchmany` returns."""
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
            call = self._lease.statement if runs_sql else self._lease.fetch
            return functools.partial(self._driver_call, call, attribute)
        return attribute

    def _driver_call(
        self, call: Callable[..., Any], method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        result = call(functools.partial(method, **kwargs), *args)
        return self if result is self.driver_cursor else result


class ParticularCursor(LeaseCursor):
    """A cursor of a driver that needs more: preparing, translating, closing.

    Drivers without such needs do not pay for them.
    """

    __slots__ = ()

    def __init__(self, lease: ReadingLease, driver_cursor: Any) -> None:
        super().__init__(lease, driver_cursor)
        driver = lease.driver
        if driver.prepare_cursor:
            driver.prepare_cursor(driver_cursor)
        if driver.has_to_close_cursors:
            lease.note_cursor(self)

    def _run(
        self, function: Callable[..., Any], operation: Any, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        driver = self._lease.driver
        # Compare no parameter by ==: a NumPy array answers with an array.
        if driver.translate and (kwargs or len(args) > 1 or (args and args[0] is not None)):
            operation = driver.translate(operation)
        return super()._run(function, operation, args, kwargs)
