"""What a registry keeps of a bind that is open, and who may not lose it meanwhile."""

from __future__ import annotations

import enum
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from flask_pooled_db.errors import PoolClosed
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.places import Place


class Member(Protocol):
    """A pool, as its users see it."""

    @property
    def engine(self) -> Engine:
        """What lends its connections."""


class Ticket:
    """A bind that is open, and stays so for as long as somebody holds the ticket, unless it is
    closed by its name.

    `timeout` is how many seconds its holder may wait for a connection; None: as configured.
    """

    __slots__ = ("__weakref__", "pool", "timeout")

    def __init__(self, pool: Any, timeout: float | None) -> None:
        self.pool = pool
        self.timeout = timeout


class Order(enum.Enum):
    """What others want of a bind that is being opened."""

    CLOSE = "it was closed by its name"
    RELOAD = "its settings were replaced since they were loaded"


class Turn:
    """A caller that opens or closes the bind of a name. Others wait until its turn is over.

    It is over as well when nobody holds it any more: an exception may have lost it.
    """

    __slots__ = ("__weakref__", "opens", "orders", "thread")

    def __init__(self, *, opens: bool) -> None:
        self.opens = opens
        self.thread = threading.get_ident()
        # What became of the bind that is being opened. Those who wait hold this, and not the turn.
        self.orders: set[Order] = set()

    @property
    def is_own(self) -> bool:
        """Whether it is the caller's own: to wait for it would take forever."""
        return self.thread == threading.get_ident()


class Opened:
    """A bind that was opened by its name. The lock guards it."""

    __slots__ = ("__weakref__", "_slot", "at", "name", "pool", "tickets")

    def __init__(self, name: str, pool: Member, slot: Place, at: float) -> None:
        self.name = name
        self.pool = pool
        self.at = at
        self.tickets: Census[Ticket] = Census()
        self._slot = slot  # among those that may be open

    @property
    def engine(self) -> Engine:
        """What lends its connections."""
        return self.pool.engine

    def ticket_locked(self, timeout: float | None) -> Ticket:
        """Return a ticket for it."""
        ticket = Ticket(self.pool, timeout)
        self.tickets.add(ticket)
        return ticket

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it, or is about to. Only the lock makes that last."""
        return self.engine.is_unused and not len(self.tickets)

    @property
    def last_used(self) -> float:
        """When it was last used, by the clock."""
        return max(self.at, self.engine.last_used)

    def move(self, slot: Place) -> None:
        """Take another slot in place of its own."""
        self._slot = slot

    def leave(self) -> None:
        """Give its slot back: nothing of it is open any more."""
        self._slot.give_back()


class NotOpen(PoolClosed):
    """The bind is not open, or not any more: whoever wants it opens it by its name."""

    def __init__(self, message: str, open_it: Callable[[float | None], Ticket]) -> None:
        """`open_it` waits for up to so many seconds."""
        super().__init__(message)
        self.open = open_it

    def __reduce__(self) -> Any:
        return PoolClosed, self.args


class Unopened:
    """What a scope has in place of an engine until it is entered, if its bind is not open yet."""

    usual_session = replica = None

    def __init__(self, key: object, refusal: Callable[[], NotOpen]) -> None:
        self.key = key
        self._refusal = refusal

    def session(self, *_: object) -> None:
        """Return nothing: the session is made for the pool."""

    def acquire(self, *_: object) -> Any:
        """Raise `NotOpen`."""
        raise self._refusal()

    acquiring = acquire


def turn_in(turns: dict[str, weakref.ref[Turn]], name: str) -> Turn | None:
    """Return the turn that is under way for a name."""
    reference = turns.get(name)
    return None if reference is None else reference()
