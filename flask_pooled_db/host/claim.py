"""Who does something that one thread alone may do at a time."""

from __future__ import annotations

import threading
from time import monotonic

from flask_pooled_db.runtime import guard, wait_until


class Claim:
    """What one thread has at a time. One that has ended has it no more, however it has ended: no
    interruption can keep it from others.
    """

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the threads of the parent."""
        self.holder: threading.Thread | None = None
        self.since = 0.0  # by time.monotonic

    def take(self, seconds: float = 0.0) -> bool:
        """Return whether the current thread has it now. Waits up to `seconds` for another."""
        return wait_until(self._take, seconds)

    def _take(self) -> bool:
        me, holder = threading.current_thread(), self.holder
        if holder is not None and holder.is_alive():  # not with the lock: gevent may switch
            return False
        with guard.lock:
            if self.holder is not holder:
                return False
            self.holder, self.since = me, monotonic()
        return True

    def drop(self) -> None:
        """Let others have it."""
        with guard.lock:
            if self.holder is threading.current_thread():
                self.holder = None
