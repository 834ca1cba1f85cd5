"""The exit of multiprocessing's children.

One that was forked ends by `os._exit()`, and `atexit` calls nothing there. What has to be done is
left to multiprocessing, which has finalizers of its own. It is not imported for that.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

_AFTER_ALL_OTHERS = -1000


class Children:
    """What the children of this process do at their end."""

    def __init__(self, at_exit: Callable[[], None]) -> None:
        self._at_exit = at_exit
        self._is_watched = False

    def watch(self) -> None:
        """Have each child that begins from now on do it, if there can be any."""
        util = sys.modules.get("multiprocessing.util")
        if util is None or self._is_watched:
            return
        util.register_after_fork(self, Children._begin)
        self._is_watched = True

    def _begin(self) -> None:
        """In the child, which has forgotten its parent's finalizers."""
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, self._end, exitpriority=_AFTER_ALL_OTHERS)

    def _end(self) -> None:
        """Do it, unless threads go on: multiprocessing waits for them after its finalizers."""
        me = threading.current_thread()
        if not any(each is not me and not each.daemon for each in threading.enumerate()):
            self._at_exit()
