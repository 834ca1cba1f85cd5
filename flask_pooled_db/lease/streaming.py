"""Cursors whose rows, or results, the server sends as they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from flask_pooled_db.errors import PooledDBError, UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.cursor import ParticularCursor
from flask_pooled_db.lease.reading import ReadingLease
from flask_pooled_db.lease.streams import SpentCursor, Stream, WaitingCursor, bare

_set = object.__setattr__  # past LeaseCursor's own, which forwards


class StreamingCursor(ParticularCursor):
    """A cursor that has its lease know what is left to read of it."""

    __slots__ = ("_ahead",)

    _ahead: list[Any]  # a row that was fetched to see whether there is one

    def __init__(self, lease: ReadingLease, driver_cursor: Any) -> None:
        super().__init__(lease, driver_cursor)
        _set(self, "_ahead", [])
        _set(self, "_told", None)

    def _run(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        check = self._lease.driver.check_text
        if check:
            check(*args, *kwargs.values())
        return self._track(args[0] if args else None, super()._run, function, args, kwargs)

    def _driver_call(
        self, call: Callable[..., Any], method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        check = self._lease.driver.check_text
        if check:
            check(*args, *kwargs.values())
        if call == self._lease.fetch:
            return super()._driver_call(call, method, *args, **kwargs)
        return self._track(None, super()._driver_call, call, method, *args, **kwargs)

    def _track(self, sql: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a statement, and note what it leaves to read."""
        before = self.driver_cursor
        _set(self, "driver_cursor", bare(before))
        _set(self, "_told", None)
        lease = self._lease
        driver = lease.driver
        try:
            result = call(*args, **kwargs)
            if driver.settle and driver.is_streaming and driver.is_streaming(self.driver_cursor):
                lease.fetch(driver.settle, self.driver_cursor)
        except BaseException as error:
            if isinstance(error, PooledDBError) and not refusals.was_sent(error):
                _set(self, "driver_cursor", before)  # what there was to read is still there
            else:
                self._spend()
            raise
        self._ahead.clear()
        if driver.note_status:
            driver.note_status(lease.usable().raw)
        lease.note_stream(self, sql)
        if driver.forgets:
            super().remember()
        return result

    def _spend(self, make_error: Callable[[], Exception] | None = None) -> None:
        """Have nothing be read from the driver's cursor before its next statement."""
        self._ahead.clear()
        usual = self._lease.driver.nothing_to_read
        if (make_error or usual) and type(self.driver_cursor) is not SpentCursor:
            spent = SpentCursor(
                bare(self.driver_cursor), make_error or usual, was_dropped=make_error is not None
            )
            _set(self, "driver_cursor", spent)

    # Its rows

    def remember(self) -> None:
        """Do nothing: that was done after the statement. The connector's cursors tell what their
        connection did last, and after a broken result they crash the process.
        """

    def has_more(self) -> bool:
        """Return whether there is another row. It is kept until it is fetched."""
        if not self._ahead:
            row = super().fetchone()
            if row is None:
                return False
            self._ahead.append(row)
        return True

    def wait_for(self, stream: Stream) -> None:
        """Have nothing be read that would end another one's stream."""
        if type(self.driver_cursor) is not SpentCursor:
            waiting = WaitingCursor(bare(self.driver_cursor), stream, self._lease.driver)
            _set(self, "driver_cursor", waiting)

    def drop(self) -> None:
        """Give up what was not read. Whoever goes on reading gets an error."""
        self._spend(lambda: UsageError(refusals.DROPPED))

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        if self._ahead:
            return self._ahead.pop()
        row = self._lease.fetch(self.driver_cursor.fetchone)
        if row is None:
            self._lease.has_read(self)
        return row

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        if self._ahead:
            wanted = next(iter((*args, *kwargs.values())), None) or self.arraysize
            rows = [self._ahead.pop()]
            return rows if wanted == 1 else [*rows, *self.fetchmany(wanted - 1)]
        rows = super().fetchmany(*args, **kwargs)
        wanted = next(iter((*args, *kwargs.values())), None) or self.arraysize
        if len(rows) < wanted:  # its caller may not ask again
            self._lease.has_read(self)
        return rows

    def fetchall(self) -> Any:
        """Return all rows that are left."""
        if self._ahead:
            return [self._ahead.pop(), *super().fetchall()]
        return super().fetchall()

    def __getattr__(self, name: str) -> Any:
        attribute = super().__getattr__(name)
        if name == "nextset":
            return self._nextset
        if name == "fetchall_unbuffered":
            return self.__iter__
        if name in ("next", "read_next"):  # of the connector, and of PyMySQL
            return self.fetchone
        if name == "fetchrows":
            return self._fetchrows
        return attribute

    def _fetchrows(self, size: int) -> Any:
        """Return the next rows as the connector does, which means all by a negative number."""
        return self.fetchall() if size < 0 else self.fetchmany(size)

    def _nextset(self) -> Any:
        """Go on to the next result, and drop the rows that are left of this one. Raises what either
        ends with.
        """
        lease, driver = self._lease, self._lease.driver
        if type(self.driver_cursor) is SpentCursor:
            return self.driver_cursor.nextset()
        self._ahead.clear()
        if driver.finish_rows and driver.is_streaming and driver.is_streaming(self.driver_cursor):
            lease.fetch(driver.finish_rows, self.driver_cursor)
            lease.has_read(self)
        more = lease.fetch(self.driver_cursor.nextset)
        if not more and driver.check_end:
            self._spend()
            lease.fetch(driver.check_end, lease.usable().raw)
        lease.note_stream(self)
        if more and driver.forgets:
            super().remember()
        return more

    def close(self) -> None:
        """Close the cursor, as its base class does."""
        super().close()
        self._spend()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
