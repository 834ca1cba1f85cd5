"""What happens to all pools of a process at once: at a fork, and at its end."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection
from types import FrameType
from typing import Protocol

from flask_pooled_db.connection import PooledConnection, disown_connections
from flask_pooled_db.drivers import Driver
from flask_pooled_db.housekeeping import housekeeper
from flask_pooled_db.threads import workers

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

FORK_PATIENCE = 5.0
"""Seconds for which a fork is put off while connections are being opened."""


class Estate:
    """The connections of a pool, to be closed where the pool is collected as garbage.

    A lease holds its pool. So when the pool is gone, nobody uses a connection of it, whatever state
    it was in. No finalizer works here: it could run anywhere, under any lock.
    """

    def __init__(
        self, pool: ProcessPool, driver: Driver, *parts: Collection[PooledConnection]
    ) -> None:
        self._pool = weakref.ref(pool)
        self._driver = driver
        self._parts = parts
        estates.add(self)

    def is_vacant(self) -> bool:
        """Whether the pool is gone."""
        return self._pool() is None

    def settle(self) -> None:
        """Close what the pool left behind."""
        estates.discard(self)
        for part in self._parts:
            for con in list(part):
                con.close()
        self._driver.close_all()


estates: set[Estate] = set()
"""Of every pool of this process that has opened anything."""

_warned_of_fork = False
_pauses: list[bool] = []  # whether the housekeeper paused, for each fork under way


def _before_fork() -> None:
    """Have none of this package's threads inside of a library, or alive, when the process forks."""
    _warn_of_open_connections()
    workers.make_way()
    if not workers.wait_for_the_rest(FORK_PATIENCE):
        logger.warning(
            "Forking while a connection is being opened, which took more than %.0f s: locks of its "
            "driver may stay locked in the child",
            FORK_PATIENCE,
        )
    _settle_estates()
    for pool in list(pools):
        if pool.driver.suffers_from_forks:
            pool.close_idle()
    # Not earlier: it sees to the time limits of what was waited for.
    _pauses.append(housekeeper.pause(FORK_PATIENCE))
    workers.wait_for_the_rest(FORK_PATIENCE)  # what it started last, and what ends at once


def _settle_estates() -> None:
    for estate in [estate for estate in list(estates) if estate.is_vacant()]:
        with contextlib.suppress(Exception):
            estate.settle()


def _warn_of_open_connections() -> None:
    global _warned_of_fork  # noqa: PLW0603  one warning a process
    opened = sum(pool.open_connections for pool in list(pools))
    if opened and not _warned_of_fork:
        _warned_of_fork = True
        logger.warning(
            "Forking with %d open database connections: the child leaves them to its parent and "
            "opens its own. Connect after the fork to save them",
            opened,
        )


def _after_fork_in_parent() -> None:
    if _pauses.pop():
        _soon(housekeeper.resume)
    workers.go_on()


_waiting: list[tuple[FrameType, Callable[[], None]]] = []
"""What is to be done when a fork has returned to the frame that called it."""


def _soon(function: Callable[[], None]) -> None:
    """Call a function as soon as `os.fork()` has returned.

    From Python 3.13 on it counts the threads of the process after these hooks, for its warning.
    Only the main thread can be made to do something later; in another one, the warning is due.
    """
    if threading.current_thread() is not threading.main_thread():
        function()
        return
    _waiting.append((sys._getframe(2), function))
    ctypes.pythonapi.Py_AddPendingCall(_RUN_WAITING, None)


def _run_waiting(_: object) -> int:
    """Called by the interpreter between two instructions of the main thread.

    In a frame called by the one that forks, this may still be a hook: then wait for the next time.
    """
    running = sys._getframe(1)
    while _waiting:
        frame, function = _waiting[-1]
        if running is not frame and _is_called_by(running, frame):
            ctypes.pythonapi.Py_AddPendingCall(_RUN_WAITING, None)
            return 0
        _waiting.pop()
        function()
    return 0


def _is_called_by(frame: FrameType | None, caller: FrameType) -> bool:
    while frame is not None and frame is not caller:
        frame = frame.f_back
    return frame is not None


_RUN_WAITING = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_run_waiting)


def _after_fork_in_child() -> None:
    _pauses.clear()
    _waiting.clear()
    workers.after_fork()
    housekeeper.after_fork()
    disown_connections()
    estates.clear()
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
    _settle_estates()
    housekeeper.stop()


atexit.register(close_pools)
