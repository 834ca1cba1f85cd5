"""Who holds a lease: an asyncio task, else a greenlet, else a thread.

Context variables are copied into child tasks, threads and greenlets, so that a variable alone
can't tell whether a scope is the caller's own or its parent's.
"""

from __future__ import annotations

import sys
import threading
from typing import Any


def current_owner() -> Any:
    """The caller: its task, or its greenlet, or the number of its thread.

    It is to be compared and kept, nothing more. Neither asyncio nor greenlet is imported for it.
    """
    modules = sys.modules
    asyncio = modules.get("asyncio")
    if asyncio is not None:
        loop = asyncio._get_running_loop()
        if loop is not None:
            task = asyncio.current_task(loop)
            if task is not None:
                return task
    greenlet = modules.get("greenlet")
    if greenlet is not None:
        current = greenlet.getcurrent()
        if current.parent is not None:  # else it is the thread's main one: the thread itself
            return current
    return threading.get_ident()


def is_running(owner: Any) -> bool:
    """Whether an owner may still use, and give back, what it holds."""
    if isinstance(owner, int):
        return any(thread.ident == owner for thread in threading.enumerate())
    if hasattr(owner, "done"):
        return not owner.done()
    return not owner.dead
