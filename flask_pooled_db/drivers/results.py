"""What the lease asks of a driver about rows and results that were not read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from flask_pooled_db.drivers import unknown


class Results:
    """The part of a driver that knows what a statement has left to read.

    The answers here are for a driver that reads everything at once. `raw` is always the driver's
    own connection, and `cursor` its own cursor.
    """

    counts_rows: ClassVar[bool] = False
    """Whether a statement that returns rows has their number as its `rowcount`, once the driver has
    them all."""

    def makes_own_rows(self, cursor: Any) -> bool:
        """Return whether a cursor was told what its rows are to be."""
        return unknown.makes_own_rows(cursor)

    def has_unread_rows(self, raw: Any) -> bool:
        """Return whether the driver knows of rows, or further results, that the server still has to
        send for an earlier statement.
        """
        return unknown.has_unread_rows(raw)

    def has_only_results(self, raw: Any) -> bool:
        """Return whether these are results that no cursor has begun to read."""
        return unknown.has_only_results(raw)

    is_queueing: Callable[[Any], bool] | None = None
    """Returns whether statements are sent without waiting for their answers, which
    `finish_reading` reads then; None if the driver waits for each."""

    def finish_reading(self, raw: Any) -> None:
        """Read what there is to read. Raises what it ends with."""
        unknown.finish_results(raw)

    def finish_cursor(self, raw: Any, cursor: Any) -> None:
        """Read what a cursor has left. Raises what it ends with."""
        self.finish_reading(raw)

    def finish_handle(self, raw: Any, thing: Any) -> None:
        """Read all that something else which was handed out has left, and close it. To close it
        earlier may fail its transaction.
        """
        if hasattr(type(thing), "__next__"):
            deque(thing, maxlen=0)
        thing.close()

    would_wait: Callable[[Any, Any], bool] | None = None
    """Returns whether a step of something, a cursor's too, would wait for another one to be read;
    None if none does."""

    is_bare: Callable[[Any, Any], bool] | None = None
    """Returns whether something is what the driver itself talks to the server with, so that it
    can run SQL in no transaction; None if there is no such thing."""

    check_end: Callable[[Any], None] | None = None
    """Raises if the rows, or the results, of a statement came to their end by an error that the
    driver does not raise; None if it raises each."""

    def may_stream(self, raw: Any, cursor: Any = None) -> bool:
        """Return whether a cursor, or one made without arguments, may read its rows from the server
        as they are fetched, or leave results unread that the driver does not read by itself.
        """
        return self.is_streaming is not None

    finish_rows: Callable[[Any], None] | None = None
    """Reads the rows that a streaming cursor has left; None if going on to the next result does."""

    settle: Callable[[Any], None] | None = None
    """Fetches all rows of a streaming cursor whose rows the driver can't fetch one by one; None if
    there is no such cursor."""

    disturbs: Callable[[Any], bool] | None = None
    """Returns whether reading the rows of a cursor that has them all ends another one's stream;
    None if no cursor does."""

    nothing_to_read: Callable[[], Exception] | None = None
    """Makes the error for reading from a cursor that has no result, if the driver itself must not
    be asked then; None if it may."""

    check_text: Callable[..., None] | None = None
    """Raises if one of its arguments is what the driver must not see; None if there is no such
    thing."""

    cursors_send: bool = False
    """Whether something is sent for each new cursor, so that results have to be read before."""

    has_to_close_cursors: ClassVar[bool] = True
    """Whether a cursor that is left open can harm the connection's next user. If not, closing it
    waits for the server only while the connection has unread rows."""

    late_attributes: ClassVar[frozenset[str]] = frozenset()
    """Attributes that cursors have only once they ran a statement; they are None before."""
    forgets: ClassVar[bool] = True
    """Whether a cursor may have to be asked before its end for what it tells of its last statement:
    how many rows, which columns. If not, it can be asked at any time."""

    is_streaming: Callable[[Any], bool] | None = None
    """Returns whether a cursor reads its rows from the server as they are fetched; None if
    `has_unread_rows` tells it."""
