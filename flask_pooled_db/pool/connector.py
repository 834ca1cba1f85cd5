"""Opening connections: in threads of their own, with pauses after failures.

Callers never connect. A few openers connect for all of them, so that a caller's deadline holds
whatever the driver does, and one backoff is shared by all.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from flask_pooled_db.config import PingPolicy, PoolConfig
from flask_pooled_db.drivers import Driver
from flask_pooled_db.drivers.servers import BACKOFF_MAX, Server, backoff
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.entry import Entry, open_entry, without_tracebacks
from flask_pooled_db.pool.places import Place
from flask_pooled_db.runtime import Errand, housekeeper, workers

MAX_OPENING = 3
"""How many connects of a pool are under way at the same time. A burst of callers is better served
by connections that are returned than by as many new ones."""

HANG_GRACE = 1.0
"""Seconds beyond its time limit after which a connect is considered to hang in its driver, out of
our reach. Its place is freed, and another connect is tried."""

HANG_REST_MAX = 300.0
"""Seconds, at most, between two tries while as many connects hang as may be under way. Each of them
holds a thread and a socket, maybe for good, so the pause doubles with each one more."""

URGENT_PAUSE = 0.5
"""Seconds after a failed connect at which a caller who is turned away causes the next one."""

LONGEST_SLEEP = 0.2
"""Seconds after which an opener in its pause looks whether the pause has become shorter."""


class Attempt:
    """A connect that is to be made or under way, and the place it has taken. The lock guards it.

    It is counted for as long as somebody holds it, so that no exception can lose it.
    """

    __slots__ = ("__weakref__", "generation", "place", "server", "thread")

    def __init__(self, place: Place) -> None:
        self.place: Place | None = place  # None once it hangs
        self.generation = 0  # what is drained while it connects must not be used
        self.thread: threading.Thread | None = None
        self.server: Server | None = None  # which is tried at the moment

    def tries(self, server: Server) -> None:
        """Note which server is tried."""
        self.server = server


class Host(Protocol):
    """What opens connections for whom: a pool. Each method takes the pool's lock."""

    def next_turn(self, attempt: Attempt) -> float | None:
        """Return the seconds until a connect may be tried. If no connection is wanted any more,
        take the attempt back and return None.
        """

    def generation(self) -> int:
        """Return the number of times the pool was drained."""

    def connected(self, attempt: Attempt, entry: Entry) -> Attempt | None:
        """Take a new connection, or close one that comes too late. Returns the next attempt if the
        opener is to go on.
        """

    def connect_failed(
        self, attempt: Attempt, error: BaseException, *, is_permanent: bool, hangs: bool = False
    ) -> Attempt | None:
        """Note a failure. Returns the next attempt if the opener is to go on."""


