"""Leases whose statements are observed. Others are of classes that know nothing of it, and their
statements cost nothing more.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers import Driver
from flask_pooled_db.errors import DeadlineExceeded, PooledDBError, TransactionAborted
from flask_pooled_db.lease.home import OpenCursor
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.streams import bare
from flask_pooled_db.lease.texts import innermost, text_of
from flask_pooled_db.pool.statements import Rows, Statement
from flask_pooled_db.runtime import reporter

logger = logging.getLogger("flask_pooled_db")

MOST_UNREAD = 20
"""How many cursors of a lease have their rows counted at a time. Beyond that the oldest has what
it has."""

_MOST_ROWS = 2**62  # more mean that the driver does not know
_FETCHES_ONE = frozenset({"fetchone", "next", "read_next"})
_FETCHES_SOME = frozenset({"fetchmany", "fetchrows"})
_FETCHES = _FETCHES_ONE | _FETCHES_SOME | {"fetchall", "iter", "scroll"}


_AFTERWARDS = (DeadlineExceeded, TransactionAborted)
"""The errors of the package that a statement may have which was sent."""


class ObservingLease(Lease):
    """A lease that tells its pool's observer of each statement, when the driver has returned.

    All statements come through `sent()`, which is what takes the time: what the lease itself sends
    before one (a savepoint, the session's state) is no part of it, nor is COMMIT. The rows that are
    fetched after it are counted as its rows; the time that takes is not its time.

    It comes before a driver's class of leases.
    """

    __slots__ = ()

    def __init__(self, *args: Any) -> None:
        self.unread = {}  # first: an interruption may leave a lease that is made in part
        super().__init__(*args)

    def sent(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement, and tell of it if it took long enough."""
        if self.unread and not _is_fetch(function):
            self._stop_counting(_owner_of(function))
        terms = self._home.terms
        observer, clock = terms.observer, terms.clock
        is_over, began = self.is_over, clock()
        try:
            result = super().sent(function, *args)
        except BaseException as error:
            if isinstance(error, PooledDBError) and (is_over or not isinstance(error, _AFTERWARDS)):
                raise  # it was not sent
            ended = clock()
            if ended - began >= observer.least:
                self._tell_observer(function, args, None, (began, ended), error)
            raise
        ended = clock()
        if ended - began >= observer.least:
            self._tell_observer(function, args, result, (began, ended), None)
        return result

    def _tell_observer(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        result: Any,
        times: tuple[float, float],
        error: BaseException | None,
    ) -> None:
        owner, name = _owner_of(function), getattr(innermost(function), "__name__", "")
        if not _is_statement(owner, name, args):
            return
        entry = self._entry
        cursor = result if hasattr(result, "fetchone") else owner
        # What a cursor says while something else reads is of the statement before.
        is_unknown = error is not None or entry is None or name in self.driver.takes_sql
        rows = Rows(None) if is_unknown else self._rows_after(cursor)
        raw = None if entry is None else entry.raw
        has_waited = entry is not None and entry.was_waited_for
        text = text_of(function, args, raw)
        where = {} if entry is None else entry.origin.where
        statement = Statement(self, text, *times, rows, error, has_waited, where)
        tell_observer(self._home.terms.observer.ran, statement)

    # Rows

    def _rows_after(self, cursor: Any) -> Rows:
        try:
            has_rows, count = cursor.description is not None, cursor.rowcount
        except Exception:  # noqa: BLE001  it has none, or does not tell
            return Rows(None)
        is_known = isinstance(count, int) and 0 <= count < _MOST_ROWS
        streams = self.driver.is_streaming
        has_all = self.driver.counts_rows and not (streams and streams(cursor))
        if not has_rows or (is_known and has_all):
            return Rows(count if is_known else None)
        return self._count_rows(cursor)

    def _count_rows(self, cursor: Any) -> Rows:
        """Return the number of rows of a cursor, which is to be counted as they are read."""
        rows = Rows(0, is_final=False)
        try:
            reference = weakref.ref(cursor)  # as garbage it must not be kept: it may hold locks
        except TypeError:
            return Rows(None)
        while len(self.unread) >= MOST_UNREAD:
            self.unread.pop(next(iter(self.unread)))[1].end()
        self.unread[id(cursor)] = reference, rows
        return rows

    def _counted(self, cursor: Any) -> Rows | None:
        reference, rows = self.unread.get(id(cursor), (None, None))
        return rows if reference is not None and reference() is cursor else None

    def _stop_counting(self, cursor: Any) -> None:
        """Note that the rows of a cursor are not read any further."""
        if self._counted(cursor) is not None:
            self.unread.pop(id(cursor))[1].end()

    def fetch(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver for what a statement has left."""
        result = super().fetch(function, *args)
        if self.unread:
            self._note_read(function, args, result)
        return result

    def rows_only(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement that only reads or writes rows, or fetch from a cursor that the server
        runs as it is read.
        """
        result = super().rows_only(function, *args)
        if self.unread and _is_fetch(function):
            self._note_read(function, args, result)
        return result

    def _note_read(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
        """Count what was read, if it is of a cursor whose rows are counted."""
        inner = innermost(function)
        cursor = bare(args[0]) if inner in (iter, next) and args else _owner_of(function)
        rows = self._counted(cursor)
        if rows is None:
            return
        if inner is iter:
            self._count_iterator(result, rows)
            return
        name = getattr(inner, "__name__", "")
        if inner is next:
            is_over = result is args[-1]
            rows.read(not is_over)
        elif name in _FETCHES_ONE:
            is_over = result is None
            rows.read(not is_over)
        elif name in _FETCHES_SOME or name == "fetchall":
            is_over = name == "fetchall" or len(result or ()) < (args[0] if args else 1)
            rows.read(len(result or ()))
        else:
            return
        if is_over:
            self.unread.pop(id(cursor), None)
            rows.end()

    def _count_iterator(self, iterator: Any, rows: Rows) -> None:
        """Count also what an iterator of a cursor's reads."""
        try:
            self.unread[id(iterator)] = weakref.ref(iterator), rows
        except TypeError:
            rows.count = None

    def close_cursor(self, cursor: OpenCursor) -> None:
        """Close a driver's cursor and forget it."""
        super().close_cursor(cursor)  # type: ignore[misc]
        if self.unread:
            self._stop_counting(bare(cursor.driver_cursor))

    def release(self) -> None:
        """Return the connection."""
        try:
            super().release()
        finally:
            unread, self.unread = self.unread, {}
            for _, rows in unread.values():
                rows.end()


def tell_observer(tell: Callable[[Statement], object], statement: Statement) -> None:
    """Tell an observer of a statement, which does not fail for that."""
    try:
        tell(statement)
    except Exception as failure:  # noqa: BLE001  the statement has not failed
        reporter.tell(logger.error, "An observer of statements failed: %s", type(failure).__name__)


def _owner_of(function: Callable[..., Any]) -> Any:
    """Return the cursor, or the connection, whose method a function is."""
    return bare(getattr(innermost(function), "__self__", None))


def _is_fetch(function: Callable[..., Any]) -> bool:
    return getattr(innermost(function), "__name__", "") in _FETCHES


def _is_statement(owner: Any, name: str, args: tuple[Any, ...]) -> bool:
    """Return whether a call is a statement of the application's: not the pool's own, nor reading
    from a cursor that the server runs as it is read.
    """
    if isinstance(owner, Driver | Lease) or name in _FETCHES:
        return False
    return bool(args) or owner is not None
