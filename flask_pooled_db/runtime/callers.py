"""Where in the application a call of the package came from, and who makes it."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_NOT_THE_APPLICATIONS = frozenset({_PACKAGE, "flask", "werkzeug", "dbutils"})

# Where Python's own modules are, and those that were installed, with their commands. Those that are
# frozen have no file.
_PATHS = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
_LIBRARIES = ("<frozen ", *(sysconfig.get_path(name) + os.sep for name in _PATHS))

Place = tuple[str, int]
"""A file and a line."""

_asked_from: ContextVar[Place | None] = ContextVar("asked from", default=None)

_names: list[Callable[[], str | None]] = []  # functions that know what the caller is
_failures: list[Callable[[], bool]] = []  # functions that know whether it ends by an error


def program() -> str:
    """Return the name of the program that runs; with `python -m` it is the module's."""
    path = Path(sys.argv[0] if sys.argv else "")
    return (path.parent.name if path.name == "__main__.py" else path.name) or "python"


def place(frame: FrameType | None = None, *, beside: str = "") -> Place | None:
    """Return the place of the innermost frame, from this one on or the caller's, that is neither in
    this package nor in what it stands on, nor in the package `beside`.
    """
    frame = frame or sys._getframe(1)
    while frame is not None:
        name = (frame.f_globals.get("__name__") or "").partition(".")[0]
        if name not in _NOT_THE_APPLICATIONS and name != beside:
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


@contextlib.contextmanager
def asked_from(asked: Place | None) -> Iterator[None]:
    """Have `place_of_asking()` return this place in the block, and in whatever runs in a copy of
    its context: a worker thread has no frame of the task that it works for.
    """
    token = _asked_from.set(asked)
    try:
        yield
    finally:
        _asked_from.reset(token)


def place_of_asking() -> Place | None:
    """Return the place in the application that a call of the package came from, whichever thread
    makes it.
    """
    return _asked_from.get() or place()


def place_at_work(frame: FrameType | None, *, beside: str = "") -> Place | None:
    """Return the place of the innermost frame, from this one on, that is in no library: what waits
    does so in one. If there is none, return what `place()` does.
    """
    own = frame
    while own is not None and own.f_code.co_filename.startswith(_LIBRARIES):
        own = own.f_back
    return (place(own, beside=beside) if own else None) or place(frame, beside=beside)


def at(place: Place | None) -> str:
    """Return how a message names a place."""
    return "at {}:{}".format(*place) if place else "at a place that is not known"


def named_by(name: Callable[[], str | None]) -> None:
    """Have a function asked for what the caller is (an endpoint, a command); None if it is none."""
    _names.append(name)


def failed_by(has_failed: Callable[[], bool]) -> None:
    """Have a function asked whether what the caller does is ending by an error."""
    _failures.append(has_failed)


def has_failed() -> bool:
    """Return whether what the caller does is known to be ending by an error."""
    return any(ask() for ask in _failures)


def named() -> str | None:
    """Return what the caller is, in the words of those who know; None if nobody does."""
    for name in _names:
        try:
            found = name()
        except Exception:  # noqa: BLE001  a message must not fail for it
            found = None
        if found is not None:
            return found
    return None


def who() -> str:
    """Return what a message calls the caller."""
    return named() or _task() or thread_name(threading.get_ident())


def name_of(owner: Any) -> str:
    """Return what a message calls a task, a greenlet, or the thread of a number."""
    if isinstance(owner, int):
        return thread_name(owner)
    return f"task {owner.get_name()!r}" if hasattr(owner, "get_name") else "a greenlet"


def kind_of(owner: Any) -> str:
    """Return what a task, a greenlet, or a thread with this number is: one word, for a count."""
    if isinstance(owner, int):
        return "thread"
    return "task" if hasattr(owner, "get_name") else "greenlet"


def thread_name(number: int) -> str:
    """Return what a message calls a thread."""
    for thread in threading.enumerate():
        if thread.ident == number and thread is not threading.main_thread():
            return f"thread {thread.name!r}"
    return "code outside a request"


def _task() -> str | None:
    asyncio = sys.modules.get("asyncio")
    with contextlib.suppress(Exception):  # no loop runs here
        task = asyncio and asyncio.current_task()
        return f"task {task.get_name()!r}" if task else None
    return None
