"""How many connections may be open: each takes a place before it is opened, until it is closed."""

from __future__ import annotations

import math
import threading


class Place:
    """A place that was taken. Its holder uses it or gives it back; doing that twice is safe."""

    __slots__ = ("_places",)

    def __init__(self, places: Places) -> None:
        self._places: Places | None = places

    def give_back(self) -> None:
        """Free the place."""
        places, self._places = self._places, None
        if places is not None:
            places.free_one()


class Places:
    """A number of places, which may be part of a larger number.

    `limit` is the number of places; 0 means that there is no limit. With a `parent`, each place
    also takes one of the parent's: that is a limit over several pools.
    """

    def __init__(self, limit: int = 0, parent: Places | None = None) -> None:
        self._parent = parent
        self.taken = 0  # how many places are taken
        # Guards `taken`. A parent is shared by pools that have a lock each.
        self._lock = threading.Lock()
        self.set_limit(limit)

    def set_limit(self, limit: int) -> None:
        """Change the number of places. Those beyond it that are taken stay so until given back."""
        self.limit = limit
        self.most = limit or math.inf  # how many may be taken

    def take(self) -> Place | None:
        """Return a place, or None if none is free."""
        return Place(self) if self.take_one() else None

    def take_one(self) -> bool:
        """Take a place without a value for it. Returns False if none is free."""
        if self._parent is not None and not self._parent.take_one():
            return False
        with self._lock:
            if self.taken < self.most:
                self.taken += 1
                return True
        if self._parent is not None:
            self._parent.free_one()
        return False

    def free_one(self) -> None:
        """Free a place, here and in the parent."""
        with self._lock:
            self.taken -= 1
        if self._parent is not None:
            self._parent.free_one()
