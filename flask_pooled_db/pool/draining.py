"""Replacing all connections of a pool over some time, and knowing when that is done."""

from __future__ import annotations

import functools
import weakref
from collections import deque

from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import DRAINED_AT, EntryRef
from flask_pooled_db.pool.evictions import DRAINED
from flask_pooled_db.pool.places import Place
from flask_pooled_db.pool.state import Change


class Draining:
    """The replacement of all connections that a pool has at the moment when it is made.

    Each has its time: from then on it is closed if it is idle, or as soon as it is returned. What
    is being opened is closed when it is open. No method waits, or does I/O: whoever drains calls
    `advance()` again and again.
    """

    def __init__(self, pool: Engine, seconds: float = 0.0, offset: float = 0.0) -> None:
        """The times are spread evenly over so many seconds. `offset`, from 0 to 1, is the part of
        the time between two of them at which the first one comes: so several processes take turns.
        """
        self._supply = pool.supply
        self._state = pool.state  # a forked child has another one
        self._clock = pool.terms.clock
        self._due: deque[tuple[float, EntryRef]] = deque()
        # The places they take: each is given back when its connection is closed, or lost for good.
        self._places: list[weakref.ref[Place]] = []
        with self._state.lock:
            self._begin_locked(seconds, offset)

    def _begin_locked(self, seconds: float, offset: float) -> None:
        state, began = self._state, self._clock()
        state.generation += 1  # what is being opened is not kept
        idle = {entry.ref: None for entry in state.idle}  # the one that is used least comes first
        refs = [*idle, *(state.open - idle.keys())]
        for number, ref in enumerate(refs):
            self._due.append((began + seconds * (number + offset) / len(refs), ref))
        places = [ref.link.place for ref in refs]
        places += [attempt.place for attempt in state.connector.under_way_locked()]
        self._places = [weakref.ref(place) for place in places if place is not None]
        self.total = len(self._places)

    def advance(self) -> int:
        """Replace those whose time has come. Returns how many of all are still open."""
        self._supply.change(self._advance_locked)
        places = self._state.places
        with self._state.lock:
            found = (reference() for reference in self._places)
            return sum(place is not None and places.has(place) for place in found)

    def _advance_locked(self, change: Change) -> None:
        state, now = self._state, self._clock()
        while self._due and self._due[0][0] <= now:
            entry = self._due.popleft()[1]()
            if entry is None:  # lost: the upkeep closes it
                continue
            if entry in state.idle:
                state.take_idle_locked([entry])
                entry.link.reason = DRAINED
                # Elsewhere: its server may be in no hurry.
                change.later.append(functools.partial(self._supply.close_elsewhere, entry, DRAINED))
            elif entry.ref in state.in_use:
                entry.expires_at = DRAINED_AT
