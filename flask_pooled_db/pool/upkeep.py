"""What is done for all pools of a process in the background: one sweep, the fork, the exit."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import traceback
import weakref
from time import monotonic

from flask_pooled_db.config import shown
from flask_pooled_db.drivers import Driver
from flask_pooled_db.pool import evictions
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import EntryRef
from flask_pooled_db.pool.link import detach_all
from flask_pooled_db.pool.state import Change
from flask_pooled_db.runtime import Job, Part, guard, housekeeper, join, reporter, workers

logger = logging.getLogger("flask_pooled_db")

SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.02, 1.0
"""Seconds between two sweeps of a pool. Within these limits it is a quarter of the shortest time
that the pool has to keep."""

MOST_AT_ONCE = 100
"""How many pools are swept in one job of the housekeeping: others must not wait for thousands."""


class Estate:
    """The connections of a pool, to be closed if the pool is collected as garbage.

    A lease holds its pool. So when the pool is gone, nobody uses its connections, whatever state
    they were in. No finalizer closes them: it could run anywhere, under any lock.
    """

    def __init__(self, pool: Engine) -> None:
        self.pool = weakref.ref(pool)
        self._driver: Driver = pool.terms.driver
        self._open: set[EntryRef] = pool.state.open

    def settle(self) -> None:
        """Close what the pool left behind."""
        for ref in list(self._open):
            ref.link.close()
        self._driver.close_all()

    def abandon(self) -> None:
        """In a forked child, after its connections were detached: close what is the child's own."""
        self._driver.after_fork()
        self._driver.close_all()


def sweep(pool: Engine) -> None:
    """Close what has been idle or open for too long, and open up to `mincached`.

    It does not wait: connections are opened and closed by other threads.
    """
    state, supply, now = pool.state, pool.supply, pool.terms.clock()
    config = pool.terms.config
    pool.leaks.report_long_leases(now)
    supply.forget_gone()
    opening, closing = Change(), Change()
    makes_checkpoint = False
    with state.lock:
        if config.drain_interval and pool.terms.driver.outlives_connections:
            drained = state.drained_locked(now, config.drain_interval)
            closing.evict(state.take_idle_locked(drained), evictions.DRAIN_INTERVAL)
        expired = state.expired_locked(now, config.idle_timeout, supply.sizes.mincached)
        for entry in state.take_idle_locked(expired):
            is_old = now >= entry.expires_at
            closing.evict([entry], evictions.LIFETIME if is_old else evictions.IDLE)
        if closing.evictions:
            makes_checkpoint = state.owes_checkpoint_locked(now, config.drain_interval)
        if state.connector.backoff.pause_locked() <= 0:
            supply.assign_locked(opening)
        state.lost.extend(state.lost_locked())
    supply.carry_out(opening)
    if closing.evictions or state.lost:
        try:
            close = _drain if makes_checkpoint else _close
            workers.start("closer", functools.partial(close, pool, closing))
        except Exception:  # noqa: BLE001  no more threads: terminating takes no time
            for entry, _ in closing.evictions:
                entry.condemn("there was no thread to close it")
            _close(pool, closing)


def _close(pool: Engine, closing: Change) -> None:
    pool.leaks.reclaim()
    pool.supply.carry_out(closing)


def _drain(pool: Engine, closing: Change) -> None:
    """Close connections, the last one after a checkpoint: no other has to wait for that."""
    last, reason = closing.evictions.pop()
    _close(pool, closing)
    pool.supply.close_after_checkpoint(last, reason)


