"""A thread for what may run other people's code, such as a log handler.

A handler may block, or use the pool itself. So no thread that others depend on logs: not the
housekeeping, and none that opens, closes or interrupts connections.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from flask_pooled_db.runtime import guard
from flask_pooled_db.runtime.workers import THREADS, workers

MAX_PENDING = 1000
"""How many reports wait while one blocks. Beyond that the oldest is dropped."""


class Reporter:
    """Calls functions one after the other, in a thread that ends with the last one."""

    def __init__(self, name: str) -> None:
        self._name = name  # of the thread
        self.after_fork()

    def after_fork(self) -> None:
        """Forget what is pending: it is the parent's."""
        self._pending: deque[tuple[Callable[..., object], Any]] = deque(maxlen=MAX_PENDING)
        self._works = False
        self._rests = threading.Condition(guard.lock)  # notified when nothing is pending any more

    def tell(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function: here, or soon and elsewhere if nobody may be held up here. It raises
        nothing.
        """
        if guard.is_inside() or threading.current_thread().name.startswith(THREADS):
            self.hand_over(function, *args)
        else:
            with contextlib.suppress(Exception):
                function(*args)

    def hand_over(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function soon, elsewhere."""
        self._pending.append((function, args))
        starts = False
        try:
            with guard.lock:
                starts = not self._works
                self._works = True
            if starts:
                workers.start(self._name, self._work)
        except BaseException as error:
            if starts:
                self._works = False  # the next report tries again
            if not isinstance(error, Exception):
                raise

    def flush(self, seconds: float) -> None:
        """Wait up to `seconds` until everything was reported."""
        deadline = monotonic() + seconds
        with guard.lock:
            while self._works and (left := deadline - monotonic()) > 0:
                self._rests.wait(left)

    def _work(self) -> None:
        while (report := self._next()) is not None:
            function, args = report
            # A fork does not wait for it: it may take as long as it likes.
            with workers.resting(), contextlib.suppress(BaseException):
                function(*args)

    def _next(self) -> tuple[Callable[..., object], Any] | None:
        with guard.lock:
            if self._pending:
                return self._pending.popleft()
            self._works = False
            self._rests.notify_all()
            return None


reporter = Reporter("reporter")
"""The reporter of this process."""

announcer = Reporter("announcer")
"""Calls those who subscribe to signals: they may take longer than a log handler, whom they must not
hold up.
"""
