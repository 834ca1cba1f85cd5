"""Leases whose cursors make something else than tuples of their rows.

They are of classes of their own, so that others do not pay for it. What rows are like is up to the
innermost block: a function that has a block of its own means the same whoever calls it.
"""

from __future__ import annotations

import functools
from types import TracebackType
from typing import Any, Self

from flask_pooled_db.config import Rows, ScopeOptions
from flask_pooled_db.lease.cursor import LeaseCursor
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.preamble import Part
from flask_pooled_db.lease.rows import Make, Shape, shape_of
from flask_pooled_db.lease.transaction import TransactionLease
from flask_pooled_db.pool import Engine, Entry
from flask_pooled_db.runtime import refuse_to_pickle

_CLASSES_OF_CURSORS = ("cursor_class", "streaming_class", "named_class")
_SHAPING = "_shaping"  # the attribute in which a class of leases has the one that shapes

_FACTORY, _CLASS = "row_factory", "cursorclass"
CURSOR_SETTINGS = (_FACTORY, _CLASS)
"""The attributes by which connections of sqlite3, psycopg, PyMySQL and mysqlclient are told what
their cursors are like."""

_TUPLES = (tuple, list)  # a row of any other class is as the driver was told to make it
_GIVE_ROW = frozenset({"next", "read_next"})  # of the MariaDB connector and of PyMySQL
_GIVE_ROWS = frozenset({"fetchall_unbuffered", "fetchrows", "stream"})  # and of psycopg

_set = object.__setattr__  # past ShapedCursor's own, which forwards


class ShapingLease(TransactionLease):
    """A lease that gives its cursors' rows a shape. It comes before a driver's class of leases."""

    __slots__ = ()

    def __init__(self, home: Any, entry: Entry, *args: Any) -> None:
        super().__init__(home, entry, *args)
        self.wanted_rows = entry.origin.config.rows
        self.cursor_settings = None

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a new cursor; the arguments are the driver's."""
        settings = self._block().cursor_settings or {}
        if settings.get(_CLASS) is not None and not (args or kwargs):
            args = (settings[_CLASS],)
        cursor = super().cursor(*args, **kwargs)  # type: ignore[misc]
        return cursor if _FACTORY in kwargs else self._with_factory(cursor)

    def _driver_call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        result = super()._driver_call(name, *args, **kwargs)  # type: ignore[misc]
        return self._with_factory(result)

    def _with_factory(self, result: Any) -> Any:
        settings = self._block().cursor_settings or {}
        if _FACTORY in settings and isinstance(result, LeaseCursor | ShapedCursor):
            result.row_factory = settings[_FACTORY]
        return result

    def _block(self) -> Part | Self:
        """Return the nested block that the caller is in, or this, which is the outermost one."""
        preamble = self._preamble
        if preamble is None:
            return self
        return preamble.innermost(is_owner=self.owner == current_owner()) or self


def shaping_class(plain: Any) -> Any:
    """Return a class of leases like this one that can give rows a shape."""
    made = vars(plain).get(_SHAPING)
    if made is None:
        namespace: dict[str, Any] = {
            name: staticmethod(functools.partial(_make_cursor, getattr(plain, name)))
            for name in _CLASSES_OF_CURSORS
        }
        made = type(plain.__name__, (ShapingLease, plain), {"__slots__": (), **namespace})
        setattr(plain, _SHAPING, made)
    return made


def able_to_shape(lease: Any) -> ShapingLease:
    """Return a lease that can give rows a shape from now on. It is the same one."""
    if not isinstance(lease, ShapingLease):
        lease.wanted_rows = "tuple"  # else it would have been made as one
        lease.cursor_settings = None
        lease.__class__ = shaping_class(type(lease))
    shaping: ShapingLease = lease
    return shaping


def rows_of(pool: Engine, options: ScopeOptions) -> Rows:
    """Return the shape of the rows of a block on a pool. What encloses it has no part in that."""
    return pool.terms.config.rows if options.rows is None else options.rows


def shape_rows(lease: Any, rows: Rows) -> None:
    """Have the rows of a lease be of this shape, outside of nested blocks."""
    if rows != "tuple" or isinstance(lease, ShapingLease):
        able_to_shape(lease).wanted_rows = rows


def has_usual_rows(lease: Any) -> bool:
    """Return whether a new cursor's rows are what they are in a block that asks for nothing."""
    if not isinstance(lease, ShapingLease):
        return True
    block = lease._block()
    return not block.cursor_settings and block.wanted_rows == lease.usable().origin.config.rows


