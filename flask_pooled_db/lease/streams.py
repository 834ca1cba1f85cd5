"""What the server has yet to send for a statement, and a cursor that has nothing left to read."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NoReturn

from flask_pooled_db.drivers import Driver
from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.home import Reader


class Stream:
    """A driver's cursor for which rows or further results are still to come.

    It keeps the driver's cursor from being finalized, which would read them unseen, and with them
    the error that they may end with. Whether anybody can still read them, its reader tells.
    """

    __slots__ = ("_reader", "_sql", "driver_cursor", "held", "is_over", "was_read")

    def __init__(self, reader: Reader, sql: Any) -> None:
        self._sql = sql
        self._reader = weakref.ref(reader)
        self.driver_cursor = bare(reader.driver_cursor)
        self.held: list[Any] = []  # other cursors: the end of one may read what is to come
        self.was_read = False  # to the last row; further results may follow
        self.is_over = False

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


class Stub:
    """What stands in for a driver's cursor while nothing may be read from it.

    A new statement may be run with it, and leads out of this.
    """

    __slots__ = ("cursor",)

    def __init__(self, cursor: Any) -> None:
        object.__setattr__(self, "cursor", cursor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the driver's cursor."""
        setattr(self.cursor, name, value)


def bare(cursor: Any) -> Any:
    """Return the driver's own cursor."""
    return cursor.cursor if isinstance(cursor, Stub) else cursor


class SpentCursor(Stub):
    """A cursor that has nothing to read, or not any more. Whoever reads gets an error."""

    __slots__ = ("make_error", "was_dropped")

    rowcount = -1
    description = None
    metadata = None

    def __init__(
        self, cursor: Any, make_error: Callable[[], Exception], *, was_dropped: bool
    ) -> None:
        super().__init__(cursor)
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


class WaitingCursor(Stub):
    """A cursor whose rows can't be read while another one's stream has rows."""

    __slots__ = ("driver", "stream")

    def __init__(self, cursor: Any, stream: Stream, driver: Driver) -> None:
        super().__init__(cursor)
        object.__setattr__(self, "stream", stream)
        object.__setattr__(self, "driver", driver)

    def __getattr__(self, name: str) -> Any:
        is_amid = not self.stream.is_over and self.stream.has_rows(self.driver)
        if is_amid and name.startswith(("fetch", "next")):
            raise UsageError(refusals.UNREAD)
        return super().__getattr__(name)
