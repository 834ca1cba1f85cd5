"""What happens to the whole process: a fork, and the exit.

There is one hook for each, and its order is written here. Before a fork:

1. a warning, if connections are open;
2. the workers begin no connect, and those under way are waited for;
3. each part closes what a child would harm;
4. the housekeeper pauses, since until here it keeps time limits;
5. the lock is taken, so that the child finds nothing half changed, and released in both afterwards.

In the child the workers, the reporter and the housekeeper start afresh, then each part. At the exit
each part closes what it has open, the housekeeper stops, and from then on no thread starts: none
would run while Python shuts down. Parts come in the order of their layers. A step that fails does
not keep the others from being taken.

Python ignores what a fork hook raises, and a signal handler may raise at the first instruction of
any hook. So there are two of each, and the second does what the first left undone.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType

from flask_pooled_db.runtime import guard
from flask_pooled_db.runtime.children import Children
from flask_pooled_db.runtime.housekeeper import housekeeper
from flask_pooled_db.runtime.reporter import announcer, reporter
from flask_pooled_db.runtime.workers import workers

logger = logging.getLogger("flask_pooled_db")

FORK_PATIENCE = 5.0
"""Seconds for which a fork is put off while connections are being opened."""

EXIT_PATIENCE = 1.0
"""Seconds that the exit waits for log handlers, and for connects under way."""


class Part:
    """A part of the package that has something to do at a fork or at the exit."""

    def open_connections(self) -> int:
        """Return how many connections a child would inherit."""
        return 0

    def before_fork(self) -> None:
        """Close what a child would harm."""

    def after_fork_in_child(self) -> None:
        """Leave to the parent what is the parent's."""

    def at_exit(self) -> None:
        """Close what is open."""

    def after_exit(self) -> None:
        """Take the new lock: while Python shuts down, a thread may stop for good with the old."""


_parts: list[tuple[int, Part]] = []
_under_way: dict[int, list[Fork]] = {}  # the forks of each thread
_has_warned = False  # one warning a process is enough


def join(layer: int, part: Part) -> None:
    """Have a part take part. Lower layers come first, in whatever order they were imported."""
    _parts.append((layer, part))
    _parts.sort(key=lambda entry: entry[0])


def parts() -> list[Part]:
    """Return all parts, lower layers first."""
    return [part for _, part in _parts]


class Fork:
    """A fork under way. What it does can be undone twice, or although it was not done: a signal
    handler may interrupt it anywhere.
    """

    def __init__(self) -> None:
        self._was_inside = guard.is_inside()
        self._has_begun = self._is_late = False
        self.is_prepared = self.is_over = False

    def prepare(self) -> None:
        """Keep everything still."""
        self._release_lock()
        if not guard.lock.acquire(timeout=FORK_PATIENCE):
            self.is_prepared = True  # no more can be done: a thread is stuck amid a change
            return
        self._has_begun = True
        guard.lock.release()
        _try(_warn_of_open_connections)
        _try(children.watch)
        workers.make_way(self)
        self._is_late = not workers.wait_for_the_rest(FORK_PATIENCE)
        for part in parts():
            _try(part.before_fork)
        housekeeper.pause(self, FORK_PATIENCE)
        workers.wait_for_the_rest(FORK_PATIENCE)  # what the housekeeper started last
        if not self._was_inside:
            guard.lock.acquire(timeout=FORK_PATIENCE)
        self.is_prepared = True

    def _release_lock(self) -> None:
        while guard.is_inside() and not self._was_inside:
            guard.lock.release()

    def undo(self) -> None:
        """In the parent, let everything go on."""
        if self._has_begun:
            self._let_go_on()
        self.is_over = True

    def _let_go_on(self) -> None:
        try:
            self._release_lock()
        finally:
            try:
                workers.go_on(self)
            finally:
                _soon(functools.partial(housekeeper.resume, self))
        if self._is_late:
            _try(_warn_of_connects)


def _innermost() -> Fork | None:
    """Return the fork that this thread is about. In a signal handler, it may be a second one."""
    forks = _under_way.get(threading.get_ident())
    return forks[-1] if forks and not forks[-1].is_over else None


def _before_fork() -> None:
    fork = Fork()
    forks = _under_way.setdefault(threading.get_ident(), [])
    forks[:] = [*(each for each in forks if not each.is_over), fork]
    fork.prepare()


def _before_fork_again() -> None:
    fork = _innermost()
    if fork is None:
        _before_fork()
    elif not fork.is_prepared:
        fork.prepare()


def _try(step: Callable[[], object]) -> None:
    try:
        step()
    except Exception:  # noqa: BLE001  the fork can't be called off
        _log(logging.ERROR, "A fork hook failed", exc_info=True)


