"""What a registry keeps of a bind that is open, who may not lose it meanwhile, and its app."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from flask_pooled_db.errors import PoolClosed
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.turns import GLANCE


class Member(Protocol):
    """A pool, as its users see it."""

    @property
    def engine(self) -> Engine:
        """What lends its connections."""

    def end(self, **how: Any) -> bool:
        """Close it, as `Engine.close()` does."""


class Keeper(Protocol):
    """What a registry asks of its app, and tells it: the app's code, called without the lock."""

    def load(self, name: str, key: object) -> Member:
        """Return a pool of this name, with this key. Raises `UnknownBind` if there is none of this
        name, and what the app raises.
        """

    def kept(self) -> Collection[str] | None:
        """Return the names of the binds that are to stay open; None for all of them."""

    def opened(self, name: str, reason: str) -> None:
        """Note that a bind was opened."""

    def timed_out(self, name: str, seconds: float) -> None:
        """Note that a caller has waited in vain for somebody else who opens a bind."""

    def closed(self, name: str, reason: str) -> None:
        """Note that a bind was closed."""


class Ticket:
    """A bind that is open, and stays so for as long as somebody holds the ticket, unless it is
    closed by its name.
    """

    __slots__ = ("__weakref__", "_asked", "pool", "spent")

    def __init__(self, pool: Any, asked: float | None, spent: float = 0.0) -> None:
        """`asked` is how long its holder would wait, and `spent` how long it has done so."""
        self.pool = pool
        self.spent = spent
        self._asked = asked

    @property
    def timeout(self) -> float | None:
        """How many seconds its holder may go on to wait; None: as configured."""
        if self.spent < GLANCE / 10:
            return self._asked
        asked = self._asked
        if asked is None:
            asked = self.pool.config.acquire_timeout
        return float(max(asked - self.spent, 0.0))


class Opened:
    """A bind that was opened by its name. The lock guards it."""

    __slots__ = ("__weakref__", "at", "name", "pool", "tickets")

    def __init__(self, name: str, pool: Member, at: float) -> None:
        self.name = name
        self.pool = pool
        self.at = at
        self.tickets: Census[Ticket] = Census()

    @property
    def engine(self) -> Engine:
        """What lends its connections."""
        return self.pool.engine

    def ticket_locked(self, asked: float | None, spent: float) -> Ticket:
        """Return a ticket for it."""
        ticket = Ticket(self.pool, asked, spent)
        self.tickets.add(ticket)
        return ticket

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it, or is about to. Only the lock makes that last."""
        return self.engine.is_unused and not len(self.tickets)

    @property
    def is_connecting(self) -> bool:
        """Whether a connect is under way, for which nobody waits if it is idle."""
        return self.engine.state.connector.opening > 0

    @property
    def last_used(self) -> float:
        """When it was last used, by the clock."""
        return max(self.at, self.engine.last_used)


class NotOpen(PoolClosed):
    """The bind is not open, or not any more: whoever wants it opens it by its name."""

    def __init__(self, message: str, open_it: Callable[..., Ticket]) -> None:
        """`open_it` is `Registry.open()` of this bind."""
        super().__init__(message)
        self.open = open_it

    def __reduce__(self) -> Any:
        return PoolClosed, self.args


class Unopened:
    """What a scope has in place of an engine until it is entered, if its bind is not open yet."""

    usual_session = replica = None

    def __init__(self, key: object, refusal: Callable[[], NotOpen], patience: float) -> None:
        """`patience` is how many seconds a caller waits who does not say."""
        self.key = key
        self.patience = patience
        self._refusal = refusal

    def session(self, *_: object) -> None:
        """Return nothing: the session is made for the pool."""

    def acquire(self, *_: object) -> Any:
        """Raise `NotOpen`."""
        raise self._refusal()

    acquiring = acquire
