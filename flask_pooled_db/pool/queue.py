"""Callers that wait for a connection, in the order in which they came."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

from flask_pooled_db.drivers import Session
from flask_pooled_db.pool.entry import Entry


class ServerDown(Exception):
    """The server is down, or does not answer: the caller goes elsewhere."""


class Bell(Protocol):
    """How a caller is woken that no lock may block: a task of an event loop."""

    def ring(self) -> bool:
        """Wake it, from any thread, without the lock. Returns False if nobody is there any more."""

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more: its loop is closed."""


class Waiter:
    """A caller in the queue. It is settled once, under the pool's lock: with a connection, or with
    an error.

    A thread blocks on a lock that `settle()` releases: a `threading.Event` does the same, and takes
    several times as long. A task has a bell, which is rung when the pool's lock has been released.
    """

    __slots__ = ("__weakref__", "_settled", "bell", "came", "entry", "error", "session")

    asked_of: object = None
    """The pool that it was asked of, if it waits for a replica of that."""
    needs_up = False
    """Whether it gives up as soon as a connect fails."""
    patience = math.inf
    """Seconds without an answer from the server after which it gives up."""
    has_given_up = False
    """Whether it did."""

    def __init__(self, session: Session | None = None, bell: Bell | None = None) -> None:
        self.bell = bell
        self._settled = threading.Lock()
        self._settled.acquire()
        self.entry: Entry | None = None
        self.error: BaseException | None = None
        self.session = session
        self.came = 0.0  # when its caller began to wait

    def again(self) -> Waiter:
        """Return another one for the same caller, who was handed a dead connection."""
        return Waiter(self.session, self.bell)

    @property
    def is_gone(self) -> bool:
        """Whether its caller is a task whose event loop is closed."""
        return self.bell is not None and self.bell.is_gone

    @property
    def is_settled(self) -> bool:
        """Whether it was."""
        return self.entry is not None or self.error is not None

    def settle(self, entry: Entry | None, error: BaseException | None = None) -> None:
        """Hand over a connection or an error, and wake the caller."""
        self.entry, self.error = entry, error
        self._settled.release()

    def wait(self, seconds: float) -> bool:
        """Wait until settled, for up to `seconds`. Returns whether it is."""
        return self._settled.acquire(timeout=max(seconds, 0.0))

    def waiting(self, seconds: float) -> Generator[Wait, Any, bool]:
        """Return the steps of a wait, for up to `seconds`: whether it is settled then."""
        is_settled: bool = yield Wait(self, seconds)
        return is_settled


class Wait(NamedTuple):
    """A step (see `steps`): wait until a waiter is settled, for up to so many seconds. It leads to
    whether it is.
    """

    waiter: Waiter
    seconds: float

    def take(self) -> bool:
        """Take the step in this thread."""
        return self.waiter.wait(self.seconds)


class Queue:
    """The waiters of one pool. The pool's lock guards it, hence the suffix of its methods."""

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self.waiters)

    def add_locked(self, waiter: Waiter, *, at_head: bool = False) -> None:
        """Append a waiter. One that was handed a dead connection had its turn: it goes first."""
        (self.waiters.appendleft if at_head else self.waiters.append)(waiter)

    def withdraw_locked(self, waiter: Waiter) -> Entry | None:
        """Remove a waiter whose caller gives up. Returns the connection it was handed, if any: a
        caller that timed out at that very moment has it, and must use it or give it back.
        """
        if waiter in self.waiters:  # it is not if it was settled, or interrupted before it came
            self.waiters.remove(waiter)
        return waiter.entry

    def next_locked(self) -> Waiter:
        """Remove and return the first waiter."""
        return self.waiters.popleft()

    def fail_locked(
        self, error: Callable[[], BaseException], which: Callable[[Waiter], bool] = lambda _: True
    ) -> list[Waiter]:
        """Settle the waiters that `which` selects, each with an error of its own. Returns them."""
        failed = [waiter for waiter in self.waiters if which(waiter)]
        for waiter in failed:
            self.waiters.remove(waiter)
            waiter.settle(None, error())
        return failed
