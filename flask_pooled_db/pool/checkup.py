"""The check of a pool that many may ask for: it is made once a second at most."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from flask_pooled_db.config import shown
from flask_pooled_db.pool.probe import CLOSED, Answer, Finding
from flask_pooled_db.runtime import guard, workers

INTERVAL = 1.0
"""Seconds, at least, from the beginning of a check to that of the next one."""

SHARE = 0.9
"""The part of the time of those who ask that a check may take: the rest is for its way to them."""

START_PATIENCE = 5.0
"""Seconds in which the thread of a check begins, or never will: its asker was interrupted."""


class Pool(Protocol):
    """What is checked."""

    terms: Any

    @property
    def is_closed(self) -> bool:
        """Whether it lends nothing any more."""

    def probe(self, seconds: float) -> Finding:
        """Return whether a caller would get a connection that answers."""


class Round:
    """One check, and what it has found."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.process = os.getpid()
        self.has_started = False
        self.has_ended = False
        self._found: Finding | None = None
        self._told = threading.Event()

    def is_for(self, now: float) -> bool:
        """Return whether who asks now gets its result: it is under way, or of this second."""
        if self.process != os.getpid():  # it is the parent's
            return False
        if not self.has_ended:
            return self.has_started or now < self.began + START_PATIENCE
        return now < self.began + INTERVAL

    def tell(self, found: Finding) -> None:
        """Tell those who wait for it, and those who will ask."""
        self._found = found
        self._told.set()

    def wait(self, seconds: float) -> Finding | None:
        """Return what it has found; None if `seconds` did not suffice."""
        self._told.wait(max(seconds, 0.0))
        return self._found


class Checkup:
    """The check of one pool. A forked child has none of its parent's results."""

    def __init__(self, pool: Pool, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """Nobody who asks waits longer than `seconds`."""
        self._pool = pool
        self._seconds = seconds
        self._clock = clock
        self._round: Round | None = None  # the lock guards it
        self._down_in: int | None = None  # the process that has reported an outage

    def begin(self) -> Callable[[float], Answer]:
        """Begin a check, unless one is under way or was made in this second. Returns a function
        that waits for it, until a time of the clock.
        """
        now = self._clock()
        with guard.lock:
            last = self._round
            if last is not None and last.is_for(now):
                return functools.partial(self._wait_for, last)
            self._round = started = Round(now)
        check = functools.partial(self._check, started)
        try:
            workers.start("checker", check)
        except Exception:  # noqa: BLE001  the system has no more threads
            check()
        return functools.partial(self._wait_for, started)

    def _check(self, started: Round) -> None:
        started.has_started = True
        try:
            found = self._probe()
            started.tell(found)
            self._note(found)
        finally:
            started.has_ended = True

    def _probe(self) -> Finding:
        try:
            return self._pool.probe(self._seconds * SHARE)
        except Exception as error:  # noqa: BLE001  those who ask are told, and the log
            return Finding(Answer.DOWN, f"the check failed ({type(error).__name__})")

    def _wait_for(self, asked: Round, deadline: float) -> Answer:
        # A check that hangs in its driver is over for all when its time is over.
        until = min(deadline, asked.began + self._seconds)
        found = asked.wait(until - self._clock())
        if found is None:
            found = Finding(Answer.DOWN, "the check did not return in time")
            self._note(found)
        return CLOSED.answer if self._pool.is_closed else found.answer

    def _note(self, found: Finding) -> None:
        """Log that an outage has begun, or is over."""
        is_down, process = found.answer is Answer.DOWN, os.getpid()
        if found.answer is Answer.CLOSED or is_down == (self._down_in == process):
            return
        self._down_in = process if is_down else None
        terms = self._pool.terms
        if is_down:
            text = "Bind %s is not ready: %s"
            terms.notices.warn("not ready", text, shown(terms.bind), found.reason)
        else:
            terms.notices.warn("ready again", "Bind %s is ready again", shown(terms.bind))
