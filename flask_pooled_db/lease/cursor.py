"""What a caller sees of a lease's cursors, as PEP 249 has them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from flask_pooled_db.errors import PooledDBError
from flask_pooled_db.lease.absent import no_attribute
from flask_pooled_db.lease.handle import GONE, hand_out
from flask_pooled_db.lease.reading import ReadingLease
from flask_pooled_db.lease.state import State
from flask_pooled_db.lease.streams import bare
from flask_pooled_db.runtime import refuse_to_pickle

_END, _ABSENT = object(), object()
_set = object.__setattr__  # past LeaseCursor's own, which forwards

_STATEMENT = ("operation", "query", "statement", "sql")
"""What PEP 249 and the drivers call the statement, for those who name it."""


_UNKNOWN = {"rowcount": -1, "lastrowid": None, "description": None}
"""What a cursor tells of its last statement, also after its end, and the values for not knowing."""


def _by_position(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Return the positional arguments with the statement among them, which may have been named."""
    named = [kwargs.pop(name) for name in _STATEMENT if name in kwargs]
    return (*named, *args)


class LeaseCursor:
    """A driver's cursor that works as long as its lease does."""

    __slots__ = ("__weakref__", "_lease", "_told", "driver_cursor")

    __reduce_ex__ = refuse_to_pickle("a cursor", "fetch its rows")

    _told: dict[str, Any] | None  # of its last statement; not set unless the driver's forgets it

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

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement; the arguments are the driver's."""
        if kwargs:
            args = _by_position(args, kwargs)
        return self._run(self.driver_cursor.execute, args, kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement once for each set of parameters."""
        if kwargs:
            args = _by_position(args, kwargs)
        return self._run(self.driver_cursor.executemany, args, kwargs)

    def _run(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs:
            function = functools.partial(function, **kwargs)
        if len(args) == 2 and args[1] is None:
            args = args[:1]  # "no parameters" for every driver
        result = self._lease.statement(function, *args)
        return self if result is self.driver_cursor else result

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

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        row = self._lease.fetch(self.driver_cursor.fetchone)
        if row is None:
            self._lease.has_read(self)
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
        lease = self._lease
        try:
            lease.usable()
        except PooledDBError:
            if lease.state is not State.RELEASED:
                raise
            return self._after_end("description")
        if lease.driver.forgets and self._is_closed:
            return self._after_end("description")
        return self.driver_cursor.description

    def remember(self) -> None:
        """Keep what the driver's cursor tells of its last statement, before that forgets it."""
        cursor, told = self.driver_cursor, {}
        if getattr(cursor, "closed", False) is True:
            return
        for name, unknown in _UNKNOWN.items():
            try:
                told[name] = getattr(cursor, name, _ABSENT)
            except Exception:  # noqa: BLE001  it does not tell
                told[name] = unknown
        _set(self, "_told", told)

    @property
    def _is_closed(self) -> bool:
        return getattr(self.driver_cursor, "closed", False) is True

    def _after_end(self, name: str) -> Any:
        """Return an attribute after the end of the cursor, or of its lease, without a look at the
        connection, which is another one's by then.
        """
        lease, cursor = self._lease, bare(self.driver_cursor)
        if name in _UNKNOWN and lease.state is not State.BROKEN:
            if not lease.driver.forgets:
                return getattr(cursor, name, _UNKNOWN[name])
            value = (getattr(self, "_told", None) or _UNKNOWN)[name]
            if value is not _ABSENT:
                return value
        elif hasattr(type(cursor), name) or name in getattr(cursor, "__dict__", ()):
            if name in GONE:
                return GONE[name]
            lease.usable()  # raises
        raise no_attribute(lease.driver.title, name, of="cursor")

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
        lease = self._lease
        if lease.is_gone or (name in _UNKNOWN and lease.driver.forgets and self._is_closed):
            return self._after_end(name)
        try:
            attribute = getattr(self.driver_cursor, name)
        except AttributeError as error:
            if name not in lease.driver.late_attributes:
                raise no_attribute(lease.driver.title, name, of="cursor") from error
            attribute = None
        if name in GONE:
            return attribute
        lease.usable()
        if not callable(attribute):
            return hand_out(lease, attribute)
        if name in lease.driver.takes_sql:
            return functools.partial(self._run_another_way, attribute)
        return functools.partial(self._driver_call, lease.way_of(name), attribute)

    def _run_another_way(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        args = _by_position(args, kwargs)
        return hand_out(self._lease, self._run(method, args, kwargs))

    def _driver_call(
        self, call: Callable[..., Any], method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        # What their first argument is, nobody knows: so it is not passed as the statement's text.
        result = call(functools.partial(method, *args, **kwargs))
        return self if result is self.driver_cursor else hand_out(self._lease, result)


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

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement; its placeholders may be those of MariaDB's drivers."""
        if kwargs:
            args = _by_position(args, kwargs)
        translate = self._lease.driver.translate
        # Compare no parameter by ==: a NumPy array answers with an array.
        if translate and len(args) > 1 and args[1] is not None:
            args = (translate(args[0], args[1]), *args[1:])
        return self._run(self.driver_cursor.execute, args, kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement once for each set of parameters."""
        if kwargs:
            args = _by_position(args, kwargs)
        translate = self._lease.driver.translate
        if translate and args:
            args = (translate(args[0]), *args[1:])
        return self._run(self.driver_cursor.executemany, args, kwargs)


class IteratingCursor(ParticularCursor):
    """A cursor that is iterated in its driver's own way: a named cursor of PostgreSQL then reads
    many rows in one round trip, while `fetchone()` reads one.
    """

    __slots__ = ("_read", "_rows")

    _read: Callable[..., Any]
    _rows: Iterator[Any] | None

    def __init__(self, lease: ReadingLease, driver_cursor: Any) -> None:
        super().__init__(lease, driver_cursor)
        _set(self, "_rows", None)
        _set(self, "_read", lease.fetch)

    def _run(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        _set(self, "_rows", None)
        return super()._run(function, args, kwargs)

    def __next__(self) -> Any:
        if self._rows is None:
            if not hasattr(type(self.driver_cursor), "__iter__"):
                return super().__next__()
            _set(self, "_rows", self._read(iter, self.driver_cursor))
        row = self._read(next, self._rows, _END)
        if row is _END:
            _set(self, "_rows", None)
            self._lease.has_read(self)
            raise StopIteration
        return row


class NamedCursor(IteratingCursor):
    """A cursor that the server runs as it is read: to read is a statement, which may write."""

    __slots__ = ()

    def __init__(self, lease: ReadingLease, driver_cursor: Any) -> None:
        super().__init__(lease, driver_cursor)
        _set(self, "_read", lease.rows_only)

    def _run(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        if getattr(self.driver_cursor, "withhold", False):
            # It outlives its transaction, and its driver's cursor if that is garbage.
            self._lease.usable().is_changed = True
        return super()._run(function, args, kwargs)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._read(self.driver_cursor.fetchone)

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        return self._read(functools.partial(self.driver_cursor.fetchmany, *args, **kwargs))

    def fetchall(self) -> Any:
        """Return all rows that are left."""
        return self._read(self.driver_cursor.fetchall)

    def _driver_call(
        self, call: Callable[..., Any], method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if call == self._lease.fetch:
            call = self._read  # scroll() reads as well
        return super()._driver_call(call, method, *args, **kwargs)
