"""Whether a caller who came now would get a connection that answers.

A probe takes nothing that a caller needs. It does not stand in line, it has an idle connection for
the time of one ping, and what is opened for it is idle from then on.

Behind a proxy that gives each transaction any of its sessions a ping waits inside the proxy while
all of these are in use. So no answer means that the pool is busy, for as long as callers would wait
as well; but a connect the proxy answers by itself, whatever has become of its server.
"""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from flask_pooled_db.pool import evictions, reports
from flask_pooled_db.pool.entry import DRAINED_AT, Entry
from flask_pooled_db.pool.liveness import Liveness
from flask_pooled_db.pool.state import Change
from flask_pooled_db.pool.supply import Supply

T = TypeVar("T")

_SHARE_OF_PING = 0.5
"""The part of its time that a ping through a proxy may take: the rest is for a connect, which tells
whether the proxy is there."""


class Answer(enum.Enum):
    """What a probe has found."""

    OK = "ok"  # a connection answered
    BUSY = "busy"  # all are in use, and their holders return them
    DOWN = "down"
    CLOSED = "closed"


class Finding(NamedTuple):
    """The answer of a probe, and the reason of one that is bad, for the log."""

    answer: Answer
    reason: str = ""


OK, BUSY = Finding(Answer.OK), Finding(Answer.BUSY)
CLOSED = Finding(Answer.CLOSED, "the pool was closed")


class Onlooker:
    """Waits for what becomes of the next connect, and wants no connection."""

    __slots__ = ("__weakref__", "_has_connected", "_told")

    def __init__(self) -> None:
        self._told = threading.Lock()
        self._told.acquire()
        self._has_connected: bool | None = None

    def tell_locked(self, *, connected: bool) -> None:
        """Tell it, once."""
        self._has_connected = connected
        self._told.release()

    def wait(self, seconds: float) -> bool | None:
        """Return whether the connect has succeeded; None if `seconds` did not suffice for it."""
        self._told.acquire(timeout=max(seconds, 0.0))
        return self._has_connected


