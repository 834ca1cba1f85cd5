"""Who watches a pool, as one value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.events import Events
from flask_pooled_db.pool.holding import NOT_KNOWN, Holders
from flask_pooled_db.pool.statements import NOBODY, Observer, Tags


class Checkouts(Protocol):
    """Who wants to know of each checkout of one pool. It is told in the caller's thread, mostly
    without any lock held. It must be quick, must not block, and must not raise.
    """

    def lent(self, began: float, ended: float, entry: Entry | None) -> None:
        """A caller asked for a connection and got it, by the pool's clock. A shared one that others
        have as well is None.
        """

    def refused(self, began: float, ended: float, error: BaseException) -> None:
        """A caller asked for a connection and got none."""

    def returned(self, seconds: float) -> None:
        """A connection that was lent for so many seconds was returned."""


class Watchers(NamedTuple):
    """Who watches one pool, and what they want of it."""

    events: Sequence[Events] = ()
    """Who is told of its events."""
    observer: Observer = NOBODY
    """Who is told of the statements of its leases."""
    tags: Tags | None = None
    """What each statement is to end in; None: nothing."""
    holders: Holders = NOT_KNOWN
    """Who wants to know of its leases."""
    in_use: Callable[[], object] | None = None
    """What is called at the first checkout in a process, and maybe at later ones."""
    checkouts: Checkouts | None = None
    """Who is told of each checkout and each return."""


UNWATCHED = Watchers()
