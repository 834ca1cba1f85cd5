"""What is around a lease: its owner's other leases, the home of its connection, its cursors."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from flask_pooled_db.pool import Entry
from flask_pooled_db.pool.interrupter import Interrupter
from flask_pooled_db.pool.state import Terms

_CURSORS_PER_SWEEP = 256  # dead weak references are dropped every so many cursors


class Home(Protocol):
    """Where the connection of a lease goes back to: a pool, most often."""

    terms: Terms
    interrupter: Interrupter

    def release(self, entry: Entry, *, unused: bool = False) -> None:
        """Take the connection back."""

    def invalidate(self) -> None:
        """Have all connections checked: one was found unusable."""


class OpenCursor(Protocol):
    """A cursor that was made from a lease."""

    driver_cursor: Any

    def wait_for(self, stream: Any) -> None:
        """Have nothing be read from it that would end another one's stream."""


class Reader(OpenCursor, Protocol):
    """A cursor whose rows the server sends as they are fetched."""

    def has_more(self) -> bool:
        """Return whether there is another row. It is kept until it is fetched."""

    def drop(self) -> None:
        """Give up what was not read. Whoever goes on reading gets an error."""


class OpenCursors:
    """The cursors of a lease that have to be closed at its end. Some of them are garbage."""

    __slots__ = ("_by_id",)

    def __init__(self) -> None:
        self._by_id: dict[int, weakref.ref[OpenCursor]] = {}

    def add(self, cursor: OpenCursor) -> None:
        """Note a new cursor."""
        known = self._by_id
        known[id(cursor)] = weakref.ref(cursor)
        if len(known) % _CURSORS_PER_SWEEP == 0:
            self._by_id = {id_: cursor for id_, cursor in known.items() if cursor() is not None}

    def forget(self, cursor: OpenCursor) -> None:
        """Note that a cursor was closed."""
        self._by_id.pop(id(cursor), None)

    def all(self) -> list[OpenCursor]:
        """Return those that are no garbage."""
        found = [reference() for reference in self._by_id.values()]
        return [cursor for cursor in found if cursor is not None]


class Leases(dict[Any, None]):
    """The leases owned by an app context, or by one caller.

    A lease stays in the set from checkout to release; whoever removes it must release it. A set
    that is garbage with its leases needs no finalizer: the pool finds their connections.
    """
