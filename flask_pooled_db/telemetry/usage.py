"""Who uses connections, and for how much of the time in vain."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from flask_pooled_db.pool import NoEvents
from flask_pooled_db.runtime import guard

MOST_NAMES = 200
"""How many callers are told from each other. All others count as one."""

OTHER = "other"
"""Their name."""

_ENDPOINT = re.compile(r"""endpoint (?P<quote>['"])(?P<name>.*)(?P=quote)""", re.DOTALL)


def counted_as(name: str, known: Collection[str]) -> str:
    """Return what a caller is counted as beside those that are known."""
    return name if name in known or len(known) < MOST_NAMES else OTHER


def label_of(name: str) -> str:
    """Return what a caller is counted by: an endpoint's own name, or what messages call it."""
    found = _ENDPOINT.fullmatch(name)
    return found["name"] if found else name


class Use(NamedTuple):
    """The leases of a caller that have ended: how many, how many seconds they were out in all, and
    for how much of that none of their statements was on its way.
    """

    leases: int
    seconds: float
    idle: float


class _Sum:
    """A `Use` that grows."""

    __slots__ = ("idle", "leases", "seconds")

    def __init__(self) -> None:
        self.leases = 0
        self.seconds = self.idle = 0.0


class Usage:
    """The leases of one app in this process, by who held them."""

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Start afresh: what was counted is the parent's."""
        self._sums: dict[str, _Sum] = {}

    def add(self, name: str, seconds: float, idle: float) -> None:
        """Count a lease that has ended."""
        with guard.lock:
            sum_ = self._sums.get(name) or self._begin_locked(name)
            sum_.leases += 1
            sum_.seconds += seconds
            sum_.idle += idle

    def _begin_locked(self, name: str) -> _Sum:
        return self._sums.setdefault(counted_as(name, self._sums), _Sum())

    def by_name(self) -> Mapping[str, Use]:
        """Return them, the one first that had connections for longest."""
        with guard.lock:
            # A copy, which is made in one step: a finalizer may count another one between any two.
            uses = {
                label_of(name): Use(one.leases, one.seconds, one.idle)
                for name, one in self._sums.copy().items()
            }
        return dict(sorted(uses.items(), key=lambda pair: -pair[1].seconds))


class PoolUsage(NoEvents):
    """Tells the usage of an app what the leases of one pool were."""

    def __init__(
        self, usage: Usage, is_wanted: Callable[[], bool], forked: Callable[[], None]
    ) -> None:
        self._is_wanted = is_wanted
        self.ended = usage.add
        self.forked = forked  # type: ignore[method-assign]

    def is_on(self) -> bool:
        """Return whether anybody wants to know."""
        return self._is_wanted()