class Round:
    """The pools that are swept at the same interval: all at the same times, so that thousands of
    them wake nobody more often than one does.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.estates: set[Estate] = set()
        self._left: list[Estate] = []  # to be swept in this turn
        self.set_due()

    def set_due(self) -> None:
        """Have it begin at its next time."""
        self.due = (monotonic() // self.interval + 1.0) * self.interval

    def next_ones(self, now: float) -> list[Estate]:
        """Return what to sweep next, not many at once; nothing if it is not due."""
        if self.due > now:
            return []
        if not self._left:
            self._left = list(self.estates)
        some, self._left = self._left[:MOST_AT_ONCE], self._left[MOST_AT_ONCE:]
        if not self._left:
            self.set_due()
        return some


class Upkeep(Part):
    """Keeps all pools of a process in order. There is one, and one job that sweeps all pools."""

    def __init__(self) -> None:
        self._pools: Census[Engine] = Census()
        self._rounds: dict[float, Round] = {}  # by their intervals; of the pools that are in use
        self._job: Job | None = None

    def add(self, pool: Engine) -> None:
        """Take care of a pool from now on."""
        self._pools.add(pool)

    def _all(self) -> list[Engine]:
        return self._pools.members()

    def tend(self, pool: Engine) -> None:
        """Begin to sweep a pool, at its first checkout and after a rest; go on if an error has
        ended the sweeps.
        """
        is_first = not pool.state.is_tended
        if is_first:
            estate, interval = Estate(pool), _interval(pool)
            with guard.lock:
                if not pool.state.is_tended:
                    if interval not in self._rounds:
                        self._rounds[interval] = Round(interval)
                    self._rounds[interval].estates.add(estate)
                    pool.state.is_tended = True  # last: an interruption may come before each line
        if is_first or self._job is None or self._job.cancelled:
            self._schedule()

    def _due(self) -> float:
        return min((each.due for each in list(self._rounds.values())), default=math.inf)

    def is_at_work(self) -> bool:
        """Return whether it has pools to look after."""
        return bool(self._estates())

    def _estates(self) -> list[Estate]:
        return [estate for each in list(self._rounds.values()) for estate in list(each.estates)]

    def _schedule(self) -> None:
        """Have the next sweep at its time. Two threads at once may schedule two: that is harmless,
        since a sweep looks at what is due.
        """
        # First: what another thread schedules from now on is for pools that may be missed below.
        before = self._job
        due = self._due()
        # Not at a time that has passed: it would come before other jobs that are due.
        when = max(due, monotonic())
        self._job = None if due == math.inf else housekeeper.call_at(when, self._sweep)
        if before is not None:
            before.cancel()

    def _sweep(self) -> None:
        try:
            self._sweep_due(monotonic())
        finally:
            self._schedule()

    def _sweep_due(self, now: float) -> None:
        for each in list(self._rounds.values()):
            for estate in each.next_ones(now):
                try:
                    self._sweep_one(each, estate)
                except Exception:  # noqa: BLE001  the other pools are swept all the same
                    text = "Sweeping a pool failed:\n%s"
                    reporter.tell(logger.error, text, traceback.format_exc())
        with guard.lock:
            for each in [each for each in self._rounds.values() if not each.estates]:
                self._rounds.pop(each.interval)

    def _sweep_one(self, each: Round, estate: Estate) -> None:
        pool = estate.pool()
        if pool is None:
            workers.start("closer", estate.settle)
            each.estates.discard(estate)
            return
        sweep(pool)
        state, supply = pool.state, pool.supply
        with guard.lock:
            if (
                state.is_at_rest_locked(supply.sizes, is_replica=supply.is_replica)
                and not pool.terms.driver.holds_anything
            ):
                state.is_tended = False  # first: the next checkout begins anew
                each.estates.discard(estate)

    def _without_pool(self) -> list[Estate]:
        """Return those whose pool is garbage."""
        return [estate for estate in self._estates() if estate.pool() is None]

    # The process

    def connections_by_bind(self) -> dict[str, int]:
        """Return how many places each bind's pools have taken, of all apps of the process."""
        taken: dict[str, int] = {}
        for pool in self._all():
            taken[pool.terms.bind] = taken.get(pool.terms.bind, 0) + pool.state.places.taken
        return taken

    def open_connections(self) -> int:
        return sum(pool.state.places.taken for pool in self._all())

    def before_fork(self) -> None:
        for pool in self._all():
            if not pool.terms.driver.suffers_from_forks:
                continue
            if guard.is_inside():
                reporter.tell(
                    logger.warning,
                    "Forking while bind %s is busy in this very thread (a signal handler?): its "
                    "idle connections are not closed first. Fork outside of signal handlers",
                    shown(pool.terms.bind),
                )
            else:
                pool.supply.evict_idle(evictions.FORKING)

    def after_fork_in_child(self) -> None:
        detach_all()  # before anything is forgotten, which would close it
        for estate in self._without_pool():
            estate.abandon()
        self._rounds.clear()
        self._job = None
        pools = self._all()
        for budget in {pool.supply.budget for pool in pools}:
            if budget is not None:
                budget.start_afresh()  # before the pools, whose places are a part of it
        for pool in pools:
            pool.after_fork()

    def at_exit(self) -> None:
        for pool in self._all():
            with contextlib.suppress(Exception):
                pool.close()
        for estate in self._without_pool():
            with contextlib.suppress(Exception):
                estate.settle()
        self._rounds.clear()

    def after_exit(self) -> None:
        for pool in self._all():
            pool.state.lock = guard.lock


def _interval(pool: Engine) -> float:
    config = pool.terms.config
    times = (
        *(config.idle_timeout, config.max_lifetime, config.drain_interval),
        config.leak_threshold,
    )
    shortest = min((seconds / 4 for seconds in times if seconds), default=LONGEST_INTERVAL)
    return max(SHORTEST_INTERVAL, min(shortest, LONGEST_INTERVAL))


upkeep = Upkeep()
join(3, upkeep)
