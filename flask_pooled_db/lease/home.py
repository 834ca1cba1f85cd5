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

    def release(self, entry: Entry, unused: bool = False) -> None:
        """Take the connection back."""

    def invalidate(self) -> None:
        """Have all connections checked: one was found unusable."""


class OpenCursor(Protocol):
    """A cursor that was made from a lease, or something else that has to be closed."""

    driver_cursor: Any

    def remember(self) -> None:
        """Keep what it tells of its last statement, which its end would have it forget."""

    def wait_for(self, stream: Any) -> None:
        """Have nothing be read from it that would end another one's stream."""


class Live(OpenCursor, Protocol):
    """Something that the driver goes on with as its caller asks for more."""

    def drop(self) -> None:
        """Give up what was not read. Whoever goes on reading gets an error."""


class Reader(Live, Protocol):
    """A cursor whose rows the server sends as they are fetched."""

    def has_more(self) -> bool:
        """Return whether there is another row. It is kept until it is fetched."""


class OpenCursors:
    """The cursors of a lease, and whatever else it handed out, that have to be closed at its end.
    Some of them are garbage.
    """

    __slots__ = ("_by_id", "_handles", "entered", "has_handles")

    def __init__(self) -> None:
        self.entered = 0  # blocks of the driver's own that were entered and not left
        self.has_handles = False  # whether anything else than a cursor was handed out
        self._by_id: dict[int, weakref.ref[OpenCursor]] = {}
        self._handles: dict[int, weakref.ref[Live]] = {}

    def add(self, cursor: OpenCursor) -> None:
        """Note a new cursor."""
        known = self._by_id
        known[id(cursor)] = weakref.ref(cursor)
        if len(known) % _CURSORS_PER_SWEEP == 0:
            self._by_id = {id_: one for id_, one in known.copy().items() if one() is not None}

    def add_handle(self, handle: Live) -> None:
        """Note what was handed out beside cursors and has to be closed."""
        self._handles = {id_: one for id_, one in self._handles.copy().items() if one() is not None}
        self._handles[id(handle)] = weakref.ref(handle)

    def forget(self, cursor: OpenCursor) -> None:
        """Note that one of them was closed."""
        self._by_id.pop(id(cursor), None)
        self._handles.pop(id(cursor), None)

    def handles(self) -> list[Live]:
        """Return those beside cursors that are no garbage."""
        found = [reference() for reference in self._handles.copy().values()]
        return [handle for handle in found if handle is not None]

    def all(self) -> list[OpenCursor]:
        """Return those that are no garbage."""
        found = [reference() for reference in self._by_id.copy().values()]
        # A cursor may have to wait until the others are closed.
        return [*self.handles(), *(cursor for cursor in found if cursor is not None)]


class Leases(dict[Any, None]):
    """The leases owned by an app context, or by one caller.

    A lease stays in the set from checkout to release; whoever removes it must release it. A set
    that is garbage with its leases needs no finalizer: the pool finds their connections.
    """


class Alone(Leases):
    """The holder of one lease whose app context has ended. It does not keep the lease alive."""

    def __init__(self) -> None:
        super().__init__({None: None})

    def pop(self, _: Any, *default: Any) -> Any:
        """Return None the first time, and the default after that."""
        return super().pop(None, *default)
