"""The driver's connection, as what has to be ended, whatever becomes of the rest."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers import Driver
from flask_pooled_db.pool.places import Place
from flask_pooled_db.runtime import workers

logger = logging.getLogger("flask_pooled_db")


class Link:
    """The driver's connection and the place it takes: what has to be ended, whatever becomes of the
    rest.
    """

    __slots__ = ("__weakref__", "driver", "is_left", "is_open", "place", "raw", "reason")

    def __init__(self, raw: Any, driver: Driver) -> None:
        self.raw = raw
        self.driver = driver
        self.is_open = True
        self.is_left = False  # to a thread that is still at work with it, and will close it
        self.place: Place | None = None  # outside of a pool it has none
        self.reason: str | None = None  # why it was left to be ended; None if it was leaked
        _links.add(self)

    def close(self) -> None:
        """Say goodbye to the server and close."""
        self._end(self.driver.close)

    def terminate(self) -> None:
        """Close without a goodbye: the server may not be listening."""
        self._end(self.driver.terminate)

    def detach(self) -> None:
        """In a forked child, leave the connection to the parent: send nothing, close nothing."""
        if self.is_open:
            self.is_open = False
            self.driver.detach(self.raw)

    def ping(self) -> bool:
        """Ping, and leave no transaction open that the ping has begun. Returns True, or raises."""
        if self.driver.ping(self.raw):
            self.raw.rollback()
        return True

    def answers_elsewhere(self, seconds: float) -> bool:
        """Ping in a thread of its own, since nothing could end the call. Returns whether it has
        succeeded.

        If it takes too long, the connection is left to that thread, which closes it when the call
        ends: no driver lets another one close it meanwhile.
        """
        pinger = Pinger(self)
        try:
            workers.start("pinger", pinger.run)
            pinger.outcome.wait(seconds)
        except Exception:  # noqa: BLE001  the system has no more threads
            pinger.outcome.set()
        finally:
            pinger.leave()
        return pinger.has_succeeded and not self.is_left

    def _end(self, end: Callable[[Any], None]) -> None:
        if self.is_open and not self.is_left:
            self.is_open = False
            try:
                end(self.raw)
            except Exception as error:  # noqa: BLE001  it is gone, which is what was wanted
                logger.debug("Closing a connection failed: %s", type(error).__name__)


class Pinger:
    """A ping in a thread of its own."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()  # guards who ends the connection: who waits, or the thread
        self._thread: threading.Thread | None = None
        self.outcome = threading.Event()
        self.has_succeeded = False

    def run(self) -> None:
        """Ping. If nobody waits for the answer any more, close the connection."""
        link, self._thread = self._link, threading.current_thread()
        with contextlib.suppress(Exception):  # a ping that fails, however, means dead
            self.has_succeeded = link.ping()
        with self._lock:
            self.outcome.set()
        if link.is_left:
            link.is_left = False
            link.terminate()

    def leave(self) -> None:
        """Wait no longer."""
        with self._lock:
            self._link.is_left = not self.outcome.is_set()
        if self._link.is_left and self._thread is not None:
            workers.give_up_on(self._thread)


_links: weakref.WeakSet[Link] = weakref.WeakSet()
"""All connections of this process, inside a pool or not: a forked child has to detach them."""


def are_any_open() -> bool:
    """Return whether this process has a connection that a child would inherit."""
    return len(_links) > 0


def detach_all() -> None:
    """In a forked child, leave every connection to the parent."""
    for link in list(_links):
        link.detach()
    _links.clear()
