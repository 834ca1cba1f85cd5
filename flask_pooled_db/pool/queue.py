"""Callers that wait for a connection, in the order in which they came."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

from flask_pooled_db.drivers import Session
from flask_pooled_db.pool.entry import Entry


class ServerDown(Exception):
    """The server is down, or does not answer: the caller goes elsewhere."""


class Waiter:
    """A caller in the queue. It is settled once, under the pool's lock: with a connection, or with
    an error.

    The caller blocks on a lock that `settle()` releases: a `threading.Event` does the same, and
    takes several times as long.
    """

    __slots__ = ("_settled", "came", "entry", "error", "session")

    needs_up = False
    """Whether it gives up as soon as a connect fails."""
    patience = math.inf
    """Seconds without an answer from the server after which it gives up."""
    has_given_up = False
    """Whether it did."""

    def __init__(self, session: Session | None = None) -> None:
        self._settled = threading.Lock()
        self._settled.acquire()
        self.entry: Entry | None = None
        self.error: BaseException | None = None
        self.session = session
        self.came = 0.0  # when its caller began to wait

    def again(self) -> Waiter:
        """Return another one for the same caller, who was handed a dead connection."""
        return Waiter(self.session)

    def settle(self, entry: Entry | None, error: BaseException | None = None) -> None:
        """Hand over a connection or an error, and wake the caller."""
        self.entry, self.error = entry, error
        self._settled.release()

    def wait(self, seconds: float) -> bool:
        """Wait until settled, for up to `seconds`. Returns whether it is."""
        return self._settled.acquire(timeout=max(seconds, 0.0))


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
    ) -> None:
        """Settle the waiters that `which` selects, each with an error of its own."""
        for waiter in [waiter for waiter in self.waiters if which(waiter)]:
            self.waiters.remove(waiter)
            waiter.settle(None, error())
