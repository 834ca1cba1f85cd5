"""What a pool has at a moment, and what a change of it asks for."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from flask_pooled_db.config import PingPolicy, PoolConfig
from flask_pooled_db.drivers import FRESH_SESSION, Driver, Session
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.connector import Attempt, Connector
from flask_pooled_db.pool.entry import Entry, EntryRef
from flask_pooled_db.pool.events import Events
from flask_pooled_db.pool.histogram import Histogram, Times
from flask_pooled_db.pool.holding import Holder, Holders
from flask_pooled_db.pool.places import Places
from flask_pooled_db.pool.queue import Queue, Waiter
from flask_pooled_db.pool.reports import Snapshot
from flask_pooled_db.pool.statements import Observer, Tags
from flask_pooled_db.runtime import Notices, guard

_NEARBY = 8
"""How many idle connections are searched for one whose session fits."""


class Onlooker(Protocol):
    """Whoever wants to know what becomes of a connect."""

    def tell_locked(self, *, connected: bool) -> None:
        """Tell it, once, with the lock held."""


class Sizes(NamedTuple):
    """The sizes of a pool, as configured: 0 is no limit."""

    mincached: int
    maxcached: int
    maxconnections: int


class Terms(NamedTuple):
    """What a pool is made from, which does not change."""

    config: PoolConfig
    ping: PingPolicy
    driver: Driver
    bind: str
    events: Events
    clock: Callable[[], float]
    notices: Notices
    observer: Observer
    tags: Tags | None
    """What each statement is to end in; None: nothing."""
    holders: Holders


class State:
    """The state of a pool. A forked child starts with a new one: it inherits nothing.

    The lock guards everything else, and is held only to change it: no I/O, no callback, no logging.
    Functions that need the lock held end in `_locked`.

    What is checked out is known by weak references. So nothing has to be done for a connection to
    come back: whatever exception makes its holders lose it, it is garbage then, and is found.
    """

    def __init__(self, terms: Terms, sizes: Sizes, common: Places | None) -> None:
        """`common` are the places that its places are a part of, if they are."""
        self.lock = guard.lock
        # Notified when a place becomes free; made by who waits for that.
        self.returned: threading.Condition | None = None
        self.open: set[EntryRef] = set()  # all, also those being closed
        self.idle: deque[Entry] = deque()  # the last used is at the right end
        self.in_use: dict[EntryRef, None] = {}  # a set whose changes call nothing
        self.looked_at: set[EntryRef] = set()  # of these, those that no caller has
        self.queue = Queue()
        self.waiters = self.queue.waiters
        # Tasks that were handed a connection, and have not taken it yet: their loop may be closed.
        self.handed: Census[Waiter] = Census()
        # Taken by idle, in use, opening and closing.
        self.places = Places(sizes.maxconnections, common)
        self.checkouts = 0
        self.never_returned = 0  # of these, those that were closed, or taken back, by others
        self.use_seconds = 0.0  # for how long all that was returned was out
        self.longer_uses = Times()  # of what was out for longer than a moment
        self.readers: Census[object] = Census()  # leases that were asked of it, on its replica
        self.onlookers: Census[Onlooker] = Census()  # told of the next connect
        self.used_at = 0.0  # when it was last in use or waited for, as far as `idle` can't tell
        self.drained_at = math.inf  # or when its first connection was opened
        self.generation = 0  # how often the pool was drained: older connections are not kept
        self.lost: deque[EntryRef] = deque()  # filled by finalizers; it needs no lock
        self.most_idle = sizes.maxcached or math.inf
        # Whether what is returned may find no place: after a resize, or beside other pools.
        self.may_lack_room = common is not None
        self.probe_asked = math.inf  # when a caller was turned away, for whom a connect is tried
        # Behind a proxy: since when pings were not answered; infinite if the last one was.
        self.unanswered_since = math.inf
        self.is_closed = False
        self.is_tended = False  # from the first checkout on: nothing is opened ahead of it
        self.connector = Connector(terms.config, terms.ping, terms.driver, terms.clock)

    def snapshot_locked(self, now: float) -> Snapshot:
        """Return the numbers of this moment."""
        oldest = min((entry.since for entry in self.in_use_locked()), default=now)
        return Snapshot(
            open=self.places.taken,
            in_use=len(self.in_use),
            idle=len(self.idle),
            waiting=len(self.queue),
            maxconnections=self.places.limit,
            longest_lease=max(0.0, now - oldest),
        )

    def taken_at_once_locked(self) -> int:
        """Return how many connections were taken, but for those that nobody has yet."""
        return self.checkouts - sum(entry.in_check for entry in self.in_use_locked())

    def use_times_locked(self) -> Histogram:
        """Return how long what was returned was out. The shortest uses are not counted one by one:
        they are the rest.
        """
        returns = self.checkouts - self.never_returned - len(self.in_use)
        longer = self.longer_uses.taken_locked()
        counts = (returns - longer.count, *longer.counts[1:])
        return Histogram(counts, self.use_seconds)

    def in_use_locked(self) -> list[Entry]:
        """Return what is checked out, apart from what is lost."""
        found = [ref() for ref in list(self.in_use)]
        return [entry for entry in found if entry is not None]

    def check_out_locked(self, entry: Entry, now: float) -> None:
        """Count an entry that was idle as checked out. `Engine.acquire` does so by itself: a call
        would take it time.
        """
        entry.since = now
        self.in_use[entry.ref] = None
        self.checkouts += 1
        entry.in_check = True

    def take_for_check_locked(self, entry: Entry) -> None:
        """Count an entry that was idle as in use, for a moment, and as no checkout."""
        self.in_use[entry.ref] = None
        self.looked_at.add(entry.ref)
        self.checkouts += 1
        entry.in_check = True

    def end_check_locked(self, entry: Entry) -> bool:
        """Count such an entry as neither in use nor idle. Returns False if it was closed."""
        self.looked_at.discard(entry.ref)
        if self.in_use.pop(entry.ref, entry.ref) is entry.ref:
            return False
        self.checkouts -= 1
        entry.in_check = False
        return True

    def tell_onlookers_locked(self, *, connected: bool) -> None:
        """Tell those who want to know it what has become of a connect."""
        for onlooker in self.onlookers.members():
            self.onlookers.discard(onlooker)
            onlooker.tell_locked(connected=connected)

    def holders_locked(self, now: float, bind: str) -> list[Holder]:
        """Return who holds connections, the longest first, as far as it is known."""
        holds = [entry.link.hold for entry in self.in_use_locked()]
        known = [hold.at(now, bind) for hold in holds if hold is not None]
        return sorted(known, key=lambda holder: -holder.age)

    def lost_locked(self) -> list[EntryRef]:
        """Return the connections that nobody holds any more."""
        return [ref for ref in list(self.open) if ref() is None]

    def pop_idle_locked(self, session: Session | None) -> Entry:
        """Take the idle connection used last; a nearby one if its session fits and the last does
        not, since bringing a session to another state costs a round trip.
        """
        idle, wanted = self.idle, session or FRESH_SESSION
        readonly, schema = wanted.readonly, wanted.schema
        for place in range(-1, -1 - min(len(idle), _NEARBY), -1):
            found = idle[place].session
            if found.readonly == readonly and found.schema == schema:
                entry = idle[place]
                del idle[place]
                return entry
        entry = idle[-1]
        del idle[-1]  # no call, like pop(), after which an interruption would lose it
        return entry

    def take_back_locked(self, gone: Iterable[Waiter]) -> list[Entry]:
        """Forget callers, and return the connections that they were handed and have not taken."""
        entries = []
        for waiter in gone:
            self.queue.withdraw_locked(waiter)
            if waiter not in self.handed:  # it has, or gave it back, or has waited in vain
                continue
            self.handed.discard(waiter)
            entry, waiter.entry = waiter.entry, None
            if entry is not None and entry.ref in self.in_use:
                del self.in_use[entry.ref]
                entry.in_check = False
                self.never_returned += 1
                entries.append(entry)
        return entries

    def take_idle_locked(self, entries: Iterable[Entry] | None = None) -> list[Entry]:
        """Take these connections, or all, out of the idle ones. They keep their places."""
        taken = list(self.idle if entries is None else entries)
        for entry in taken:
            self.idle.remove(entry)
            self.used_at = max(self.used_at, entry.since)
        return taken

    @property
    def last_used(self) -> float:
        """When a caller last had, or wanted, a connection that is not in use now."""
        with contextlib.suppress(IndexError):
            return max(self.used_at, self.idle[-1].since)
        return self.used_at

    def expired_locked(self, now: float, idle_timeout: float, mincached: int) -> list[Entry]:
        """Return the idle connections that are too old, and those above `mincached` that have been
        idle for too long. The one that has been idle longest comes first.
        """
        expired = []
        surplus = len(self.idle) + len(self.in_use) - mincached
        for entry in list(self.idle):
            is_old = now >= entry.expires_at
            has_rested = idle_timeout > 0 and now - entry.since >= idle_timeout
            if is_old or (has_rested and surplus > 0):
                expired.append(entry)
                surplus -= 1
        return expired

    def drained_locked(self, now: float, interval: float) -> list[Entry]:
        """Return all idle connections if one of them has been open for `interval`. Then, or at that
        age, those in use are closed when they are returned.
        """
        is_due = any(now - entry.origin.opened_at >= interval for entry in self.idle)
        for entry in self.in_use_locked():
            if is_due or now - entry.origin.opened_at >= interval:
                entry.expires_at = 0.0
        return list(self.idle) if is_due else []

    def owes_checkpoint_locked(self, now: float, interval: float) -> bool:
        """Return whether the next connection to be closed has to make the checkpoint: since the
        last one, `interval` is over.
        """
        is_due = 0 < interval <= now - self.drained_at
        if is_due:
            self.drained_at = now
        return is_due

    def wanted_locked(self, sizes: Sizes, *, is_replica: bool) -> int:
        """Return how many more connections should be opened, if there are places for them."""
        if self.is_closed:
            return 0
        missing = 0
        if self.is_tended:
            missing = sizes.mincached - len(self.in_use) - len(self.idle)
        backoff = self.connector.backoff
        if backoff.is_down and (is_replica or not backoff.is_permanent):
            # Callers are turned away, or go elsewhere, while it is down: nobody else would look.
            missing = max(missing, backoff.pause_locked() <= 0)
        wanted = max(len(self.queue), missing) - self.connector.opening
        return min(wanted, self.connector.room_locked())

    def is_asked_locked(self) -> bool:
        """Return whether callers wait for a connection, or for what becomes of a connect."""
        return not self.is_closed and (bool(self.waiters) or self.probe_asked < math.inf)

    def missing_locked(self) -> int:
        """Return how many more connections would be opened at once for those who wait, if there
        were places beside those of other pools.
        """
        connector, places = self.connector, self.places
        wanted = max(len(self.queue), self.probe_asked < math.inf) - connector.opening
        if wanted <= 0 or self.is_closed or connector.backoff.pause_locked() > 0:
            return 0
        return max(int(min(wanted, connector.room_locked(), places.most - places.taken)), 0)

    def came_locked(self) -> float:
        """Return when the first caller came who is among those that `missing_locked()` counts."""
        opening = self.connector.opening
        return self.waiters[opening].came if opening < len(self.waiters) else self.probe_asked

    def is_at_rest_locked(self, sizes: Sizes, *, is_replica: bool) -> bool:
        """Return whether nothing is left to be looked after, until the next caller has to wait."""
        backoff = self.connector.backoff
        is_probed = backoff.is_down and (is_replica or not backoff.is_permanent)
        is_empty = not (self.places.taken or self.open or self.queue or self.lost)
        return is_empty and (self.is_closed or not (sizes.mincached or is_probed))

    def has_room_locked(self) -> bool:
        """Return whether one more connection may be kept. The sizes may have changed while it was
        in use or being opened, and the caller it was opened for may have gone.
        """
        places = self.places
        return places.taken <= places.most and (
            len(self.idle) < self.most_idle or bool(self.waiters)
        )

    def has_trusted_locked(self) -> bool:
        """Return whether the idle connection used last has not become suspect since."""
        return bool(self.idle) and not self.idle[-1].is_suspect

    def is_cut_off_locked(self, started: float, config: PoolConfig) -> bool:
        """Return whether a caller who came at `started` need not wait: connecting has failed for
        long, and no connections go round that may be returned.
        """
        recently = started - config.acquire_timeout
        return (
            self.connector.backoff.turns_away_locked(started)
            and not self.idle
            and all(entry.since < recently for entry in self.in_use_locked())
        )


class Change:
    """What a change of the state asks for. Whoever holds the lock notes it here; it is carried out
    when the lock has been released.
    """

    __slots__ = ("attempts", "evictions", "later", "settled")

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []  # each for an opener to start with
        self.evictions: list[tuple[Entry, str]] = []
        self.settled: list[Waiter] = []  # those with a bell, which is to be rung
        self.later: list[Callable[[], None]] = []  # what other pools have to do

    def of(self, carry_out: Callable[[Change], None]) -> Change:
        """Return a change of another pool, which carries it out by this function."""
        change = Change()
        self.later.append(functools.partial(carry_out, change))
        return change

    def take_attempt(self) -> Attempt | None:
        """Return an attempt for an opener that goes on, or None."""
        return self.attempts.pop() if self.attempts else None

    def tell(self, settled: Iterable[Waiter]) -> None:
        """Have those woken that were settled, as far as they have a bell."""
        self.settled += [waiter for waiter in settled if waiter.bell is not None]

    def evict(self, entries: Iterable[Entry], reason: str) -> None:
        """Have connections closed that are neither idle nor in use any more."""
        for entry in entries:
            entry.link.reason = reason
            self.evictions.append((entry, reason))
