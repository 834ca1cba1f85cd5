"""This process among those that meet: what it has published, and its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from flask_pooled_db.host import ledger
from flask_pooled_db.host.claim import Claim
from flask_pooled_db.host.directory import Directory, Location
from flask_pooled_db.host.orders import Leftovers
from flask_pooled_db.host.presence import Presence
from flask_pooled_db.host.records import NUMBERS, Merge, Numbers, encode

SWEEP_INTERVAL = 10.0
"""Seconds between two looks for what processes have left that were killed."""

Attend = Callable[[Directory, str, float], object]
"""What is to be done in the directory beside publishing. It is given the directory, what this
process is called there, and since when it is one of those that meet."""


def _attend_to_nothing(directory: Directory, token: str, started: float) -> None:
    pass


class Member:
    """One app of this process in its directory. One thread at a time may use it, the one that has
    its claim, and it does I/O.

    It knows nothing of the app, so that it can tidy up when that is garbage.
    """

    def __init__(self, location: Location, merge: Merge) -> None:
        self.location = location
        self.merge = merge
        self.started: float | None = None
        self.claim = Claim()
        self._begin()

    def _begin(self) -> None:
        self._has_left = False
        self._presence = Presence()
        self._has_published = False
        self._swept = float("-inf")
        self._leftovers = Leftovers()

    @property
    def token(self) -> str:
        """What this process is called there."""
        return self._presence.token

    def after_fork(self) -> None:
        """In a forked child, be another one: what lies there is the parent's."""
        self._presence.abandon()
        self.started = None
        self.claim.after_fork()
        self._begin()

    def publish(self, numbers: Numbers, attend: Attend = _attend_to_nothing) -> None:
        """Have all others see these numbers, and attend to the directory. Raises `Unusable`."""
        now = monotonic()
        with self.location.opened() as directory:
            self._publish(directory, numbers, now)
            self._attend(directory, attend, now)
            if now - self._swept >= SWEEP_INTERVAL:
                self._swept = now
                self._presence.touch()
                ledger.settle_dead(directory, self.merge)
                self._leftovers.sweep(directory)
                ledger.touch(directory)

    def attend(self, attend: Attend) -> None:
        """Attend to the directory, and publish nothing. Raises `Unusable`."""
        with self.location.opened() as directory:
            self._attend(directory, attend, monotonic())

    def _attend(self, directory: Directory, attend: Attend, now: float) -> None:
        attend(directory, self.token, now if self.started is None else self.started)

    def _publish(self, directory: Directory, numbers: Numbers, now: float) -> None:
        self._presence.show(directory)
        started = now if self.started is None else self.started
        content = encode(pid=os.getpid(), started=started, published=now, numbers=numbers)
        directory.replace(f"{self.token}{NUMBERS}", content)
        self._has_published = True

    def retire(self, numbers: Numbers | None) -> None:
        """Leave for good: the last numbers, or those that were published last, go to those of all
        that have ended. Raises `Unusable`; what is then left there is settled by others. One that
        has left is counted already, so that a second time does nothing.

        One that has published nothing makes no directory: a test suite has hundreds of such.
        """
        if self._has_left:
            return
        try:
            if numbers is not None or self._has_published:
                with self.location.opened(make=self._has_published) as directory:
                    self._retire(directory, numbers)
        except FileNotFoundError:
            pass
        finally:
            self._presence.abandon()
            self._begin()
            self._has_left = True

    def _retire(self, directory: Directory, numbers: Numbers | None) -> None:
        if not self._has_published and ledger.settle(directory, self.merge, (), numbers):
            return  # nobody has seen it, so that it needs no token there
        if numbers is not None:
            self._publish(directory, numbers, monotonic())
        ledger.settle_dead(directory, self.merge, self.token)
