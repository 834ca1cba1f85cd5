"""What a caller sees of a driver's other objects: generators, context managers, large objects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.reading import ReadingLease

_PLAIN = frozenset(
    {type(None), bool, int, float, str, bytes, bytearray, memoryview, tuple, list, dict}
)
_LIVE = ("__next__", "__enter__", "close", "read")
"""What an object has that goes on using its connection."""

GONE = {"open": False, "closed": True, "broken": True}
"""What drivers' connections and cursors are asked about their state, and the answers after their
end: `finally: if conn.open: conn.close()` must not hide the error that it follows."""

_END = object()


def is_plain(value: Any) -> bool:
    """Return whether a value of the driver's can do nothing."""
    return type(value) in _PLAIN


def hand_out(lease: ReadingLease, value: Any) -> Any:
    """Return what the driver has given, in a form that ends with the lease."""
    if is_plain(value):
        return value
    if lease.is_of(value):
        return lease
    if hasattr(value, "fetchone") and hasattr(value, "execute"):
        return lease.make_cursor(value)
    if lease.driver.is_bare and lease.driver.is_bare(lease.usable().raw, value):
        lease.note_bare()
    elif any(hasattr(type(value), name) for name in _LIVE):
        return Handle(lease, value)
    elif hasattr(value, "pgconn"):
        return Facts(lease, value)
    return value


class Facts:
    """What a driver tells of its connection (psycopg's `info`), as long as its lease works."""

    __slots__ = ("_facts", "_lease")

    def __init__(self, lease: ReadingLease, facts: Any) -> None:
        self._lease = lease
        self._facts = facts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._lease.usable()
        return hand_out(self._lease, getattr(self._facts, name))


class Handle:
    """An object of the driver's that works as long as its lease does.

    Each step of an iteration and each call of a method is a call of the lease.
    """

    __slots__ = ("__weakref__", "_is_dropped", "_lease", "driver_cursor")

    def __init__(self, lease: ReadingLease, thing: Any) -> None:
        self._lease = lease
        self.driver_cursor = thing  # is closed at the end of the lease, like a cursor
        self._is_dropped = False
        lease.note_handle(self, has_to_be_closed=hasattr(type(thing), "close"))

    def __repr__(self) -> str:
        return f"<Handle of {self.driver_cursor!r}>"

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = self._step(functools.partial(method, *args, **kwargs))
        return self if result is self.driver_cursor else hand_out(self._lease, result)

    def _step(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._is_dropped and not self._lease.is_over:
            raise UsageError(refusals.DROPPED)
        self._lease.refuse_to_wait(self.driver_cursor)
        return self._lease.step(function, *args)

    def remember(self) -> None:
        """Do nothing: it is no cursor."""

    def drop(self) -> None:
        """Give up what was not read. Whoever goes on reading gets an error."""
        self._is_dropped = True

    def _special(self, name: str, *args: Any) -> Any:
        """Call a special method, if the driver's object has it."""
        kind = type(self.driver_cursor)
        method = getattr(kind, name, None)
        if method is None:
            raise TypeError(f"{kind.__name__!r} object has no {name}()")
        return self._call(method, self.driver_cursor, *args)

    def __iter__(self) -> Any:
        return self._special("__iter__")

    def __next__(self) -> Any:
        item = self._step(next, self.driver_cursor, _END)
        if item is _END:
            self._lease.forget(self)
            raise StopIteration
        return hand_out(self._lease, item)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return int(self._special("__len__"))

    def __getitem__(self, key: Any) -> Any:
        return self._special("__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._special("__setitem__", key, value)

    def close(self) -> None:
        """Close it. After the end of the lease there is nothing to close."""
        if not (self._lease.is_over or self._is_dropped):
            self._lease.last_step(self.driver_cursor.close)
        self._lease.forget(self)

    def __enter__(self) -> Any:
        result = self._special("__enter__")
        self._lease.note_block(1)
        return result

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        lease = self._lease
        if exc is not None and lease.is_over:
            return None  # it stays open: its connection is closed for that
        named = getattr(exc, "transaction", None)
        if isinstance(named, Handle):  # psycopg's Rollback: the driver knows its own object
            cast("Any", exc).transaction = named.driver_cursor
        lease.refuse_to_wait(self.driver_cursor, finish=exc is not None)
        answer = lease.last_step(self._leave, exc_type, exc, traceback)
        lease.forget(self)
        return answer

    def _leave(self, *args: Any) -> Any:
        self._lease.note_block(-1)  # it is left, whatever error that ends with
        return type(self.driver_cursor).__exit__(self.driver_cursor, *args)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        is_gone = self._is_dropped or self._lease.is_gone
        if name in GONE and is_gone and hasattr(type(self.driver_cursor), name):
            return GONE[name]
        if name not in GONE:
            self._lease.usable()
        attribute = getattr(self.driver_cursor, name)
        if callable(attribute):
            return functools.partial(self._call, attribute)
        return hand_out(self._lease, attribute)
