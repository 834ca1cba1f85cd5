"""Who holds a lease: an asyncio task, else a greenlet, else a thread.

Context variables are copied into child tasks, threads and greenlets, so that a variable alone
can't tell whether a scope is the caller's own or its parent's.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

stand_ins: dict[int, Any] = {}
"""The tasks that threads make calls for, by the thread's number: such a call is its task's."""

_running_loop: Callable[[], Any] | None = None  # asyncio's, once it is imported
_current_greenlet: Callable[[], Any] | None = None  # greenlet's, once it is imported


def current_owner() -> Any:
    """Return the caller: its task, or its greenlet, or the number of its thread.

    It is to be compared and kept, nothing more. Neither asyncio nor greenlet is imported for it.
    """
    global _running_loop, _current_greenlet  # noqa: PLW0603  looked up once, not for each scope
    if _running_loop is None and "asyncio" in sys.modules:
        _running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    if _running_loop is not None:
        loop = _running_loop()
        if loop is not None:
            task = sys.modules["asyncio"].current_task(loop)
            if task is not None:
                return task
        elif stand_ins:  # never without asyncio
            task = stand_ins.get(threading.get_ident())
            if task is not None:
                return task
    if _current_greenlet is None and "greenlet" in sys.modules:
        _current_greenlet = getattr(sys.modules.get("greenlet"), "getcurrent", None)
    if _current_greenlet is not None:
        current = _current_greenlet()
        if current.parent is not None:  # else it is the thread's main one: the thread itself
            return current
    return threading.get_ident()


def id_of(owner: Any) -> int:
    """Return a number that tells an owner from others that live, and keeps none of its frames."""
    return owner if isinstance(owner, int) else id(owner)


def is_running(owner: Any) -> bool:
    """Whether an owner, or the thread of one, may still use, and give back, what it holds."""
    if isinstance(owner, threading.Thread):
        return owner in threading.enumerate()
    if isinstance(owner, int):
        return any(thread.ident == owner for thread in threading.enumerate())
    if hasattr(owner, "done"):
        return not (owner.done() or owner.get_loop().is_closed())
    return not owner.dead
