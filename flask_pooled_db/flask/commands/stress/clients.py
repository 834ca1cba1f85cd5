"""The clients of `flask pooled-db stress`: so many at work at the same time, for some seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Event
from typing import Generic, Protocol, TypeVar

from flask_pooled_db.flask.commands.stopping import Stopping
from flask_pooled_db.flask.commands.stress.results import progress
from flask_pooled_db.runtime import workers

GLANCE = 0.05
"""Seconds between two looks at whether the time is over."""


class Client(Protocol):
    """What is at work, in a thread of its own, until the time is over."""

    has_ended: Event

    def work(self) -> None:
        """Be at work; `has_ended` is set at the end, however it comes."""


C = TypeVar("C", bound=Client)


class Clients(Generic[C]):
    """Clients that have begun, and whether their time is over."""

    def __init__(self) -> None:
        self.all: list[C] = []
        self.seconds = 0.0  # that it took
        self.is_over = False

    def run(self, clients: Iterable[C], seconds: float, stopping: Stopping) -> None:
        """Have all of them at work for so many seconds, or until the command is to end, and show
        how far it is.
        """
        began = time.monotonic()
        try:
            with progress(seconds) as tick:
                for client in clients:
                    workers.start("stress client", client.work)
                    self.all.append(client)
                while (left := began + seconds - time.monotonic()) > 0 and not stopping.is_asked():
                    time.sleep(min(left, GLANCE))
                    tick(time.monotonic() - began)
                if not stopping.is_asked():
                    tick(seconds)
        finally:
            self.is_over = True
            self.seconds = time.monotonic() - began

    def wait_for_end(self, patience: float) -> int:
        """Wait until all have ended, for up to so many seconds. Returns how many have not."""
        deadline = time.monotonic() + patience
        for client in self.all:
            client.has_ended.wait(max(deadline - time.monotonic(), 0.0))
        return sum(not client.has_ended.is_set() for client in self.all)
