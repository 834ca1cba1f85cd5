"""How many binds may be open, and the line of those who wait until one more may be."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from time import monotonic

from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.opened import Opened
from flask_pooled_db.pool.turns import GLANCE, Turn


class Slots:
    """How many binds may be open. The lock of the package guards it.

    What is taken is counted anew each time, by what there is: the binds that are open, the callers
    that have a slot for one, and the binds that are closed and have connections yet. So no
    exception can lose a slot.
    """

    def __init__(self, limit: int, opened: Mapping[str, Opened]) -> None:
        """`opened` are those that are open; 0 is no limit."""
        self.limit = limit
        self._opened = opened
        # Weak: an exception may have lost a caller.
        self._line: list[weakref.ref[Turn]] = []
        self._reserved: list[weakref.ref[Turn]] = []
        self._ending: list[weakref.ref[Engine]] = []
        self._ended_at = 0.0  # when the last bind was closed

    def after_fork(self) -> None:
        """In a forked child, forget the callers that wait in the parent."""
        self._line, self._reserved, self._ending = [], [], []

    def take_locked(self, turn: Turn) -> bool:
        """Give a caller a slot, or have it wait in line. Returns whether it has one."""
        line = self._in_line_locked()
        if not self.limit or ((not line or line[0] is turn) and self._taken_locked() < self.limit):
            self._reserved.append(weakref.ref(turn))
            turn.has_slot = True
            self.leave_line_locked(turn)
        elif turn not in line:
            self._line.append(weakref.ref(turn))
        return turn.has_slot

    def _taken_locked(self) -> int:
        self._reserved = [one for one in self._reserved if (turn := one()) and turn.has_slot]
        engines = [one.engine for one in dict(self._opened).values()]
        taken = sum(not engine.is_closed or not engine.is_empty for engine in engines)
        return taken + len(self._reserved) + self._count_ending_locked()

    def _count_ending_locked(self) -> int:
        self._ending = [one for one in self._ending if (engine := one()) and not engine.is_empty]
        return len(self._ending)

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
        is_coming = self._count_ending_locked() and monotonic() - self._ended_at < GLANCE
        return bool(line) and line[0] is turn and not is_coming

    def ends_locked(self, engine: Engine) -> None:
        """Note that a bind was closed. It keeps its slot until nothing of it is open any more."""
        self._ending.append(weakref.ref(engine))
        self._ended_at = monotonic()
