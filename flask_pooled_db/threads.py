"""The threads of this package beside the housekeeper, and how they make way for a fork.

A fork copies the locks of the process and not the threads that hold them. Those inside of a TLS
library, of SQLite or of a driver can't be seen from here: a fork waits until nobody is inside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

_POLL_INTERVAL = 0.0005


class Workers:
    """Short-lived daemon threads that open, close and interrupt connections.

    While the process forks, none of them is at work, and none begins: they end, or wait.
    """

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Forget everything: a forked child has none of its parent's threads."""
        self._changed = threading.Condition()  # guards the fields below
        self._forks = 0  # under way; more than one where several threads fork
        self._threads: set[threading.Thread] = set()  # also those that ended a moment ago
        self._working: set[threading.Thread] = set()  # those inside of `connecting`
        self._resting: set[threading.Thread] = set()  # those that need not end before a fork

    @property
    def is_forking(self) -> bool:
        """Whether a fork is under way: a worker that nobody waits for should end."""
        return self._forks > 0

    def start(self, name: str, target: Callable[[], object]) -> None:
        """Run `target` in a thread. Raises RuntimeError where the system has no more threads."""
        thread = threading.Thread(target=target, name=f"flask-pooled-db {name}", daemon=True)
        with self._changed:
            self._threads = {other for other in self._threads if not is_gone(other)}
        thread.start()
        with self._changed:
            self._threads.add(thread)

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """A block in which the process does not fork, as long as that can be put off."""
        me = threading.current_thread()
        with self._changed:
            while self._forks:
                self._resting.add(me)
                self._changed.wait()
                self._resting.discard(me)
            self._working.add(me)
        try:
            yield
        finally:
            with self._changed:
                self._working.discard(me)
                self._changed.notify_all()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """A block in which the current thread waits, and harms no fork."""
        me = threading.current_thread()
        with self._changed:
            self._resting.add(me)
        try:
            yield
        finally:
            with self._changed:
                self._resting.discard(me)

    def give_up_on(self, thread: threading.Thread) -> None:
        """Let a thread that hangs for good hold back no fork any more."""
        with self._changed:
            self._working.discard(thread)
            self._threads.discard(thread)
            self._changed.notify_all()

    def make_way(self) -> None:
        """Before a fork: let nobody begin a connect."""
        with self._changed:
            self._forks += 1

    def wait_for_the_rest(self, seconds: float) -> bool:
        """Before a fork: wait up to so many seconds for those at work, or about to end.

        Returns whether none is left.
        """
        return wait_until(self._is_clear, seconds)

    def _is_clear(self) -> bool:
        with self._changed:
            left = (self._threads | self._working) - self._resting - {threading.current_thread()}
            return not left & self._working and all(map(is_gone, left))

    def go_on(self) -> None:
        """After a fork, in the parent: those that wait may begin."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


def is_gone(thread: threading.Thread) -> bool:
    """Return whether a thread that was started has ended, to its last instruction.

    Before Python 3.13, `is_alive()` and `join()` tell that its Python code has ended. What C
    libraries do at a thread's end comes after that, and OpenSSL takes a lock of the process there.
    """
    if thread.is_alive():
        return False
    number = thread.native_id
    if number is None or number == threading.get_native_id():  # gevent: it was a greenlet
        return True
    return not Path(f"/proc/self/task/{number}").exists()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait up to so many seconds for what no event tells of. Returns whether it came."""
    deadline = monotonic() + seconds
    while not (holds := condition()) and monotonic() < deadline:
        sleep(_POLL_INTERVAL)
    return holds


workers = Workers()
"""Those of this process."""
