"""How many connections may be open: each takes a place before it is opened, until it is closed."""

from __future__ import annotations

import math

from flask_pooled_db.pool.census import Census


class Place:
    """A place that was taken. It is free again when it is given back, or garbage."""

    __slots__ = ("__weakref__", "_of_parent", "_places")

    def __init__(self, places: Places, of_parent: Place | None) -> None:
        self._places = places
        self._of_parent = of_parent

    def give_back(self) -> None:
        """Free the place. Doing that twice is safe."""
        self._places.free(self)
        if self._of_parent is not None:
            self._of_parent.give_back()


class Places:
    """A number of places, which may be part of a larger number. The lock of the package guards it.

    `limit` is the number of places; 0 means that there is no limit. With a `parent`, each place
    also takes one of the parent's: that is a limit over several pools.
    """

    def __init__(self, limit: int = 0, parent: Places | None = None) -> None:
        self._parent = parent
        # Weak: whatever exception loses a place, the place is free afterwards.
        self._taken: Census[Place] = Census()
        self.set_limit(limit)

    def set_limit(self, limit: int) -> None:
        """Change the number of places. Those beyond it that are taken stay so until given back."""
        self.limit = limit
        self.most = limit or math.inf  # how many may be taken

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return len(self._taken)

    @property
    def has_room(self) -> bool:
        """Whether one more place may be taken, as far as this limit goes."""
        return self.taken < self.most

    def has(self, place: Place) -> bool:
        """Return whether a place is taken."""
        return place in self._taken

    def take(self) -> Place | None:
        """Return a place, or None if none is free."""
        if not self.has_room:
            return None
        of_parent = None if self._parent is None else self._parent.take()
        if self._parent is not None and of_parent is None:
            return None
        place = Place(self, of_parent)
        self._taken.add(place)
        return place

    def free(self, place: Place) -> None:
        """Count a place as free."""
        self._taken.discard(place)
