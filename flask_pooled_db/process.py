"""What happens to all pools of a process at once: at a fork, and at its end."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from typing import Protocol

from flask_pooled_db.connection import disown_connections
from flask_pooled_db.drivers import Driver
from flask_pooled_db.housekeeping import housekeeper

logger = logging.getLogger("flask_pooled_db")


class ProcessPool(Protocol):
    """What has to be known of a pool here."""

    driver: Driver

    @property
    def open_connections(self) -> int: ...

    def close_idle(self) -> None: ...

    def close(self) -> None: ...

    def after_fork(self) -> None: ...


pools: weakref.WeakSet[ProcessPool] = weakref.WeakSet()
"""Every pool of this process."""

_warned_of_fork = False
_fork_guards: list[threading.Lock] = []


def _before_fork() -> None:
    global _warned_of_fork  # noqa: PLW0603  one warning a process
    opened = sum(pool.open_connections for pool in list(pools))
    if opened and not _warned_of_fork:
        _warned_of_fork = True
        logger.warning(
            "Forking with %d open database connections: the child leaves them to its parent and "
            "opens its own. Connect after the fork to save them",
            opened,
        )
    for pool in list(pools):
        guard = pool.driver.fork_guard
        if guard is not None:
            guard.acquire()
            _fork_guards.append(guard)
            pool.close_idle()


def _after_fork_in_parent() -> None:
    while _fork_guards:
        _fork_guards.pop().release()


def _after_fork_in_child() -> None:
    _fork_guards.clear()
    disown_connections()
    for pool in list(pools):
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def close_pools() -> None:
    """Close every pool of this process and end the housekeeping thread."""
    for pool in list(pools):
        with contextlib.suppress(Exception):
            pool.close()
    housekeeper.stop()


atexit.register(close_pools)
