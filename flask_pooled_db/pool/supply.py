"""The supply of a pool: connections are opened, handed to those who wait, and closed.

Whoever changes the pool's state notes in a `Change` what that asks for, and carries it out when the
lock has been released. A place is taken before a connect begins and given back after a close has
ended, so that the limit holds at every instant.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

from flask_pooled_db.pool import reports
from flask_pooled_db.pool.connector import Attempt
from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.liveness import Liveness
from flask_pooled_db.pool.places import Place
from flask_pooled_db.pool.state import Change, Sizes, State, Terms
from flask_pooled_db.runtime import workers

logger = logging.getLogger("flask_pooled_db")

LIFETIME_JITTER = 0.1
"""The part of `max_lifetime` by which lifetimes differ, so that not all expire at once."""


class Supply:
    """Opens connections for one pool, hands them over, and closes them. See `connector.Host`."""

    def __init__(self, terms: Terms, sizes: Sizes, liveness: Liveness) -> None:
        self.terms = terms
        self.sizes = sizes
        self.is_replica = False
        self._liveness = liveness
        self.state = State(terms, sizes)

    def start_afresh(self) -> State:
        """Begin with nothing open, as in a forked child. Returns the new state."""
        is_closed = self.state.is_closed
        self.state = State(self.terms, self.sizes)
        self.state.is_closed = is_closed
        return self.state

    # Changes: decided under the lock, carried out without it

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """Hold the lock during the block, and carry out afterwards what it asked for."""
        change = Change()
        try:
            with self.state.lock:
                yield change
        finally:
            self.carry_out(change)

    def carry_out(self, change: Change) -> None:
        """Start the openers, and close the connections, that a change asks for."""
        try:
            while change.places:
                self._start_opener(change.places.pop())
            while change.evictions:
                self.close(*change.evictions.pop())
        finally:
            if change.places or change.evictions:  # interrupted: nothing may be forgotten
                for entry, reason in change.evictions:
                    entry.condemn(reason)
                self.carry_out(change)

    def _start_opener(self, place: Place) -> None:
        try:
            self.state.connector.start(self, place)
        except BaseException:
            self._stop_opener(place)
            raise

    def close(self, entry: Entry, reason: str) -> None:
        """Close a connection, with a goodbye unless it is condemned, and free its place."""
        try:
            entry.terminate() if entry.condemned else entry.close()
        finally:
            self.terms.events.evicted(reason)
            with self.changing() as change:
                self.state.in_use.discard(entry)
                self._free_locked(entry.place)
                self.assign_locked(change)

    def _free_locked(self, place: Place | None) -> None:
        if place is not None:
            place.give_back()
            self.state.returned.notify_all()

    def assign_locked(self, change: Change) -> None:
        """Hand idle connections to waiters, and take places for openers: this is where waiters,
        idle connections and free places meet.
        """
        state = self.state
        if state.is_closed:
            return
        while state.waiters and state.idle:
            waiter = state.queue.next_locked()
            entry = state.pop_idle_locked(waiter.session)
            entry.since = self.terms.clock()
            state.in_use.add(entry)
            state.checkouts += 1
            waiter.settle(entry)
        for _ in range(state.wanted_locked(self.sizes, is_replica=self.is_replica)):
            place = state.places.take()
            if place is None:
                return
            state.connector.opening += 1
            change.places.append(place)

    # For openers

    def generation(self) -> int:
        return self.state.generation

    def next_turn(self, place: Place) -> float | None:
        state = self.state
        with state.lock:
            pause = state.connector.backoff.pause_locked()
            is_needed = len(state.queue) > 0 or (pause <= 0 and not workers.is_forking)
            is_wanted = is_needed and not state.is_closed
            if is_wanted and state.places.taken <= state.places.most:  # else it was made smaller
                return pause
        self._stop_opener(place)
        return None

    def _stop_opener(self, place: Place) -> None:
        with self.state.lock:
            self.state.connector.opening -= 1
            self._free_locked(place)

    def connected(self, attempt: Attempt, entry: Entry) -> Place | None:
        state, config = self.state, self.terms.config
        if config.max_lifetime:
            share = 1.0 - LIFETIME_JITTER * random.random()
            entry.expires_at = entry.origin.opened_at + config.max_lifetime * share
        self._liveness.welcome(entry)
        self.terms.events.opened()
        with self.changing() as change:
            entry.place = self._finish_locked(attempt)
            has_recovered = state.connector.backoff.succeeded_locked()
            is_current = attempt.generation == state.generation and not state.is_closed
            if entry.place is not None and is_current and state.has_room_locked():
                state.idle.append(entry)
            else:
                change.evict([entry], "it is not needed any more")
            self.assign_locked(change)
            place = change.places.pop() if change.places else None  # this opener serves one itself
        if has_recovered:
            logger.warning("The database of bind %r is back", self.terms.bind)
        return place

    def connect_failed(
        self, attempt: Attempt, error: BaseException, *, is_permanent: bool, hangs: bool = False
    ) -> Place | None:
        state, bind = self.state, self.terms.bind
        self.terms.events.connect_failed(error)
        with self.changing() as change:
            place = self._hang_locked(attempt) if hangs else self._finish_locked(attempt)
            is_first = state.connector.backoff.failed_locked(error, is_permanent=is_permanent)
            state.queue.fail_locked(
                lambda: reports.connect_failed(bind, error),
                lambda waiter: is_permanent or waiter.needs_up,
            )
            self._free_locked(place)
            if state.waiters:  # else upkeep makes the next try
                self.assign_locked(change)
            place = change.places.pop() if change.places else None
        if is_first:
            name = reports.describe(error)
            logger.warning("Connecting to the database of bind %r failed: %s", bind, name)
        return place

    def _finish_locked(self, attempt: Attempt) -> Place | None:
        """Note that a connect has returned. Returns its place, or a new one if it hung."""
        connector = self.state.connector
        if attempt.place is None:
            connector.hanging -= 1
            return self.state.places.take()
        connector.opening -= 1
        return attempt.place

    def _hang_locked(self, attempt: Attempt) -> Place | None:
        """Note that a connect hangs. Returns its place, which it does not need any more."""
        place, attempt.place = attempt.place, None
        self.state.connector.hanging += 1
        self.state.connector.opening -= 1
        return place

    def no_opener(self, place: Place, error: BaseException) -> None:
        attempt = Attempt(place, self.state.generation)
        retry = self.connect_failed(attempt, error, is_permanent=False)
        if retry is not None:
            self.state.connector.start_after_pause(self, retry)
