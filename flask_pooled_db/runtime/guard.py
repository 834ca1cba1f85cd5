"""The one lock of the package.

It guards the state of the pools, the housekeeping and the workers of a process, for a few
instructions at a time: no I/O, no callback, no logging.

A finalizer that the garbage collector calls, and a signal handler, run between any two instructions
of a thread, those that hold the lock included. If they waited for it there, their thread would wait
for itself for good. So the lock is reentrant, and whoever is about to change something, or to wait
for anything, first asks `guard.is_inside()`, and leaves it to the code that was interrupted.

Take it by `with guard.lock:` alone. A signal handler may raise between the two halves of any other
way, `with condition:` included, and the lock would never be released.
"""

from __future__ import annotations

from _thread import RLock  # the interpreter's own, in C, whatever gevent makes of threading's

# Not to be imported by name: they are renewed.
lock = RLock()
is_inside = lock._is_owned  # type: ignore[attr-defined]  # as threading.Condition does
"""Return whether the current thread holds the lock."""


def renew() -> None:
    """Begin with a new lock: in a forked child, and at the end of the process.

    A thread that does not exist any more may hold the old one, or code that a signal handler has
    interrupted to fork, and that will release it.
    """
    global lock, is_inside  # noqa: PLW0603
    lock = RLock()
    is_inside = lock._is_owned  # type: ignore[attr-defined]