def _log(level: int, text: str, *args: object, exc_info: bool = False) -> None:
    """Log in the thread that forks, unless a handler that uses the pool would wait for itself."""
    if not guard.is_inside():
        with contextlib.suppress(Exception):  # of a handler
            logger.log(level, text, *args, exc_info=exc_info)


def _warn_of_open_connections() -> None:
    global _has_warned  # noqa: PLW0603  it is the process's
    opened = sum(part.open_connections() for part in parts())
    if opened and not _has_warned:
        _has_warned = True
        _log(
            logging.WARNING,
            "Forking with %d open database connections: the child leaves them to its parent and "
            "opens its own. Connect after the fork to save them",
            opened,
        )


def _warn_of_connects() -> None:
    _log(
        logging.WARNING,
        "Forked while a connection was being opened, which took more than %.0f s: locks of its "
        "driver may stay locked in the child",
        FORK_PATIENCE,
    )


def _after_fork_in_parent() -> None:
    if fork := _innermost():
        fork.undo()


def _after_fork_in_parent_again() -> None:
    _after_fork_in_parent()
    if forks := _under_way.get(threading.get_ident()):
        forks.pop()
    if not forks:
        _under_way.pop(threading.get_ident(), None)


_COUNTS_THREADS = sys.version_info >= (3, 12)

_waiting: list[tuple[FrameType | None, int, Callable[[], None]]] = []
"""What is to be done when a fork has returned to the frame that called it, at this instruction."""


def _soon(function: Callable[[], None]) -> None:
    """Call a function as soon as `os.fork()` has returned.

    From Python 3.12 on it counts the threads of the process after these hooks, for its warning.
    Only the main thread can be made to do something later; in another one, the warning is due.
    Before 3.12 there is no warning, and a call that is put off twice never ends under a debugger.
    """
    if not _COUNTS_THREADS or threading.current_thread() is not threading.main_thread():
        function()
        return
    frame = _forking_frame()
    _waiting.append((frame, frame.f_lasti if frame else 0, function))
    for _ in range(2):  # as with the hooks
        _run_waiting_soon()


def _forking_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals is globals():
        frame = frame.f_back
    return frame


class _RunWaiting:
    """Asked by the interpreter, between two instructions of the main thread, whether it is true.

    So what a signal handler raises meanwhile is raised in the main thread. A function that ctypes
    makes would swallow it, and return anything, which the interpreter may take for an error.
    """

    def __bool__(self) -> bool:
        """Return False, which is 0: all went well.

        In a frame called by the one that forks, by the same instruction, this may still be a hook:
        then wait for the next time.
        """
        running = sys._getframe(1)
        while _waiting:
            frame, instruction, function = _waiting[-1]
            if running is not frame and _is_called_by(running, frame, instruction):
                _run_waiting_soon()
                break
            _try(function)
            _waiting.pop()
        return False


def _run_waiting_soon() -> None:
    python = ctypes.pythonapi
    python.Py_AddPendingCall(python.PyObject_IsTrue, ctypes.py_object(_run_waiting))


def _is_called_by(frame: FrameType | None, caller: FrameType | None, instruction: int) -> bool:
    while frame is not None and frame is not caller:
        frame = frame.f_back
    return frame is not None and frame.f_lasti == instruction


_run_waiting = _RunWaiting()


def _after_fork_in_child() -> None:
    guard.renew()
    _waiting.clear()
    workers.after_fork()
    reporter.after_fork()
    announcer.after_fork()
    housekeeper.after_fork()
    for part in parts():
        _try(part.after_fork_in_child)
    _under_way.clear()


def _after_fork_in_child_again() -> None:
    if _under_way:
        _after_fork_in_child()


if hasattr(os, "register_at_fork"):
    # Those before a fork are called in reverse order.
    os.register_at_fork(
        before=_before_fork_again,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent_again,
        after_in_child=_after_fork_in_child_again,
    )


def close_everything() -> None:
    """Close what every part has open, and end the threads. Waits for nothing without a limit."""
    for part in parts():
        with contextlib.suppress(Exception):
            part.at_exit()
    workers.wait_for_the_rest(EXIT_PATIENCE)  # a server takes a broken handshake for an attack
    housekeeper.stop()
    announcer.flush(EXIT_PATIENCE)
    reporter.flush(EXIT_PATIENCE)


def _at_exit() -> None:
    close_everything()
    housekeeper.stop(for_good=True)
    workers.is_over = True
    guard.renew()
    for part in parts():
        part.after_exit()
    _free_log_handlers()


def _free_log_handlers() -> None:
    """Keep `logging`, which locks each handler at the exit, from waiting for one that is stuck."""
    for reference in list(getattr(logging, "_handlerList", ())):
        handler = reference()
        if handler is None or handler.lock is None:
            continue
        if handler.lock.acquire(blocking=False):
            handler.lock.release()
        else:
            handler.createLock()


atexit.register(_at_exit)

children = Children(close_everything)
children.watch()  # a fork server's child is forked before it imports this