class Backoff:
    """How connecting goes: it works, it pauses after failures, or it fails for good.

    The pool's lock guards it.
    """

    def __init__(self, clock: Callable[[], float], patience: float = math.inf) -> None:
        """After `patience` seconds in which every connect failed, callers are turned away."""
        self._clock = clock
        self._patience = patience
        # When each connect began that is under way. It needs no lock: each use is one step.
        self._asked: dict[weakref.ref[Attempt], float] = {}
        self.failures = 0  # in a row
        self.failing_since = 0.0  # when the first of them was
        self.failed_at = 0.0  # when the last of them was
        self.turns_away_since = math.inf  # when they had lasted for `patience`
        self.next_try = 0.0  # when the pause ends
        self.rests_until = 0.0  # no connect before: too many hang
        self.error: BaseException | None = None
        self.is_permanent = False  # retrying will not help

    @property
    def is_down(self) -> bool:
        """Whether the last connect failed."""
        return self.failures > 0

    @property
    def silence(self) -> float:
        """The seconds for which the oldest connect under way has had no answer."""
        now = self._clock()
        return now - min(self._began(), default=now)

    def _began(self) -> list[float]:
        # Not list(), which makes pairs: the garbage collector may run between any two of them.
        return [began for attempt, began in self._asked.copy().items() if attempt() is not None]

    @property
    def outage(self) -> float:
        """The seconds for which every connect has failed, if callers are turned away; else 0."""
        now = self._clock()
        is_over = self.is_permanent or self.turns_away_since > now
        return 0.0 if is_over else now - self.failing_since

    @property
    def is_known(self) -> bool:
        """Whether the last failure still tells how the server is: somebody keeps trying."""
        return bool(self._began()) or self.pause_locked() >= -BACKOFF_MAX

    @contextmanager
    def asking(self, attempt: Attempt) -> Iterator[None]:
        """Note that a connect is under way during the block."""
        if not self.is_known:
            self.failing_since, self.turns_away_since = self._clock(), math.inf
        self._asked[weakref.ref(attempt)] = self._clock()
        try:
            yield
        finally:
            self.give_up_on(attempt)

    def give_up_on(self, attempt: Attempt) -> None:
        """Expect no answer to a connect any more."""
        self._asked.pop(weakref.ref(attempt), None)

    def turns_away_locked(self, started: float) -> bool:
        """Return whether a caller who came at `started` need not wait for a connect.

        One who came before that was known keeps waiting.
        """
        return self.turns_away_since <= started and not self.is_permanent and self.is_known

    def is_due_locked(self) -> bool:
        """Return whether it is time for a try that a caller who is turned away asks for."""
        if not self.is_permanent:
            self.next_try = min(self.next_try, self.failed_at + URGENT_PAUSE)
        return self.is_down and self.pause_locked() <= 0

    @property
    def refusal(self) -> BaseException | None:
        """The permanent error to fail with at once, as long as its pause lasts."""
        return self.error if self.is_permanent and self.pause_locked() > 0 else None

    def pause_locked(self) -> float:
        """Return the seconds that are left of the pause; 0 or less if it is over."""
        return max(self.next_try, self.rests_until) - self._clock()

    def rest_locked(self, seconds: float) -> None:
        """Have no connect tried for a while; 0 ends that."""
        self.rests_until = self._clock() + seconds if seconds else 0.0

    def succeeded_locked(self) -> bool:
        """Note a success. Returns whether it ends a series of failures."""
        recovered = self.is_down
        self.failures = 0
        self.turns_away_since = math.inf
        self.error = None
        self.is_permanent = False
        return recovered

    def failed_locked(self, error: BaseException, *, is_permanent: bool) -> bool:
        """Note a failure. Returns whether it is the first in a row."""
        first, now = not self.is_down, self._clock()
        self.failures += 1
        self.error = without_tracebacks(error)
        self.is_permanent = is_permanent
        self.failing_since = now if first else self.failing_since
        if now - self.failing_since >= self._patience:
            self.turns_away_since = min(self.turns_away_since, now)
        self.failed_at = now
        self.next_try = now + backoff(self.failures)
        return first


def end_late(entry: Entry | None) -> None:
    """Close a connection for which nobody waits any more."""
    if entry is not None:
        entry.condemn("it was opened after its time limit")
        entry.end()


