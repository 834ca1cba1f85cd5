"""How the tasks of an event loop are told, from any thread, that something was done for them."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque


class Mailbox:
    """What was done for the tasks of one loop. They are told in one go, once in a turn of the loop.

    It does not keep the loop. What is in it does, through its futures, until the loop is told: so
    only the loop keeps a mailbox then, and whoever is about to put something in.
    """

    __slots__ = ("__weakref__", "_done", "_is_called", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._done: deque[asyncio.Future[None]] = deque()
        self._is_called = False

    def put(self, future: asyncio.Future[None]) -> bool:
        """Have the loop told that what a future stands for is done, from any thread. Returns False
        if the loop is closed.
        """
        self._done.append(future)
        loop = self.loop()
        if loop is None or loop.is_closed() or not self._call(loop):
            self._done.clear()  # also what it was called for before, in vain
            return False
        return True

    def _call(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Have the loop told in its next turn. Returns False if it is closed."""
        if self._is_called:
            return True
        try:
            self._is_called = True
            loop.call_soon_threadsafe(self._deliver)
        except BaseException as error:
            self._is_called = False  # a signal handler may have raised
            if not isinstance(error, RuntimeError):
                raise
            return False
        return True

    def _deliver(self) -> None:
        self._is_called = False  # first: what comes after this is told by another call
        while self._done:
            settle(self._done.popleft())


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Mailbox]] = (
    weakref.WeakKeyDictionary()
)


def mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """Return the mailbox of a loop, in any thread."""
    reference = _mailboxes.get(loop)
    mailbox = None if reference is None else reference()
    if mailbox is None:
        mailbox = Mailbox(loop)
        _mailboxes[loop] = weakref.ref(mailbox)
    return mailbox


def settle(future: asyncio.Future[None]) -> None:
    """Note that what a future stands for is done."""
    if not future.done():
        future.set_result(None)
