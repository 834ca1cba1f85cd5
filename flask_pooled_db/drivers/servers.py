"""The servers of one database, and which of them to try next."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

BACKOFF_FIRST, BACKOFF_MAX = 0.05, 5.0
"""Seconds between failed connects, shortened by up to half at random so that clients spread out."""

BACKOFF_GROWTH = 1.2
"""The factor from one pause to the next. A pause is then about a quarter of the time for which the
server has been away: the pool works again within 1 s after an outage of 3 s, and asks a server that
is away for longer every few seconds."""

REST_OF_THE_HUNG = 10.0
"""How many times as long as its last connect took to fail a server is left alone. One that hangs
costs a tenth of the time of those who connect to the others."""


def backoff(failures: int) -> float:
    """Return how many seconds to wait after so many failures in a row."""
    longest = min(BACKOFF_MAX, BACKOFF_FIRST * BACKOFF_GROWTH ** min(failures - 1, 100))
    return longest * (1.0 - random.random() / 2)


class Server:
    """One server: the connect arguments that name it, and how it did lately."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.arguments = dict(arguments)
        self.failures = 0  # in a row; they set the length of the next pause
        self.not_before = 0.0  # when that pause ends

    @property
    def name(self) -> frozenset[tuple[str, Any]]:
        """Return what tells it from others."""
        return frozenset(self.arguments.items())


class Servers:
    """The servers of one database, in the order in which to try them.

    The order is the one given, or random for each connect. A server that failed is left alone for a
    while if there are others.
    """

    def __init__(self, servers: Sequence[Mapping[str, Any]], *, at_random: bool = False) -> None:
        self._servers = [Server(arguments) for arguments in servers]
        self._at_random = at_random
        self._lock = threading.Lock()  # guards the state of each server

    @property
    def names(self) -> set[frozenset[tuple[str, Any]]]:
        """Return what names each server."""
        return {server.name for server in self._servers}

    def follow(self, earlier: Servers) -> None:
        """Go on with those of these servers that were among the earlier ones: with how they did."""
        known = {server.name: server for server in earlier._servers}
        self._servers = [known.get(server.name, server) for server in self._servers]
        self._lock = earlier._lock

    def __len__(self) -> int:
        return len(self._servers)

    def candidates(self) -> list[Server]:
        """Return the servers to try first, the best one first. There is at least one."""
        servers = list(self._servers)
        if self._at_random:
            random.shuffle(servers)
        now = monotonic()
        with self._lock:
            rested = [server for server in servers if server.not_before <= now]
            return rested or sorted(servers, key=lambda server: server.not_before)

    def attempts(self) -> Iterator[Server]:
        """Yield the candidates, then the servers that are being left alone.

        Those may be up again by now, and the pool's own pause keeps them from being stormed.
        """
        candidates = self.candidates()
        yield from candidates
        yield from (server for server in self._servers if server not in candidates)

    def failed(self, server: Server, seconds: float = 0.0) -> None:
        """Leave a server alone for a while; the longer, the longer the connect took to fail."""
        with self._lock:
            server.failures += 1
            pause = max(backoff(server.failures), REST_OF_THE_HUNG * seconds)
            server.not_before = monotonic() + pause

    def succeeded(self, server: Server) -> None:
        """Forget the failures of a server."""
        with self._lock:
            server.failures = 0
            server.not_before = 0.0

    def after_fork(self) -> None:
        """In a forked child, replace the lock: a thread of the parent may have held it."""
        self._lock = threading.Lock()
