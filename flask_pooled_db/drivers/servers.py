"""The servers of one database, and which of them to try next."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

BACKOFF_FIRST, BACKOFF_MAX = 0.05, 5.0
"""Seconds between failed connects, shortened by up to half at random."""

BACKOFF_GROWTH = 1.2
"""What each is multiplied by for the next. So a pause is about a quarter of the time that the
server has been away: the pool is at work again within 1 s after an outage of 3 s, and a server that
is away for longer is asked every few seconds."""


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    longest = min(BACKOFF_MAX, BACKOFF_FIRST * BACKOFF_GROWTH ** min(failures - 1, 100))
    return longest * (1.0 - random.random() / 2)


class Server:
    """One of them: the connect arguments that name it, and how it did lately."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.arguments = dict(arguments)
        self.failures = 0  # in a row
        self.not_before = 0.0


class Servers:
    """All of them, in the order to try them in: as given, or at random for each connect.

    One that failed is left alone for a while, as long as there are others.
    """

    def __init__(self, servers: Sequence[Mapping[str, Any]], *, at_random: bool = False) -> None:
        self._servers = [Server(arguments) for arguments in servers]
        self._at_random = at_random
        self._lock = threading.Lock()  # guards what is known of each server

    def __len__(self) -> int:
        return len(self._servers)

    def candidates(self) -> list[Server]:
        """Those to try, the best first. Never none."""
        servers = list(self._servers)
        if self._at_random:
            random.shuffle(servers)
        now = monotonic()
        with self._lock:
            rested = [server for server in servers if server.not_before <= now]
            return rested or sorted(servers, key=lambda server: server.not_before)

    def attempts(self) -> Iterator[Server]:
        """The candidates, and then, if none of them will do, those that were to be left alone: what
        they failed with may be over, and it is the pool's own pause that spares them.
        """
        candidates = self.candidates()
        yield from candidates
        yield from (server for server in self._servers if server not in candidates)

    def failed(self, server: Server) -> None:
        """Leave it alone for a while."""
        with self._lock:
            server.failures += 1
            server.not_before = monotonic() + backoff(server.failures)

    def succeeded(self, server: Server) -> None:
        """It is as good as any other."""
        with self._lock:
            server.failures = 0
            server.not_before = 0.0

    def after_fork(self) -> None:
        """In a forked child, where the lock may be held by nobody."""
        self._lock = threading.Lock()
