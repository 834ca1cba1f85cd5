"""What a pool and its leases tell whoever watches them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Events(Protocol):
    """The events of one pool. They are told without any lock held, by the thread they happen in.

    An implementation must be quick, must not block, and must not raise.
    """

    def opened(self) -> None:
        """A connection was opened."""

    def connect_failed(self, error: BaseException) -> None:
        """A connect failed, or hangs beyond its time limit."""

    def acquired(self) -> None:
        """A connection was checked out."""

    def timed_out(self) -> None:
        """A caller got no connection in time."""

    def returned(self) -> None:
        """A connection was returned."""

    def evicted(self, reason: str) -> None:
        """A connection was closed by the pool, for this reason."""

    def leaked(self) -> None:
        """A lease was taken back from an owner that did not return it."""

    def committed(self) -> None:
        """A lease committed its transaction."""

    def rolled_back(self) -> None:
        """A lease rolled its transaction back."""

    def forked(self) -> None:
        """This is a forked child: what was told before is the parent's."""


class NoEvents:
    """Nobody watches."""

    def opened(self) -> None: ...

    def connect_failed(self, error: BaseException) -> None: ...

    def acquired(self) -> None: ...

    def timed_out(self) -> None: ...

    def returned(self) -> None: ...

    def evicted(self, reason: str) -> None: ...

    def leaked(self) -> None: ...

    def committed(self) -> None: ...

    def rolled_back(self) -> None: ...

    def forked(self) -> None: ...


def listener(events: Events, name: str) -> Callable[[], None] | None:
    """Return what to call for an event, or None if nobody listens: a frequent event that is not
    wanted then costs a comparison.
    """
    if getattr(type(events), name, None) is getattr(NoEvents, name):
        return None
    told: Callable[[], None] = getattr(events, name)
    return told
