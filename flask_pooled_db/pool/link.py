"""The driver's connection, as what has to be ended, whatever becomes of the rest."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers import Driver
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.holding import Hold
from flask_pooled_db.pool.places import Place
from flask_pooled_db.runtime import Errand, callers

logger = logging.getLogger("flask_pooled_db")


class Closing:
    """What a thread holds while it closes a connection. It is garbage when the closing is over,
    however that has ended.
    """

    __slots__ = ("__weakref__",)


class Link:
    """The driver's connection and the place it takes: what has to be ended, whatever becomes of the
    rest.
    """

    __slots__ = (
        *("__weakref__", "_ending", "driver", "is_open", "place", "raw", "reason"),
        *("_closing", "_errand", "hold", "is_told", "server_id", "taken_at", "taken_by"),
    )

    def __init__(self, raw: Any, driver: Driver) -> None:
        self.raw = raw
        self.driver = driver
        self.is_open = True  # until somebody begins to end it
        self._ending = threading.RLock()  # so that what was closed is not stopped
        self._closing: weakref.ref[Closing] | None = None  # by the thread that has begun to end it
        self.is_told = False  # as evicted, by the pool
        self._errand: Errand[bool] | None = None  # a ping that another thread makes
        self.place: Place | None = None  # outside of a pool it has none
        # If its caller gives it back itself: where it was taken, and the id of who took it.
        self.taken_at: callers.Place | None = None
        self.taken_by: int | None = None
        self.hold: Hold | None = None  # of its lease, where holders are known
        self.server_id = driver.server_id(raw)  # what the server calls it; None if nobody tells
        self.reason: str | None = None  # why it was left to be ended; None if it was leaked
        _links.add(self)

    def close(self) -> None:
        """Say goodbye to the server and close."""
        self._end(self.driver.close)

    def terminate(self) -> None:
        """Close without a goodbye: the server may not be listening."""
        self._end(self.driver.terminate)

    def stop(self) -> None:
        """End the call that is under way, if there is one, from any thread. The connection is of no
        use any more.
        """
        with self._ending, contextlib.suppress(Exception):  # the driver may have closed it
            if self.is_open:
                self.driver.stop(self.raw)

    def ending(self) -> Callable[[Callable[[], Any]], object] | None:
        """Return what ends, later, what the server still does for the connection; None if there is
        nothing to do. See `TimeLimits.ending`.
        """
        with self._ending, contextlib.suppress(Exception):  # as above
            if self.is_open:
                return self.driver.ending(self.raw)
        return None

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
        errand = self._errand = Errand("pinger", self.ping, self._come_back)
        try:
            return errand.run(seconds)
        except Exception:  # noqa: BLE001  a ping that fails, however, means dead
            return False
        finally:
            if not errand.is_left:  # else it is not this thread's any more
                self._errand = None

    def _come_back(self, _answered: bool | None) -> None:
        self._errand = None
        self.terminate()

    @property
    def is_left(self) -> bool:
        """Whether a thread is left that is still at work with it, and will close it."""
        errand = self._errand
        return errand is not None and errand.is_left

    @property
    def has_ended(self) -> bool:
        """Whether its place is another's to take: it is closed, or left to a thread that hangs."""
        if self.is_open:
            return self.is_left
        return self._closing is None or self._closing() is None  # None: it was detached

    def _end(self, end: Callable[[Any], None]) -> None:
        if not self.is_open or self.is_left:
            return
        mine, is_mine, failure = Closing(), False, ""
        try:
            with self._ending:
                if self.is_open:  # else another thread was faster
                    # First: whoever sees that it is not open sees that it is being closed, too.
                    self._closing = weakref.ref(mine)
                    is_mine, self.is_open = self.is_open, False
            if is_mine:
                failure = self._end_raw(end)
        except BaseException:
            if is_mine:  # nobody else will close it, and its place is free from now on
                with contextlib.suppress(Exception):
                    self.driver.terminate(self.raw)
            raise
        finally:
            del mine  # not with the frames of an error that somebody keeps
        if failure:
            logger.debug("Closing a connection failed: %s", failure)

    def _end_raw(self, end: Callable[[Any], None]) -> str:
        try:
            end(self.raw)
        except Exception as error:  # noqa: BLE001  it is gone, which is what was wanted
            return type(error).__name__
        return ""


_links: Census[Link] = Census()
"""All connections of this process, inside a pool or not: a forked child has to detach them."""


def are_any_open() -> bool:
    """Return whether this process has a connection that a child would inherit."""
    return len(_links) > 0


def detach_all() -> None:
    """In a forked child, leave every connection to the parent."""
    for link in _links.members():
        link.detach()
        _links.discard(link)


def server_ids() -> dict[str, list[int]]:
    """Return what servers call the connections of this process, in a pool or not, by the bind."""
    found: dict[str, list[int]] = {}
    for link in _links.members():
        if link.is_open and link.server_id is not None:
            found.setdefault(link.driver.bind, []).append(link.server_id)
    return found
