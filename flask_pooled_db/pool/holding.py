"""Who holds the connections of a pool, and what for: known where somebody wants to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from flask_pooled_db.runtime import callers


class HasBegun(Protocol):
    """A lease."""

    @property
    def has_begun(self) -> bool:
        """Whether a transaction is open."""


class Hold:
    """One lease, as others see it. Its caller writes it, one field at a time; anybody may read it.

    All times are the pool's clock.
    """

    __slots__ = (
        *("busy", "busy_since", "is_reported", "lease", "name", "owner", "place"),
        *("rests_since", "since"),
    )

    def __init__(
        self,
        since: float,
        lease: Callable[[], HasBegun | None],
        owner: Any,
        name: str,
        place: callers.Place | None,
    ) -> None:
        self.since = since
        self.lease = lease  # a weak reference: as garbage it is found
        self.owner = owner  # its thread's number, or its task or greenlet
        self.name = name  # of its endpoint, command or event; "" if it is none
        self.place = place  # where it was taken
        self.busy = 0.0  # for how many seconds its statements were on their way
        self.busy_since: float | None = None  # when the one began that is on its way now
        self.rests_since = since  # when the last one had ended
        self.is_reported = False  # as a leak

    @property
    def who(self) -> str:
        """What a message calls its caller."""
        return self.name or callers.name_of(self.owner)

    def at(self, now: float, bind: str) -> Holder:
        """Return what can be said of it at this moment."""
        lease = self.lease()
        age, began = now - self.since, self.busy_since
        idle = age - self.busy - (0.0 if began is None else now - began)
        rests = 0.0 if began is not None else now - self.rests_since
        return Holder(
            bind,
            self.who,
            self.place,
            max(age, 0.0),
            min(max(idle, 0.0), age),
            max(rests, 0.0),
            lease is not None and lease.has_begun,
        )


class Holder(NamedTuple):
    """Who holds a connection at a moment. All times are in seconds."""

    bind: str
    name: str
    """Of an endpoint, a command, an event, a task or a thread."""
    place: callers.Place | None
    """The file and the line where it was taken."""
    age: float
    """How long it has been held."""
    idle: float
    """For how much of that no statement was on its way."""
    rests_for: float
    """How long no statement has run; 0 while one does."""
    in_transaction: bool
    """Whether a transaction is open, as far as it is known."""

    def doing(self) -> str:
        """Return what a message says of what its holder does with it."""
        state = "a transaction is open" if self.in_transaction else "no transaction is open"
        if not self.rests_for:
            return f"{state}, and a statement runs"
        return f"{state}, and no statement has run for {self.rests_for:.1f} s"

    def __str__(self) -> str:
        share = f", {self.idle / self.age:.0%} of it idle" if self.age else ""
        return (
            f"{self.name} for {self.age:.1f} s{share}, taken {callers.at(self.place)} "
            f"({self.doing()})"
        )


class Holders(Protocol):
    """Who wants to know of the leases of one pool."""

    def is_on(self) -> bool:
        """Return whether the leases of a connection that is new are to tell."""

    def ended(self, name: str, seconds: float, idle: float) -> None:
        """A lease that this caller held for so many seconds has ended; for `idle` of them none of
        its statements was on its way. Told in its thread, without any lock held; must be quick.
        """


class NoHolders:
    """Nobody wants to know."""

    def is_on(self) -> bool:
        """Return False."""
        return False

    def ended(self, name: str, seconds: float, idle: float) -> None: ...


NOT_KNOWN = NoHolders()
"""Of most pools."""