class Connector:
    """The openers of one pool, and how connecting goes. The pool's lock guards its numbers."""

    def __init__(
        self, config: PoolConfig, ping: PingPolicy, driver: Driver, clock: Callable[[], float]
    ) -> None:
        self._open = functools.partial(open_entry, driver, config, ping, clock)
        self._driver = driver
        self._limit = config.connect_timeout
        self.backoff = Backoff(clock, config.acquire_timeout)
        self._opening: Census[Attempt] = Census()
        self._hanging: Census[Attempt] = Census()  # they have no place
        self._closing: threading.Event | None = None  # made by an opener that pauses

    @property
    def _hang_after(self) -> float:
        return self._limit * len(self._driver.servers) + HANG_GRACE

    @property
    def opening(self) -> int:
        """How many places openers have."""
        return len(self._opening)

    @property
    def hanging(self) -> int:
        """How many connects hang: they have no place, and still count as under way."""
        return len(self._hanging)

    def under_way_locked(self) -> list[Attempt]:
        """Return the attempts that have begun to connect, and do not hang."""
        return [attempt for attempt in self._opening.members() if attempt.thread is not None]

    def begin_locked(self, place: Place) -> Attempt:
        """Return an attempt that uses a place."""
        attempt = Attempt(place)
        self._opening.add(attempt)
        return attempt

    def hang_locked(self, attempt: Attempt) -> Place | None:
        """Note that a connect hangs. Returns its place, which it does not need any more."""
        place, attempt.place = attempt.place, None
        self._hanging.add(attempt)
        self._opening.discard(attempt)
        surplus = self.hanging - MAX_OPENING
        if surplus >= 0:
            self.backoff.rest_locked(min(self._hang_after * 2.0 ** min(surplus, 30), HANG_REST_MAX))
        return place

    def came_back_locked(self, attempt: Attempt) -> None:
        """Note that a connect which hung has returned: whatever it brings, it is time to try."""
        self.end_locked(attempt)
        self.backoff.rest_locked(0.0)

    def end_locked(self, attempt: Attempt) -> None:
        """Note that an attempt is over."""
        self._opening.discard(attempt)
        self._hanging.discard(attempt)

    def room_locked(self) -> int:
        """Return how many more openers may be at work."""
        most = 1 if self.backoff.is_down else MAX_OPENING
        return min(most, max(MAX_OPENING - self.hanging, 1)) - self.opening

    def open_one(self) -> Entry:
        """Open a connection outside of the pool, for a caller who waits."""
        errand = Errand("opener", self._open_alone, end_late)
        return errand.run(self._hang_after)

    def _open_alone(self) -> Entry:
        with workers.connecting():
            return self._open()

    def start(self, host: Host, attempt: Attempt, pause: float = 0.0) -> None:
        """Start an opener in `pause` seconds.

        The housekeeper starts the thread: `Thread.start()` blocks, and a caller could be
        interrupted inside it.
        """
        housekeeper.call_later(pause, functools.partial(self._start, host, attempt))

    def _start(self, host: Host, attempt: Attempt) -> None:
        try:
            workers.start("opener", functools.partial(self._run, host, attempt))
        except Exception as error:  # noqa: BLE001  the system has no more threads, or memory
            retry = host.connect_failed(attempt, error, is_permanent=False)
            if retry is not None:
                self.start(host, retry, max(self.backoff.pause_locked(), 0.0))

    def _run(self, host: Host, first: Attempt) -> None:
        """Open one connection after the other, as long as one is wanted."""
        attempt: Attempt | None = first
        while attempt is not None and self._await_turn(host, attempt):
            # Hold forks back until the connection is registered: a child finds it, or nothing.
            with workers.connecting():
                attempt = self._try(host, attempt)

    def _await_turn(self, host: Host, attempt: Attempt) -> bool:
        """Wait until a connect may be tried. Returns False if no connection is wanted any more."""
        while (pause := host.next_turn(attempt)) is not None:
            if pause <= 0:
                return True
            with workers.resting():
                self._closing = self._closing or threading.Event()
                self._closing.wait(min(pause, LONGEST_SLEEP))
        return False

    def end_pauses(self) -> None:
        """Have openers in a pause see at once that the pool was closed."""
        if self._closing is not None:
            self._closing.set()

    def _try(self, host: Host, attempt: Attempt) -> Attempt | None:
        attempt.generation = host.generation()
        attempt.thread = threading.current_thread()
        give_up = functools.partial(self._give_up_on, host, attempt)
        try:
            with self.backoff.asking(attempt), housekeeper.bounded(self._hang_after, give_up):
                entry = self._open(attempt.tries)
        except BaseException as error:  # noqa: BLE001  the callers that wait are told
            is_permanent = self._is_permanent(error)
            return host.connect_failed(attempt, error, is_permanent=is_permanent)
        return host.connected(attempt, entry)

    def _is_permanent(self, error: BaseException) -> bool:
        has_no_means = isinstance(error, MemoryError | OSError)  # for now
        # A function may have told a password that has expired meanwhile. It is asked again first.
        may_be_outdated = self._driver.asks and not self.backoff.is_down
        return not (has_no_means or may_be_outdated or self._driver.is_transient(error))

    def _give_up_on(self, host: Host, attempt: Attempt) -> None:
        """Free the place of a connect that hangs, and try another one."""
        if attempt.thread is not None:
            workers.give_up_on(attempt.thread)
        self.backoff.give_up_on(attempt)
        if attempt.server is not None:
            self._driver.servers.failed(attempt.server, self._hang_after)
        error = TimeoutError("a connect did not return by its time limit: it hangs in its driver")
        retry = host.connect_failed(attempt, error, is_permanent=False, hangs=True)
        if retry is not None:
            self.start(host, retry)
