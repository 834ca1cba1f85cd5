"""What the server has yet to send for a statement, and a cursor that has nothing left to read."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NoReturn

from flask_pooled_db.drivers import Driver
from flask_pooled_db.lease.home import Reader


class Stream:
    """A driver's cursor for which rows or further results are still to come.

    It keeps the driver's cursor from being finalized, which would read them unseen, and with them
    the error that they may end with. Whether anybody can still read them, its reader tells.
    """

    __slots__ = ("_reader", "_sql", "driver_cursor", "held", "was_read")

    def __init__(self, reader: Reader, sql: Any, held: list[Any]) -> None:
        self._sql = sql
        self._reader = weakref.ref(reader)
        cursor = reader.driver_cursor
        self.driver_cursor = cursor.cursor if type(cursor) is SpentCursor else cursor
        self.held = held  # the driver's other cursors: the end of one may read what is to come
        self.was_read = False  # to the last row; further results may follow

    @property
    def sql(self) -> Any:
        """The statement whose rows are being read; None if it is not known."""
        return None if self.was_read else self._sql

    @property
    def reader(self) -> Reader | None:
        """What its caller reads the rows with, unless that is garbage."""
        return self._reader()

    def has_rows(self, driver: Driver) -> bool:
        """Return whether rows are to come, as far as is known without looking."""
        is_streaming = driver.is_streaming
        return not self.was_read and bool(is_streaming and is_streaming(self.driver_cursor))


class SpentCursor:
    """A driver's cursor in a state in which nothing can be read from it.

    Whoever reads gets an error; a new statement may be run, and leads out of this state.
    """

    __slots__ = ("cursor", "make_error", "was_dropped")

    rowcount = -1
    description = None
    metadata = None

    def __init__(
        self, cursor: Any, make_error: Callable[[], Exception], *, was_dropped: bool
    ) -> None:
        object.__setattr__(self, "cursor", cursor)
        object.__setattr__(self, "make_error", make_error)
        object.__setattr__(self, "was_dropped", was_dropped)  # there was something to read

    def fetchone(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise: there are no rows."""
        raise self.make_error()

    fetchmany = fetchall = fetchrows = next = scroll = fetchone

    def nextset(self) -> None:
        """Go on to the next result: there is none."""
        if self.was_dropped:
            raise self.make_error()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the driver's cursor."""
        setattr(self.cursor, name, value)
