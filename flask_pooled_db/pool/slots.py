"""How many binds may be open, and the line of those who wait until one more may be."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from time import monotonic

from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.places import Place, Places
from flask_pooled_db.pool.turns import GLANCE, Turn


class Slots:
    """The places of the binds that may be open. The lock of the package guards them.

    A bind keeps its slot until nothing of it is open any more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places = Places(limit)
        # Weak: an exception may have lost a caller that waits.
        self._line: list[weakref.ref[Turn]] = []
        self._leaving: Census[Place] = Census()  # slots of binds that are closed, not yet free
        self._left_at = 0.0  # when the last bind was closed for somebody in line

    def retake(self, count: int) -> Iterable[Place]:
        """In a forked child, begin anew with so many slots taken, which are returned."""
        self.__init__(self.limit)  # type: ignore[misc]
        taken = [self._places.take() for _ in range(count)]
        return [slot for slot in taken if slot is not None]

    def take_locked(self, turn: Turn) -> bool:
        """Give a caller a slot, or have it wait in line. Returns whether it has one."""
        line = self._in_line_locked()
        if not line or line[0] is turn:
            turn.slot = self._places.take()
        if turn.slot is not None:
            self.leave_line_locked(turn)
        elif turn not in line:
            self._line.append(weakref.ref(turn))
        return turn.slot is not None

    def leave_line_locked(self, turn: Turn) -> None:
        """Wait no more."""
        self._line = [one for one in self._line if one() is not turn]

    def _in_line_locked(self) -> list[Turn]:
        found = [reference() for reference in self._line]
        return [turn for turn in found if turn is not None]

    def is_nested_locked(self, turn: Turn) -> bool:
        """Return whether the caller waits already, with another turn: it would wait for itself."""
        return any(other is not turn and other.is_own for other in self._in_line_locked())

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for a slot."""
        return bool(self._in_line_locked())

    def may_evict_locked(self, turn: Turn) -> bool:
        """Return whether a bind is to be closed for a caller: it is the first in line, and no other
        is leaving already, or that takes its time.
        """
        line = self._in_line_locked()
        is_coming = len(self._leaving) and monotonic() - self._left_at < GLANCE
        return bool(line) and line[0] is turn and not is_coming

    def leaves_locked(self, slot: Place) -> None:
        """Note that the bind of a slot was closed, for another one or not."""
        self._leaving.add(slot)
        self._left_at = monotonic()

    def free_locked(self, slot: Place) -> None:
        """Take back a slot."""
        self._leaving.discard(slot)
        slot.give_back()
