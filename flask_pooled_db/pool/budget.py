"""How many connections several pools may have open together, and who of them comes next.

A pool whose callers find no free place is *hungry*: an idle connection of another pool is closed
for it, and one that comes back where it is needed less. The lock of the package guards all of it.
So that thousands of pools cost nothing, only those that have places, or are hungry, are looked at.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections import Counter
from collections.abc import Iterable
from time import monotonic
from typing import NamedTuple, Protocol

from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.evictions import NEEDED
from flask_pooled_db.pool.places import Place, Places
from flask_pooled_db.pool.reports import Shortage
from flask_pooled_db.pool.state import Change, State, Terms
from flask_pooled_db.runtime import guard

"""Why a connection is closed for another pool."""

PROBES = 0.25
"""The part of the places that may go to connects to servers that are down, if nobody waits."""

CLOSING_GRACE = 1.0
"""Seconds after which a close for another pool is considered to hang: a further one is closed."""


class Member(Protocol):
    """A pool, as its budget knows it."""

    terms: Terms
    state: State

    def open_locked(self, change: Change, count: int) -> None:
        """Take up to so many places, each for a connection that is to be opened."""

    def carry_out(self, change: Change) -> None:
        """Do what a change asks for."""

    def close_elsewhere(self, entry: Entry, reason: str) -> None:
        """Have a thread of its own close a connection: its server may be in no hurry."""


Ref = weakref.ref[Member]


def is_probed(member: Member) -> bool:
    """Return whether the server of a pool is down, and nobody waits for it."""
    return member.state.connector.backoff.is_down and not member.state.waiters


class Handover(NamedTuple):
    """A connection of one pool that is being closed for another."""

    place: weakref.ref[Place]  # whatever exception loses it
    giver: Ref
    heir: Ref
    until: float  # when it is considered to hang


class Budget:
    """A number of connections for several pools. Each place of a pool takes one of its places too.

    Free places go to the hungry, in the order in which their callers came. Pools open ahead for
    `mincached` only when nobody is hungry.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.start_afresh()

    def start_afresh(self) -> None:
        """Begin with nothing open, as in a forked child."""
        self.places = Places(self.limit)
        # Weak: a pool that is garbage is looked after by the upkeep alone.
        self._holders: set[Ref] = set()  # who has places; maybe some that have none any more
        self._hungry: set[Ref] = set()  # maybe some that need nothing at the moment
        self._handovers: list[Handover] = []

    # Who holds places

    def holds_locked(self, member: Member) -> None:
        """Note that a pool is about to take a place."""
        self._holders.add(weakref.ref(member))

    def freed_locked(self, member: Member, place: Place, change: Change) -> None:
        """Note that a pool has given a place back, and give it to whom it was meant for. If that
        one needs it no more, `serve_locked()` gives it to another.
        """
        if not member.state.places.taken:
            self._holders.discard(weakref.ref(member))
        for handover in [one for one in self._handovers if one.place() is place]:
            self._handovers.remove(handover)
            heir = handover.heir()
            if heir is not None and heir.state.missing_locked() and self.places.has_room:
                self._open_locked(heir, member, change)

    def holders_locked(self) -> list[Member]:
        """Return the pools that have places."""
        found = [member for member in self._alive(self._holders) if member.state.places.taken]
        self._holders = {weakref.ref(member) for member in found}
        return found

    def holders(self) -> list[Member]:
        """Return the pools that have places, for who does not hold the lock."""
        with guard.lock:
            return self.holders_locked()

    @staticmethod
    def _alive(refs: Iterable[Ref]) -> list[Member]:
        return [member for ref in list(refs) if (member := ref()) is not None]

    # Who is served

    def is_short_locked(self) -> bool:
        """Return whether callers of some pool wait for a place."""
        return bool(self._hungry and self._in_line_locked())

    def _in_line_locked(self) -> list[Member]:
        """Return the hungry pools, the one whose caller came first at the head."""
        members = [member for member in self._alive(self._hungry) if member.state.is_asked_locked()]
        self._hungry = {weakref.ref(member) for member in members}
        in_line = [member for member in members if member.state.missing_locked()]
        in_line.sort(key=lambda member: member.state.came_locked())
        probes = [member for member in in_line if not member.state.waiters]
        too_many = probes[max(self.probes_left_locked(), 0) :]
        return [member for member in in_line if member not in too_many]

    def probes_left_locked(self) -> int:
        """Return how many more connects may be under way that are only to find out whether a server
        is back: nobody waits for them any more. They may take their time, and must leave most of
        the places to those who wait.
        """
        probes = sum(one.state.connector.opening for one in self.holders_locked() if is_probed(one))
        return max(int(self.limit * PROBES), 1) - probes

    def serve_locked(self, asker: Member, change: Change) -> bool:
        """Give free places to the hungry, the asker among them if it is, and have others' idle
        connections closed for those that are left. Returns whether nobody is.
        """
        if asker.state.is_asked_locked():
            self._hungry.add(weakref.ref(asker))
        while self._hungry and (in_line := self._in_line_locked()):
            if not self.places.has_room:
                self._close_idle_locked(in_line, change)
                return False
            self._open_locked(in_line[0], asker, change)
        return True

    @staticmethod
    def _open_locked(member: Member, asker: Member, change: Change) -> None:
        own = change if member is asker else change.of(member.carry_out)
        member.open_locked(own, 1)

    def _close_idle_locked(self, in_line: Iterable[Member], change: Change) -> None:
        """Have idle connections closed for the hungry, no more than they need."""
        coming = self._handovers_locked()[0]
        for heir in in_line:
            for _ in range(heir.state.missing_locked() - coming[heir]):
                giver = self._longest_idle_locked()
                if giver is None:
                    return
                entry = giver.state.idle[0]
                self._hand_over_locked(entry, giver, heir)
                giver.state.take_idle_locked([entry])
                change.later.append(functools.partial(giver.close_elsewhere, entry, NEEDED))

    def _longest_idle_locked(self) -> Member | None:
        """Return the pool whose first idle connection has been so for longest."""
        members = [member for member in self.holders_locked() if member.state.idle]
        return min(members, key=lambda member: member.state.idle[0].since, default=None)

    def takes_locked(self, giver: Member, entry: Entry) -> bool:
        """Return whether a connection that is neither idle nor in use is to be closed for another
        pool, instead of being kept by its own.
        """
        heir = self._heir_locked(giver) if self._hungry else None
        if heir is None:
            return False
        self._hand_over_locked(entry, giver, heir)
        return True

    def _heir_locked(self, giver: Member) -> Member | None:
        """Return the pool that needs a connection more than the one that has it: its own callers
        wait for none, or it has two more, or nothing was left to the other for longer.

        So shares become equal and then stay: no connection is closed to be opened again.
        """
        coming, leaving = self._handovers_locked()

        def share(member: Member) -> int:
            return member.state.places.taken + coming[member] - leaving[member]

        waiters = giver.state.waiters
        for heir in self._in_line_locked():
            if heir is giver or heir.state.missing_locked() <= coming[heir]:
                continue
            if (
                not waiters
                or share(heir) + 2 <= share(giver)
                or (not share(heir) and heir.state.came_locked() < waiters[0].came)
            ):
                return heir
        return None

    def _hand_over_locked(self, entry: Entry, giver: Member, heir: Member) -> None:
        entry.link.reason = NEEDED
        if entry.link.place is not None:
            until = monotonic() + CLOSING_GRACE
            place = weakref.ref(entry.link.place)
            handover = Handover(place, weakref.ref(giver), weakref.ref(heir), until)
            self._handovers.append(handover)

    def _handovers_locked(self) -> tuple[Counter[Member | None], Counter[Member | None]]:
        """Return how many places are on their way to each pool, and how many leave each."""
        now = monotonic()
        self._handovers = [one for one in self._handovers if one.place() is not None]
        awaited = [one for one in self._handovers if now < one.until]
        return (
            Counter(one.heir() for one in awaited),
            Counter(one.giver() for one in self._handovers),
        )

    # What is said of it

    def left_locked(self, member: Member) -> float:
        """Return how many connections the others leave to a pool, with those that they wait for."""
        others = {*self.holders_locked(), *self._in_line_locked()} - {member}
        states = [other.state for other in others]
        used = sum(
            len(state.in_use) + min(state.connector.opening, len(state.queue)) for state in states
        )
        used += sum(state.missing_locked() for state in states)
        return max((self.limit or math.inf) - used, 0)

    def shortage(self, member: Member) -> Shortage | None:
        """Return what to say to a caller of a pool that waited for the others, or None."""
        with guard.lock:
            places = member.state.places
            if self.places.has_room or places.taken >= places.most:
                return None
            # The connections of one that is garbage are still to be closed.
            holders = self.holders_locked() or [member]
            most = max(holders, key=lambda one: one.state.places.taken)
            return Shortage(self.places.taken, self.limit, most.terms.bind, most.state.places.taken)
