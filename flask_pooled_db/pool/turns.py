"""Who opens or closes the bind of a name at the moment, and those who wait for that."""

from __future__ import annotations

import enum
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from flask_pooled_db.errors import PoolClosed
from flask_pooled_db.pool.places import Place
from flask_pooled_db.runtime import guard

GLANCE = 0.25
"""Seconds after which a caller that waits looks again by itself: what is given back as garbage
wakes nobody."""


class Order(enum.Enum):
    """What others want of a bind that is being opened."""

    CLOSE = "it was closed by its name"
    RELOAD = "its settings were replaced since they were loaded"


class Turn:
    """A caller that opens or closes the bind of a name. Others wait until its turn is over.

    It is over as well when nobody holds it any more: an exception may have lost it.
    """

    __slots__ = ("__weakref__", "began", "opens", "orders", "owed", "patience", "slot")

    def __init__(self, *, opens: bool, began: float = 0.0, patience: float = 0.0) -> None:
        """It waits for `patience` seconds from `began` on, by the clock."""
        self.opens = opens
        self.began = began
        self.patience = patience
        # What became of the bind that is being opened. Those who wait hold this, and not the turn.
        self.orders: set[Order] = set()
        self.slot: Place | None = None  # among the binds that may be open, until one has it
        self.owed: list[Callable[[], object]] = []  # what is to be told before its end

    @property
    def deadline(self) -> float:
        """Until when it waits."""
        return self.began + self.patience

    @property
    def is_own(self) -> bool:
        """Whether it is the caller's own: to wait for it would take forever."""
        return any(turn is self for turn in _own.get())

    @contextmanager
    def of_caller(self) -> Iterator[None]:
        """Be the caller's own during the block, in threads too that have a copy of its context."""
        token = _own.set((*_own.get(), self))
        try:
            yield
        finally:
            _own.reset(token)


_own: ContextVar[tuple[Turn, ...]] = ContextVar("flask_pooled_db_turns", default=())


def refuse_closed(name: str, orders: set[Order]) -> None:
    """Raise if a bind was closed while it was being opened. `name` is as messages have it."""
    if Order.CLOSE in orders:
        raise PoolClosed(f"bind {name} was closed while it was being opened")


class Turns:
    """The turns under way, by name, and the bells of those who wait for a change. The lock of the
    package guards both.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turns: dict[str, weakref.ref[Turn]] = {}
        self._bells: list[threading.Lock] = []

    def __len__(self) -> int:
        return len(self._turns)

    def after_fork(self) -> None:
        """In a forked child, forget the turns of threads that it does not have."""
        self._bells = []
        for name in list(self._turns):
            turn = self.of_locked(name)
            if turn is None or not turn.is_own:
                self.forget_locked(name)

    def of_locked(self, name: str) -> Turn | None:
        """Return the turn of a name, if there is one."""
        reference = self._turns.get(name)
        return None if reference is None else reference()

    def begin_locked(self, name: str, turn: Turn) -> None:
        """Note that a turn has begun."""
        self._turns[name] = weakref.ref(turn)

    def forget_locked(self, name: str) -> None:
        """Let the next caller have the turn of a name."""
        self._turns.pop(name, None)
        self.ring_locked()

    def pay(self, turn: Turn) -> None:
        """Tell what a turn owes."""
        while turn.owed:
            turn.owed.pop(0)()

    def end(self, name: str, turn: Turn) -> None:
        """End a turn, if it had begun, once all is told that it owes."""
        while True:
            self.pay(turn)
            with guard.lock:
                if turn.owed:
                    continue  # somebody has closed the bind meanwhile
                if self.of_locked(name) is turn:
                    self.forget_locked(name)
                return

    # Waiting. There is no condition: a signal handler that raises in its code would leave the lock
    # in another state than it was in.

    def bell_locked(self) -> threading.Lock:
        """Return what rings at the next change, for `wait()`."""
        bell = threading.Lock()
        bell.acquire()
        self._bells.append(bell)
        return bell

    def ring_locked(self) -> None:
        """Wake all who wait: something has changed."""
        bells, self._bells = self._bells, []
        for bell in bells:
            bell.release()

    def ring(self) -> None:
        """Wake all who wait."""
        with guard.lock:
            self.ring_locked()

    def wait(self, bell: threading.Lock, deadline: float) -> bool:
        """Wait for a change, or for a while. Returns False at the deadline."""
        left = deadline - self._clock()
        if left > 0 and bell.acquire(timeout=min(left, GLANCE)):
            return True
        with guard.lock:
            if bell in self._bells:
                self._bells.remove(bell)
        return left > 0
