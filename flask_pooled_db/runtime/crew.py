"""Threads that make calls for event loops, which must not wait: as many as calls are under way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from flask_pooled_db.runtime.process import Part, join
from flask_pooled_db.runtime.workers import workers

REST = 5.0
"""Seconds after which a thread ends that has nothing to do."""


class Hand:
    """One thread of the crew."""

    def __init__(self, crew: Crew, function: Callable[[], object]) -> None:
        self._crew = crew
        self.thread: threading.Thread | None = None  # once it runs
        self._wake = threading.Lock()
        self._wake.acquire()
        self._function: Callable[[], object] | None = function
        self._dismissals = crew.dismissals

    def call(self, function: Callable[[], object] | None) -> None:
        """Have it call a function, or end. It must be at rest, and belong to the caller alone."""
        self._function = function
        self._dismissals = self._crew.dismissals
        self._wake.release()

    def work(self) -> None:
        """Make one call after the other."""
        self.thread = threading.current_thread()
        while (function := self._function) is not None:
            self._function = None
            if workers.is_forking:
                with workers.connecting():
                    pass  # the fork is over
            function()
            del function  # and what it works with
            self._rest()

    def _rest(self) -> None:
        """Wait for the next call."""
        self._crew.idle.append(self)
        is_wanted = self._dismissals == self._crew.dismissals
        if is_wanted and self._wake.acquire(timeout=REST):
            return
        try:
            self._crew.idle.remove(self)
        except ValueError:  # a call has come at that very moment
            self._wake.acquire()


class Crew(Part):
    """Threads that stay for a while. The one that has rested least is woken first.

    A fork waits for the calls that are under way, as for everything that workers do, and no other
    begins meanwhile.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        self.idle: deque[Hand] = deque()  # each change of it is one step of the interpreter's
        self.dismissals = 0
        workers.at_rest = self.at_rest

    def at_rest(self) -> set[threading.Thread | None]:
        """Return the threads that have nothing to do."""
        return {hand.thread for hand in list(self.idle)}

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called, which raises nothing. Raises RuntimeError if the system has no
        more threads, or if the process is ending: a thread at rest does not go on then.
        """
        workers.refuse_if_over()
        try:
            hand = self.idle.pop()
        except IndexError:
            workers.start("caller", Hand(self, function).work)
        else:
            hand.call(function)

    def dismiss(self) -> None:
        """End the threads, those at work after their call. The next calls start new ones."""
        self.dismissals += 1  # first: whoever comes to rest after this does not stay
        while self.idle:
            try:
                hand = self.idle.pop()
            except IndexError:
                return
            hand.call(None)

    before_fork = at_exit = dismiss


crew = Crew()
"""The crew of this process."""

join(1, crew)