def plain_cursor(cursor: Any) -> LeaseCursor:
    """Return a cursor that gives the driver's rows of the one that gives them a shape."""
    plain: LeaseCursor = cursor._cursor if isinstance(cursor, ShapedCursor) else cursor
    return plain


def cursor_setting(lease: Any, name: str) -> Any:
    """Return what the connection of a lease tells its cursors."""
    raw = lease.usable().raw
    settings = lease._block().cursor_settings if isinstance(lease, ShapingLease) else None
    return settings[name] if settings and name in settings else getattr(raw, name)


def set_for_cursors(lease: Any, name: str, value: Any) -> None:
    """Tell the cursors that are made of a lease, until the end of the innermost block."""
    lease.usable()
    block = able_to_shape(lease)._block()
    block.cursor_settings = {**(block.cursor_settings or {}), name: value}


def _make_cursor(kind: Any, lease: ShapingLease, driver_cursor: Any) -> Any:
    cursor = kind(lease, driver_cursor)
    shape = shape_of(lease._block().wanted_rows)
    return cursor if shape is None else ShapedCursor(cursor, shape)


class ShapedCursor:
    """A cursor of a lease, with rows of another shape.

    A row is shaped when the driver's call has ended. What is no plain tuple stays as it is: the
    driver was told what to make.
    """

    __slots__ = ("__weakref__", "_cursor", "_make", "_shape")

    __reduce_ex__ = refuse_to_pickle("a cursor", "fetch its rows")

    _cursor: LeaseCursor
    _make: Make | None  # of the present result; None until its first row
    _shape: Shape

    def __init__(self, cursor: LeaseCursor, shape: Shape) -> None:
        _set(self, "_cursor", cursor)
        _set(self, "_shape", shape)
        _set(self, "_make", None)

    @property
    def unshaped(self) -> LeaseCursor:
        """The cursor whose rows it shapes."""
        return self._cursor

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the cursor."""
        _set(self, "_make", None)
        setattr(self._cursor, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        attribute = getattr(self._cursor, name)
        if name in _GIVE_ROW:
            return lambda: self._one(attribute())
        if name in _GIVE_ROWS:
            return functools.partial(self._give_rows, attribute)
        return functools.partial(self._call, attribute) if callable(attribute) else attribute

    def _call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        _set(self, "_make", None)  # the columns may be others afterwards
        result = method(*args, **kwargs)
        return self if result is self._cursor else result

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement; the arguments are the driver's."""
        return self._call(self._cursor.execute, *args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement once for each set of parameters."""
        return self._call(self._cursor.executemany, *args, **kwargs)

    def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cursor.__exit__(exc_type, exc, traceback)

    # Its rows

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._one(self._cursor.fetchone())

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        return self._many(self._cursor.fetchmany(*args, **kwargs))

    def fetchall(self) -> Any:
        """Return all rows that are left."""
        return self._many(self._cursor.fetchall())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        row = next(self._cursor)
        try:
            return self._one(row)
        except StopIteration as error:  # it would end the caller's loop
            raise RuntimeError("what makes the rows raised StopIteration") from error

    def _give_rows(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        rows = self._call(method, *args, **kwargs)
        if rows is self or isinstance(rows, list | tuple):
            return rows if rows is self else self._many(rows)
        return ShapedRows(rows, self._one)

    def _maker(self) -> Make:
        """Return what makes the rows of the present result."""
        cursor = self._cursor
        is_own = cursor.connection.driver.makes_own_rows(cursor.driver_cursor)
        make = _as_it_is if is_own else self._shape(cursor.description)
        _set(self, "_make", make)
        return make

    def _one(self, row: Any) -> Any:
        return (self._make or self._maker())(row) if type(row) in _TUPLES else row

    def _many(self, rows: Any) -> Any:
        make = self._make or (self._maker() if rows else _as_it_is)
        if make is _as_it_is:
            return rows
        return [make(row) if type(row) in _TUPLES else row for row in rows]


class ShapedRows:
    """Rows that a driver hands out one by one."""

    __slots__ = ("_one", "_rows")

    def __init__(self, rows: Any, one: Make) -> None:
        self._rows = rows
        self._one = one

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._one(next(self._rows))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._rows, name)


def _as_it_is(row: Any) -> Any:
    return row
