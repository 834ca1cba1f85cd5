"""What leases tell of each statement to whoever observes their pool, and what a statement is to
tell the server.

Its counterpart for connections is `events`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol


class Rows:
    """The number of rows that a statement has returned or changed.

    A driver that has all rows tells it at once. Otherwise the rows are counted as they are read,
    and the number is final when the last one was read, or when its reader goes on to something
    else.
    """

    __slots__ = ("_told", "count", "is_final")

    def __init__(self, count: int | None, *, is_final: bool = True) -> None:
        self.count = count  # None: nobody knows
        self.is_final = is_final
        self._told: list[Callable[[], object]] = []

    def when_final(self, tell: Callable[[], object]) -> None:
        """Have a function called once the number is final: now, if it is."""
        if self.is_final:
            tell()
        else:
            self._told.append(tell)

    def read(self, count: int) -> None:
        """Count rows that were read."""
        self.count = (self.count or 0) + count

    def end(self) -> None:
        """Note that the number is final."""
        self.is_final = True
        told, self._told = self._told, []
        for tell in told:
            with contextlib.suppress(Exception):  # whoever reads rows must not fail for it
                tell()


class Statement(NamedTuple):
    """A statement that was run, or that failed. Don't keep it: it refers to its lease."""

    lease: Any
    text: str
    """Without its parameters, and as the application gave it."""
    began: float
    ended: float
    """By the pool's clock, like `began`: when the driver returned, or raised. It may have rows to
    fetch by then."""
    rows: Rows
    error: BaseException | None
    has_waited: bool
    """Whether the lease had to wait for its connection."""
    where: Mapping[str, Any] = MappingProxyType({})
    """The connect arguments that name the server, if there are several."""

    @property
    def duration(self) -> float:
        """How many seconds it took."""
        return self.ended - self.began


class Observer(Protocol):
    """Who is told of the statements of one pool: after each, in its thread, without any lock held.

    An implementation must be quick, and must not block. What it raises is logged.
    """

    @property
    def least(self) -> float:
        """Statements that took fewer seconds are not told. 0: all are, infinity: none is."""

    def is_on(self) -> bool:
        """Return whether the statements of a connection that is new are to be told."""

    def ran(self, statement: Statement) -> None:
        """A statement was run, or failed."""

    @property
    def wants_ends(self) -> bool:
        """Whether the leases of a connection that is new are to tell of COMMIT and ROLLBACK too."""

    def ended(self, statement: Statement) -> None:
        """A COMMIT or a ROLLBACK was answered, or failed: one that a lease has sent."""


class NoObserver:
    """Nobody observes."""

    least = math.inf
    wants_ends = False

    def is_on(self) -> bool:
        """Return False."""
        return False

    def ran(self, statement: Statement) -> None: ...

    def ended(self, statement: Statement) -> None: ...


class Observers:
    """Several observers, each of which is told what it wants to know."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        # Each new connection asks them.
        self._on: Sequence[Observer] = ()
        self.least = math.inf

    def is_on(self) -> bool:
        """Return whether any of them is."""
        self._on = [observer for observer in self._observers if observer.is_on()]
        self.least = min((observer.least for observer in self._on), default=math.inf)
        return bool(self._on)

    def ran(self, statement: Statement) -> None:
        """Tell those who want to know."""
        for observer in self._on:
            if statement.duration >= observer.least:
                observer.ran(statement)

    @property
    def wants_ends(self) -> bool:
        """Whether any of them does."""
        return any(observer.wants_ends for observer in self._on)

    def ended(self, statement: Statement) -> None:
        """Tell those who want to know."""
        for observer in self._on:
            if observer.wants_ends:
                observer.ended(statement)


NOBODY = NoObserver()
"""The observer of most pools."""

Tags = Callable[[bool], str]
"""Returns the comment that a statement of the caller is to end in, or "". It takes whether the
comment may name what changes with every request."""


def observer_of(observers: Sequence[Observer]) -> Observer:
    """Return what stands for these observers."""
    if not observers:
        return NOBODY
    return observers[0] if len(observers) == 1 else Observers(observers)
