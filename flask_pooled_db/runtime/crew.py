"""Threads that make calls for event loops, which must not wait: as many as calls are under way.

A thread at rest reads from a socket. Whoever writes to that lets go of the interpreter's lock
meanwhile, and the thread takes it as it wakes. If it waited for a `threading.Lock`, it would be
woken by a thread that keeps the interpreter's lock, only to wait once more, for that. With 64 tasks
on 20 connections and a round trip of 2 ms, a transaction took 11 switches between threads so; it
takes 8 now. The tasks do 0.94 of the transactions that 64 threads do, and did 0.90 before.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from flask_pooled_db.runtime import guard
from flask_pooled_db.runtime.housekeeper import housekeeper
from flask_pooled_db.runtime.process import Part, join
from flask_pooled_db.runtime.workers import workers

REST = 5.0
"""Seconds after which a thread ends that has nothing to do."""


class Call:
    """A function that a thread is to call, or None if it is to end."""

    __slots__ = ("function", "has_begun")

    def __init__(self, function: Callable[[], object] | None) -> None:
        self.function = function
        self.has_begun = False  # the lock guards it


class Hand:
    """One thread of the crew."""

    def __init__(self, crew: Crew, function: Callable[[], object]) -> None:
        self._crew = crew
        self.thread: threading.Thread | None = None  # once it runs
        self.rests_since = 0.0
        self._ends: tuple[socket.socket, ...] = ()  # which it reads from, and which wakes it
        self._call: Call | None = Call(function)
        self._dismissals = crew.dismissals

    def call(self, function: Callable[[], object] | None) -> None:
        """Have it call a function, or end. It must be at rest, and belong to the caller alone."""
        self.hand_over(Call(function))

    def hand_over(self, call: Call) -> None:
        """Have it make a call. It must be at rest, and belong to the caller alone."""
        self._dismissals = self._crew.dismissals
        self._call = call
        self._ends[1].send(b"1")

    def take_back(self, call: Call) -> bool:
        """Undo `hand_over()`, however far that came. Returns False if the call has begun."""
        with guard.lock:
            if not call.has_begun:
                self._call = None
            return not call.has_begun

    def work(self) -> None:
        """Make one call after the other."""
        self.thread = threading.current_thread()
        while (function := self._next()) is not None:
            if workers.is_forking:
                with workers.connecting():
                    pass  # the fork is over
            function()
            del function  # and what it works with
            self._rest()
        for end in self._ends:
            end.close()

    def _next(self) -> Callable[[], object] | None:
        call, self._call = self._call, None
        return None if call is None else call.function

    def _rest(self) -> None:
        """Wait for the next call. Returns without one if this thread is to end."""
        try:
            self._ends = self._ends or _connected()
        except OSError:  # the process has no descriptor left
            return
        self.rests_since = monotonic()
        self._crew.rest(self)
        if self._dismissals == self._crew.dismissals or not self._crew.withdraw(self):
            self._ends[0].recv(1)
            while not self._begins():  # it was woken for a call that was taken back
                self._ends[0].recv(1)

    def _begins(self) -> bool:
        with guard.lock:
            if self._call is not None:
                self._call.has_begun = True
            return self._call is not None


def _connected() -> tuple[socket.socket, ...]:
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(None)  # the process may have another default
    return ends


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
        self._looks_at = 0.0  # when those at rest are looked at next; 0: when one comes to rest
        workers.at_rest = self.at_rest

    def at_rest(self) -> set[threading.Thread | None]:
        """Return the threads that have nothing to do."""
        return {hand.thread for hand in list(self.idle)}

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called, which raises nothing. Raises RuntimeError if the system has no
        more threads, or if the process is ending: a thread at rest does not go on then.
        """
        workers.refuse_if_over()
        if not self._call_last(function):
            workers.start("caller", Hand(self, function).work)

    def _call_last(self, function: Callable[[], object] | None) -> bool:
        """Have the thread that has rested least call a function, or end. Returns whether there is
        one. What a signal handler raises meanwhile leaves it at rest.
        """
        taken: list[Hand] = []
        call = Call(function)
        try:
            with contextlib.suppress(IndexError):  # there is none
                # One step of the interpreter's: it is never gone from there, and known to nobody.
                taken.extend(map(deque.pop, (self.idle,)))
            for hand in taken:
                hand.hand_over(call)
        except BaseException:
            for hand in taken:
                if hand.take_back(call):
                    self.rest(hand)
            raise
        return bool(taken)

    def rest(self, hand: Hand) -> None:
        """Have a thread called from now on."""
        self.idle.append(hand)
        self._look_after(hand)

    def withdraw(self, hand: Hand) -> bool:
        """Have a thread at rest called no more. Returns False if a call comes at this moment."""
        try:
            self.idle.remove(hand)
        except ValueError:
            return False
        return True

    def _look_after(self, hand: Hand) -> None:
        """See to it that a thread, which is at rest already, does not rest for good."""
        if hand.rests_since >= self._looks_at:
            self._looks_at = hand.rests_since + REST
            housekeeper.call_at(self._looks_at, self._end_rested)

    def _end_rested(self) -> None:
        """End the threads that have rested for long."""
        self._looks_at = 0.0  # first: whoever comes to rest after this sees to the next look
        now = monotonic()
        for hand in list(self.idle):  # the one that has rested longest comes first
            if now - hand.rests_since < REST:
                self._look_after(hand)
                return
            if self.withdraw(hand):
                hand.call(None)

    def dismiss(self) -> None:
        """End the threads, those at work after their call. The next calls start new ones."""
        self.dismissals += 1  # first: whoever comes to rest after this does not stay
        while self._call_last(None):
            pass

    before_fork = at_exit = dismiss


crew = Crew()
"""The crew of this process."""

join(1, crew)