class Probe:
    """One probe of a pool."""

    def __init__(
        self, supply: Supply, liveness: Liveness, invalidate: Callable[[], None], seconds: float
    ) -> None:
        """`invalidate` has all connections pinged before they are lent again."""
        self._supply = supply
        self._liveness = liveness
        self._invalidate = invalidate
        self._clock = supply.terms.clock
        self._deadline = self._clock() + seconds
        self._is_proxied = supply.terms.config.proxy is not None
        self._is_silent = False  # a ping has had no answer from behind the proxy
        self._has_connected = False  # to the proxy

    def run(self) -> Finding:
        """Return what a caller would find. It takes no longer than its time."""
        returns = self._returns()
        while True:
            step = self._supply.change(self._step_locked)
            if isinstance(step, Finding):
                return step
            found = self._ping(step) if isinstance(step, Entry) else self._watch(step, returns)
            if found is not None:
                return found

    def ask(self, question: Callable[[Entry], T]) -> T | None:
        """Return what a function makes of an idle connection; None if there is none. It must leave
        its session as it was. A connection that fails, or takes longer than its time, is closed,
        and the error is raised.
        """
        entry = self._supply.change(self._idle_locked)
        if entry is None:
            return None
        rested_since, began = entry.since, self._clock()
        entry.since = began
        try:
            with entry.bounded(max(self._deadline - began, 0.0)):
                found = question(entry)
        except BaseException:
            self._drop(entry, "asking its server failed")
            raise
        if entry.look() > 0:  # it was cut just as the answer came
            self._drop(entry, evictions.DEAD)
        else:
            self._supply.change(lambda change: self._put_back_locked(entry, rested_since, change))
        return found

    def _idle_locked(self, change: Change) -> Entry | None:
        """Take an idle connection, if there is one."""
        state = self._supply.state
        if state.is_closed or not state.idle:
            return None
        entry = state.pop_idle_locked(None)
        state.take_for_check_locked(entry)
        return entry

    def _step_locked(self, change: Change) -> Finding | Entry | Onlooker:
        """Take an idle connection, or see to it that one is opened."""
        state, now = self._supply.state, self._clock()
        backoff = state.connector.backoff
        if state.is_closed:
            return CLOSED
        entry = None if self._is_silent else self._idle_locked(change)
        if entry is not None:
            return entry
        if self._has_connected:
            return BUSY  # a caller was faster
        is_connecting = self._connects_locked(change)
        if state.is_cut_off_locked(now, self._supply.terms.config):
            return _connecting_failed(backoff.error)
        if is_connecting:
            onlooker = Onlooker()
            state.onlookers.add(onlooker)
            return onlooker
        return self._silence_locked() if self._is_silent else self._without_connect_locked()

    def _connects_locked(self, change: Change) -> bool:
        """See to it that a connect is under way, if there is a place that no caller waits for, and
        it is time for one. Returns whether one is.
        """
        connector = self._supply.state.connector
        backoff = connector.backoff
        is_due = not backoff.is_down or backoff.is_due_locked()
        if is_due and backoff.pause_locked() <= 0 and not connector.opening:
            self._supply.open_locked(change, 1)
        return connector.opening > 0

    def _without_connect_locked(self) -> Finding:
        """Judge by who has connections: the server may have reached its own limit of them."""
        state = self._supply.state
        backoff = state.connector.backoff
        recently = self._clock() - self._supply.terms.config.acquire_timeout
        if backoff.is_down and all(entry.since < recently for entry in state.in_use_locked()):
            return _connecting_failed(backoff.error)
        return BUSY

    def _watch(self, onlooker: Onlooker, returns: int) -> Finding | None:
        """Wait for what becomes of a connect. Returns None if that is to be looked at again."""
        connected = onlooker.wait(self._deadline - self._clock())
        state = self._supply.state
        with state.lock:
            state.onlookers.discard(onlooker)
            if state.is_closed:
                return CLOSED
            if connected and self._is_proxied:
                self._has_connected = True
                return self._silence_locked() if self._is_silent else None
            if connected:
                return OK  # the server has just answered
            if state.idle and self._clock() < self._deadline:
                return None
            if connected is False:
                return self._without_connect_locked()
        if self._returns() > returns:  # connects are slow, and callers are served
            return BUSY
        if self._is_silent:  # the proxy itself is
            self._supply.evict_idle(evictions.SILENT)
            self._invalidate()
        if state.connector.backoff.is_down:
            return _connecting_failed(state.connector.backoff.error)
        return Finding(Answer.DOWN, "a connect had no answer in time")

    def _ping(self, entry: Entry) -> Finding | None:
        """Ping an idle connection. Returns None if it was dead, and another one may not be."""
        rested_since, began = entry.since, self._clock()
        entry.since = began
        seconds = max(self._deadline - began, 0.0)
        if self._is_proxied and not self._has_connected:
            seconds *= _SHARE_OF_PING
        try:
            answers = entry.look() <= 0 and entry.answers(seconds)
        except BaseException:
            self._drop(entry, "its ping was interrupted")
            raise
        now = self._clock()
        if answers:
            self._supply.change(lambda change: self._put_back_locked(entry, rested_since, change))
            return OK
        if self._is_proxied:
            returned = _returned_at(entry, rested_since)
            return self._unanswered(entry, returned, min(seconds, self._liveness.silence))
        if now - began >= self._liveness.silence:
            self._supply.evict_idle(evictions.SILENT)
        self._supply.terms.events.found_dead()
        self._invalidate()
        self._drop(entry, evictions.DEAD)
        if now < self._deadline:
            return None
        return Finding(Answer.DOWN, "a ping had no answer in time")

    def _unanswered(self, entry: Entry, returned: float, silence: float) -> Finding | None:
        """Drop a connection to a proxy whose ping was not answered, and return what that means;
        None if a connect, or another ping, is to tell.
        """
        state, now, began = self._supply.state, self._clock(), entry.since
        self._is_silent = now - began >= silence
        self._supply.terms.events.found_dead()
        if not self._is_silent:
            self._invalidate()
        self._drop(entry, evictions.SILENT if self._is_silent else evictions.DEAD)
        with state.lock:
            state.unanswered_since = max(min(state.unanswered_since, began), returned)
            if self._has_connected and not self._is_silent:
                return Finding(Answer.DOWN, "a ping failed on a connection that was just opened")
            if self._has_connected or now >= self._deadline:
                return self._silence_locked()
        return None

    def _silence_locked(self) -> Finding:
        """Judge by for how long nothing has come back from behind a proxy."""
        state, now = self._supply.state, self._clock()
        backoff = state.connector.backoff
        if backoff.is_down:
            return _connecting_failed(backoff.error)
        returned = (_returned_at(entry, entry.since) for entry in state.idle)
        silent_for = now - max(state.unanswered_since, *returned, -math.inf)
        if silent_for < self._supply.terms.config.acquire_timeout:
            return BUSY
        told = f"the proxy has had no session that answers for {silent_for:.0f} s"
        return Finding(Answer.DOWN, told)

    def _put_back_locked(self, entry: Entry, rested_since: float, change: Change) -> None:
        """Make a connection idle again, as if it had not been taken: one that rests is closed in
        time all the same.
        """
        state, now = self._supply.state, self._clock()
        state.unanswered_since = math.inf
        if not state.end_check_locked(entry):
            return  # it was closed meanwhile
        entry.since = rested_since
        entry.is_suspect = False
        entry.valid_until = now + self._liveness.trust
        if now < entry.expires_at and self._supply.keeps_locked(entry):
            state.used_at = state.last_used  # of those that were returned meanwhile
            state.idle.append(entry)
        else:
            is_drained = entry.expires_at == DRAINED_AT
            change.evict([entry], evictions.DRAINED if is_drained else evictions.NOT_NEEDED)
        self._supply.assign_locked(change)

    def _drop(self, entry: Entry, reason: str) -> None:
        with self._supply.state.lock:
            self._supply.state.end_check_locked(entry)
        entry.condemn(reason)
        self._supply.close(entry, reason)

    def _returns(self) -> int:
        """Return how many leases were returned so far."""
        state = self._supply.state
        with state.lock:
            return state.checkouts - state.never_returned - len(state.in_use)


def _returned_at(entry: Entry, rested_since: float) -> float:
    """Return when an idle connection came back from a lease; negative infinity if it never had one.
    It has rested since then, or since it was opened.
    """
    return rested_since if rested_since > entry.origin.opened_at else -math.inf


def _connecting_failed(error: BaseException | None) -> Finding:
    told = "" if error is None else f": {reports.describe(error)}"
    return Finding(Answer.DOWN, f"connecting failed{told}")
