"""What happens to all pools of a process at once: at a fork, and at its end."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import weakref
from collections.abc import Collection
from typing import Protocol

from flask_pooled_db.connection import PooledConnection, detach_connections
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
    for pool in list(pools):
        if pool.driver.suffers_from_forks:
            pool.close_idle()
    # Not earlier: it sees to the time limits of what was waited for.
    _pauses.append(housekeeper.pause(FORK_PATIENCE))
    workers.wait_for_the_rest(FORK_PATIENCE)  # what it started last, and what ends at once


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
        housekeeper.resume()
    workers.go_on()


def _after_fork_in_child() -> None:
    _pauses.clear()
    estates.clear()
    workers.after_fork()
    housekeeper.after_fork()
    detach_connections()
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
    for estate in [estate for estate in list(estates) if estate.is_vacant()]:
        with contextlib.suppress(Exception):
            estate.settle()
    housekeeper.stop()


atexit.register(close_pools)
