"""What a lease's statements have left to read: rows of streaming cursors, further results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.home import Live, OpenCursor, OpenCursors, Reader
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.preamble import Preamble
from flask_pooled_db.lease.state import AFTER_STATEMENT, State
from flask_pooled_db.lease.streams import SpentCursor, Stream
from flask_pooled_db.pool import Entry, evictions

IN_TRANSACTION, BUSY = State.IN_TRANSACTION, State.BUSY


class ReadingLease(Lease):
    """A lease that knows what the server has yet to send, so that nothing of it is lost unseen.

    Rows that a cursor has not read are in the way of every other statement, which is refused.
    Results that nobody asked for are read first, and what they end with is raised.
    """

    __slots__ = ()

    def _prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        entry = self._entry
        if entry is not None and entry.streams and self._state <= IN_TRANSACTION:
            self.clear_way(entry)
        if self._has_handles:
            self.refuse_if_busy(self.usable())
        function = super()._prepare(function)
        self._is_ready = self._is_ready and not self._has_handles
        return function

    @property
    def _has_handles(self) -> bool:
        return self._cursors is not None and self._cursors.has_handles

    def refuse_if_busy(self, entry: Entry) -> None:
        """Raise if something that was handed out has more to read. Some drivers would wait for
        that, in the thread that is to read it.
        """
        if self._has_handles and self.driver.has_unread_rows(entry.raw):
            raise UsageError(refusals.UNREAD)

    def refuse_to_wait(self, thing: Any, *, finish: bool = False) -> None:
        """Raise if a step of something would wait for another one that was handed out, or `finish`
        that one.
        """
        entry, would_wait = self.usable(), self.driver.would_wait
        if would_wait and would_wait(entry.raw, thing):
            if not finish:
                raise UsageError(refusals.UNREAD)
            self.drop_unread(entry)

    def note_stream(self, reader: Reader, sql: Any = None) -> None:
        """Note what the server has yet to send for the last statement of a cursor."""
        entry, driver = self._entry, self.driver
        if entry is None or driver.is_streaming is None:
            return
        cursor = reader.driver_cursor
        has_rows = type(cursor) is not SpentCursor and driver.is_streaming(cursor)
        is_due = has_rows or driver.has_unread_rows(entry.raw)
        if is_due or entry.streams:
            streams = [other for other in entry.streams if other.reader is not reader]
            entry.streams = [*streams, self._new_stream(reader, sql)] if is_due else streams
            self._is_ready = self._is_ready and not is_due  # each statement has to look for it

    def _new_stream(self, reader: Reader, sql: Any) -> Stream:
        stream = Stream(reader, sql)
        if self.driver.has_to_close_cursors:
            disturbs = self.driver.disturbs
            for other in self._open_cursors():
                if other is not reader:
                    stream.held.append(other.driver_cursor)
                    if disturbs and disturbs(other.driver_cursor):
                        other.wait_for(stream)
        return stream

    def has_read(self, reader: OpenCursor) -> None:
        """Note that a cursor has no more rows to read. Raises if they did not come to their end."""
        entry, driver = self._entry, self.driver
        if entry is None or not entry.streams:
            return
        for stream in entry.streams:
            if stream.reader is reader and not stream.was_read:
                try:
                    if driver.check_end:
                        self.fetch(driver.check_end, entry.raw)
                finally:
                    stream.was_read = True
                if not driver.has_unread_rows(entry.raw):
                    entry.streams = [other for other in entry.streams if other is not stream]

    def clear_way(self, entry: Entry) -> None:
        """Make room for a statement. Raises `UsageError` if rows are left for somebody to read."""
        for stream in entry.streams:
            reader = stream.reader
            if reader is not None and stream.has_rows(self.driver) and reader.has_more():
                raise UsageError(refusals.UNREAD)
        self._read_rest(entry)

    def read_results(self, entry: Entry) -> None:
        """Read the results that nobody asked for, unless rows are in their way. Raises what they
        end with.
        """
        driver = self.driver
        if not (entry.streams or driver.has_unread_rows(entry.raw)):
            return
        has_rows = any(stream.has_rows(driver) for stream in entry.streams)
        if not has_rows and driver.has_only_results(entry.raw):
            self.finish_reading(entry)

    def finish_reading(self, entry: Entry) -> None:
        """Read all that is left, so that the transaction, or a part of it, can be ended.

        Raises what the statement ends with.
        """
        driver = self.driver
        if self._cursors is not None:
            for handle in self._cursors.handles():
                handle.drop()
                self.fetch(driver.finish_handle, entry.raw, handle.driver_cursor)
        if driver.has_unread_rows(entry.raw) and not driver.has_only_results(entry.raw):
            self._condemn(evictions.UNREAD)
        if any(stream.has_rows(driver) for stream in entry.streams):
            self._condemn(evictions.UNREAD)
        self._read_rest(entry)
        if driver.has_unread_rows(entry.raw) or self.is_queueing(entry):
            self.fetch(driver.finish_reading, entry.raw)

    @property
    def has_all(self) -> bool:
        """Whether the driver is known to have all rows and results: to fetch them asks nobody."""
        entry, driver = self._entry, self.driver
        if entry is None or self._state > IN_TRANSACTION:
            return True  # it is refused
        tells = not driver.has_to_close_cursors or driver.is_streaming is not None
        return tells and not (entry.streams or driver.has_unread_rows(entry.raw))

    def has_left(self, entry: Entry) -> bool:
        """Return whether anything is left to read."""
        is_due = bool(entry.streams) or self.driver.has_unread_rows(entry.raw)
        return is_due or self.is_queueing(entry)

    def is_queueing(self, entry: Entry) -> bool:
        """Return whether statements are sent without waiting for their answers."""
        return self.driver.is_queueing is not None and self.driver.is_queueing(entry.raw)

    def drop_unread(self, entry: Entry) -> None:
        """Read all that is left before a ROLLBACK, which undoes also what fails in it."""
        try:
            self.finish_reading(entry)
        except self.driver.Error:
            if self._state > IN_TRANSACTION:
                raise

    def _read_rest(self, entry: Entry) -> None:
        streams, entry.streams = entry.streams, []
        for stream in streams:
            reader = stream.reader
            if reader is not None and stream.has_rows(self.driver):
                reader.drop()
            stream.is_over = True
            self.fetch(self.driver.finish_cursor, entry.raw, stream.driver_cursor)

    # What was handed out

    def step(self, function: Callable[..., Any], *args: Any) -> Any:
        """Go on with something that the driver handed out for a statement: it may run more SQL."""
        if self._preamble is not None:
            self._enter_part(self._preamble, function)
        return self.last_step(function, *args)

    def last_step(self, function: Callable[..., Any], *args: Any) -> Any:
        """End something that the driver handed out. In a nested scope, that is what came before."""
        self._state = AFTER_STATEMENT[self._state] or self._state
        return self.fetch(function, *args)

    def _enter_part(self, preamble: Preamble, function: Callable[..., Any]) -> None:
        """Set the savepoint of the nested scope that the caller is in, as before a statement.

        Raises `UsageError` if that can't be done at this moment.
        """
        entry, is_owner = self.usable(), self.owner == current_owner()
        if preamble.before_statement(is_owner=is_owner)[0]:
            if self.driver.has_unread_rows(entry.raw):
                raise UsageError(refusals.OF_OUTER)
            self._prepare(function)
        if self.driver.before_step:
            self.call(self.driver.before_step, entry.raw)

    def make_cursor(self, driver_cursor: Any) -> Any:
        """Return a cursor over one of the driver's."""
        if self.driver.may_stream(self.usable().raw, driver_cursor):
            return self.streaming_class(self, driver_cursor)
        is_named = self.driver.iterates_cursors and getattr(driver_cursor, "name", None)
        return (self.named_class if is_named else self.cursor_class)(self, driver_cursor)

    def note_bare(self) -> None:
        """Open a transaction before something can be run past the driver, which opens none then."""
        self.session_changed("what works past its driver")
        self.rows_only(self.driver.open_transaction, self.usable().raw)

    def note_cursor(self, cursor: OpenCursor) -> None:
        """Have a cursor, or the like, closed at the end of the lease, if it is open by then."""
        self._handed_out().add(cursor)

    def note_handle(self, handle: Live, *, has_to_be_closed: bool) -> None:
        """Note something else that was handed out."""
        handed_out = self._handed_out()
        handed_out.has_handles = True
        self._is_ready = False  # each statement has to look for it
        if has_to_be_closed:
            handed_out.add_handle(handle)

    def note_block(self, change: int) -> None:
        """Note that a block of the driver's own was entered (1) or left (-1)."""
        self._handed_out().entered += change

    @property
    def _entered(self) -> int:
        """How many blocks of the driver's own were entered and not left."""
        return 0 if self._cursors is None else self._cursors.entered

    def _refuse_open_block(self) -> None:
        if self._entered:
            raise refusals.open_block()

    def _handed_out(self) -> OpenCursors:
        if self._cursors is None:
            self._cursors = OpenCursors()
        return self._cursors

    def forget(self, cursor: OpenCursor) -> None:
        """Note that there is nothing to close any more."""
        if self._cursors is not None:
            self._cursors.forget(cursor)

    def close_cursor(self, cursor: OpenCursor) -> None:
        """Close a driver's cursor and forget it. After the end of the lease there is nothing to
        close.
        """
        entry, driver = self._entry, self.driver
        if entry is None or self._state > BUSY:
            return
        if driver.forgets:
            cursor.remember()
        if entry.streams and not self._finish_own(entry, cursor) and driver.has_to_close_cursors:
            return  # it would end the other's stream, which keeps it until then
        if driver.would_wait and driver.would_wait(entry.raw, cursor.driver_cursor):
            return  # it is closed at the end of the lease
        if driver.has_to_close_cursors or driver.has_unread_rows(entry.raw):
            self._close(cursor)
        elif self._state is BUSY:
            raise self._refusal()
        else:  # the server learns nothing of it
            cursor.driver_cursor.close()

    def _finish_own(self, entry: Entry, cursor: OpenCursor) -> bool:
        """Read what a cursor has left, since the end of that may be an error. Returns False if what
        is to come is another one's.
        """
        own = [stream for stream in entry.streams if stream.reader is cursor]
        for stream in own:
            entry.streams = [other for other in entry.streams if other is not stream]
            stream.is_over = True
            self.fetch(self.driver.finish_cursor, entry.raw, stream.driver_cursor)
        return bool(own)

    def _close(self, cursor: OpenCursor) -> None:
        self.fetch(cursor.driver_cursor.close)
        self.forget(cursor)
