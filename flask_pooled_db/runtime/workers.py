"""Short-lived threads beside the housekeeper, and how they make way for a fork.

A fork copies the locks of the process, but not the threads that hold them. The locks inside a TLS
library, SQLite or a driver are invisible from here, so a fork waits until no thread is inside one.
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from flask_pooled_db.runtime import guard

THREADS = "flask-pooled-db "
"""What the names of the package's own threads begin with."""

_POLL_INTERVAL = 0.0005


def _run(target: Callable[[], object]) -> None:
    try:
        target()
    except BaseException as error:
        # Whoever keeps the error must not keep what the thread was at work with.
        traceback.clear_frames(error.__traceback__)
        del target
        raise


class Workers:
    """Short-lived daemon threads that open, close and interrupt connections.

    While the process forks, no worker is at work and none begins: it has ended, or it waits.
    """

    def __init__(self) -> None:
        # Tells which threads have nothing to do, and will do nothing while `is_forking`.
        self.at_rest: Callable[[], Collection[threading.Thread | None]] = tuple
        self.is_over = False  # for good: the process ends
        self.after_fork()

    def after_fork(self) -> None:
        """Forget all threads: a forked child has none of its parent's."""
        self._changed = threading.Condition(guard.lock)  # the lock guards the fields below
        self._forks: set[object] = set()  # under way; several threads may fork at once
        self._threads: set[threading.Thread] = set()  # including those that ended a moment ago
        self._working: set[threading.Thread] = set()  # those inside connecting()
        self._resting: set[threading.Thread] = set()  # those a fork need not wait for

    @property
    def is_forking(self) -> bool:
        """Whether a fork is under way. A worker that no caller needs should end then."""
        return bool(self._forks)

    def start(self, name: str, target: Callable[[], object]) -> None:
        """Run `target` in a thread. Raises RuntimeError if the system has no more threads, or if
        the process is ending.
        """
        self.refuse_if_over()
        run = functools.partial(_run, target)
        thread = threading.Thread(target=run, name=THREADS + name, daemon=True)
        gone = set(filter(is_gone, list(self._threads)))
        thread.start()
        with guard.lock:
            self._threads -= gone
            self._threads.add(thread)

    def refuse_if_over(self) -> None:
        """Raise RuntimeError if the process is ending. A thread that starts while Python shuts down
        never runs, and `Thread.start()` waits for it for good.
        """
        if self.is_over:
            raise RuntimeError("the process is ending: no thread can start, or go on, any more")

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Hold back forks during the block, and wait for a fork that is under way."""
        me = threading.current_thread()
        with guard.lock:
            while self._forks:
                self._resting.add(me)
                self._changed.wait()
                self._resting.discard(me)
            self._working.add(me)
        try:
            yield
        finally:
            with guard.lock:
                self._working.discard(me)
                self._changed.notify_all()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Mark the current thread as waiting during the block, so that a fork ignores it."""
        me = threading.current_thread()
        with guard.lock:
            self._resting.add(me)
        try:
            yield
        finally:
            with guard.lock:
                self._resting.discard(me)

    def give_up_on(self, thread: threading.Thread) -> None:
        """Stop holding back forks for a thread that hangs for good."""
        with guard.lock:
            self._working.discard(thread)
            self._threads.discard(thread)
            self._changed.notify_all()

    def make_way(self, fork: object) -> None:
        """Let no connect begin until `go_on()`."""
        with guard.lock:
            self._forks.add(fork)

    def wait_for_the_rest(self, seconds: float) -> bool:
        """Wait up to `seconds` for workers that are at work or about to end.

        Returns whether none is left. Whoever holds the lock can't wait for them: they need it.
        """
        return self._is_clear() if guard.is_inside() else wait_until(self._is_clear, seconds)

    def _is_clear(self) -> bool:
        me = threading.current_thread()
        with guard.lock:
            left = (self._threads | self._working) - self._resting - {me, *self.at_rest()}
            works = bool(left & self._working)
        return not works and all(map(is_gone, left))

    def go_on(self, fork: object) -> None:
        """After a fork, let the workers of the parent begin again."""
        with guard.lock:
            self._forks.discard(fork)
            self._changed.notify_all()


def is_gone(thread: threading.Thread) -> bool:
    """Return whether a thread has ended, to its last instruction.

    Not to be called with the lock held: under gevent, asking a thread may switch to another one.
    Before Python 3.13, `is_alive()` and `join()` only tell that its Python code has ended. C
    libraries clean up after that, and OpenSSL takes a process-wide lock to do so.
    """
    if thread.is_alive():
        return False
    number = thread.native_id
    if number is None or number == threading.get_native_id():  # under gevent it was a greenlet
        return True
    return not Path(f"/proc/self/task/{number}").exists()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll `condition` for up to `seconds`. Returns whether it became true."""
    deadline = monotonic() + seconds
    while not (holds := condition()) and monotonic() < deadline:
        sleep(_POLL_INTERVAL)
    return holds


workers = Workers()
"""The workers of this process."""
