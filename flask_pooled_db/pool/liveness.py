"""Whether a connection that is about to be lent is alive."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from flask_pooled_db.config import PingPolicy, PoolConfig
from flask_pooled_db.pool.entry import Entry

FRESH = 1.0
"""Seconds after connecting without a check: the server has just answered. If the configured check
always fails, this limits the damage to one connect per lease."""

PING_GRACE = 0.1
"""Minimum time in seconds for a ping, even if the caller's timeout is shorter. Otherwise a caller
with `timeout=0` could never get a connection that has been idle for a while."""

SILENCE = 1.0
"""Seconds without an answer to a ping after which the other idle connections are given up too. A
caller with less time than that gives up without a verdict on them. A reader waits no longer for an
answer of a replica."""


class Verdict(enum.Enum):
    """What a check has found."""

    VALID = enum.auto()
    DEAD = enum.auto()
    SILENT = enum.auto()  # dead, and its server let us wait: it may do so for each of the others


class Liveness:
    """The checks of one pool's connections. It has no state besides its settings."""

    def __init__(self, config: PoolConfig, ping: PingPolicy, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._limit = config.connect_timeout
        self.silence = min(self._limit, SILENCE)
        """Seconds without an answer after which the server is silent."""
        self._pings = ping.on_checkout
        if not self._pings:
            self.trust = math.inf
        elif ping.probe is not None:
            self.trust = 0.0
        else:
            self.trust = config.ping_after
        """Seconds after its last use in which a look at its socket is enough."""

    def welcome(self, entry: Entry) -> None:
        """Note that a connection has just been opened."""
        entry.valid_until = self._clock() + max(self.trust, FRESH)

    def suspect(self, entry: Entry) -> None:
        """Have a connection pinged before it is lent again: another one was found dead."""
        if self._pings:
            entry.is_suspect = True
            entry.valid_until = 0.0

    def needs_no_ping(self, entry: Entry) -> bool:
        """Return whether a look at a connection is enough, and finds it alive."""
        return self._clock() < entry.valid_until and not entry.look()

    def check(self, entry: Entry, deadline: float) -> Verdict:
        """Look at a connection, and ping it if a look is not enough. May take until `deadline`.

        If an exception of the caller's own comes in the middle of the ping, the connection is out
        of step with its server.
        """
        now = entry.since = self._clock()
        seen = entry.look()
        if seen > 0:
            return Verdict.DEAD
        if not seen and now < entry.valid_until:
            return Verdict.VALID
        seconds = min(self._limit, max(deadline - now, PING_GRACE))
        entry.is_suspect = False
        answers = entry.answers(seconds)
        entry.since = self._clock()
        if answers:
            return Verdict.VALID
        is_silent = entry.since - now >= self.silence
        return Verdict.SILENT if is_silent else Verdict.DEAD
