"""What is done for all pools of a process in the background: one sweep, the fork, the exit."""

from __future__ import annotations

import contextlib
import functools
import logging
import traceback
import weakref
from time import monotonic

from flask_pooled_db.drivers import Driver
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import Entry, EntryRef
from flask_pooled_db.pool.link import detach_all
from flask_pooled_db.pool.state import Change
from flask_pooled_db.runtime import Job, Part, guard, housekeeper, join, reporter, workers

logger = logging.getLogger("flask_pooled_db")

SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.02, 1.0
"""Seconds between two sweeps of a pool. Within these limits it is a quarter of the shortest time
that the pool has to keep."""


class Estate:
    """The connections of a pool, to be closed if the pool is collected as garbage.

    A lease holds its pool. So when the pool is gone, nobody uses its connections, whatever state
    they were in. No finalizer closes them: it could run anywhere, under any lock.
    """

    def __init__(self, pool: Engine) -> None:
        self.pool = weakref.ref(pool)
        self.interval = _interval(pool)
        self._driver: Driver = pool.terms.driver
        self._open: set[EntryRef] = pool.state.open
        self.due = 0.0  # when the pool is swept next

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
    opening, closing = Change(), Change()
    drained: list[Entry] = []
    with state.lock:
        if config.drain_interval:
            drained = state.drained_locked(now, config.drain_interval)
            closing.evict(state.take_idle_locked(drained), "the drain interval is over")
        expired = state.expired_locked(now, config.idle_timeout, supply.sizes.mincached)
        closing.evict(state.take_idle_locked(expired), "it was idle or open for too long")
        if state.connector.backoff.pause_locked() <= 0:
            supply.assign_locked(opening)
        state.lost.extend(state.lost_locked())
    supply.carry_out(opening)
    if closing.evictions or state.lost:
        try:
            close = _drain if drained else _close
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
    with contextlib.suppress(Exception):  # there may be none, or it is not its time
        last.driver.checkpoint(last.raw)
    pool.supply.close(last, reason)


class Upkeep(Part):
    """Keeps all pools of a process in order. There is one, and one job that sweeps all pools."""

    def __init__(self) -> None:
        self._pools: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._estates: set[Estate] = set()  # of the pools that have been used
        self._job: Job | None = None

    def add(self, pool: Engine) -> None:
        """Take care of a pool from now on."""
        with guard.lock:
            self._pools.add(pool)

    def _all(self) -> list[Engine]:
        with guard.lock:
            return list(self._pools)

    def tend(self, pool: Engine) -> None:
        """Begin to sweep a pool, at its first checkout; go on if an error has ended the sweeps."""
        is_first = not pool.state.is_tended
        if is_first:
            estate = Estate(pool)
            estate.due = monotonic() + estate.interval
            with pool.state.lock:
                if not pool.state.is_tended:
                    self._estates.add(estate)
                    pool.state.is_tended = True  # last: an interruption may come before each line
        if is_first or self._job is None or self._job.cancelled:
            self._schedule()

    def _schedule(self) -> None:
        """Have the next sweep at its time. Two threads at once may schedule two: that is harmless,
        since a sweep looks at what is due.
        """
        due = min((estate.due for estate in list(self._estates)), default=None)
        before = self._job
        self._job = None if due is None else housekeeper.call_at(due, self._sweep)
        if before is not None:
            before.cancel()

    def _sweep(self) -> None:
        try:
            self._sweep_due(monotonic())
        finally:
            self._schedule()

    def _sweep_due(self, now: float) -> None:
        for estate in [estate for estate in list(self._estates) if estate.due <= now]:
            try:
                self._sweep_one(estate, now)
            except Exception:  # noqa: BLE001  the other pools are swept all the same
                reporter.tell(logger.error, "Sweeping a pool failed:\n%s", traceback.format_exc())

    def _sweep_one(self, estate: Estate, now: float) -> None:
        estate.due = now + estate.interval
        pool = estate.pool()
        if pool is None:
            workers.start("closer", estate.settle)
            self._estates.discard(estate)
        elif pool.state.is_closed and not pool.state.places.taken:
            self._estates.discard(estate)  # not earlier: a lease may be leaked after the end
        else:
            sweep(pool)

    def _without_pool(self) -> list[Estate]:
        """Return those whose pool is garbage."""
        return [estate for estate in list(self._estates) if estate.pool() is None]

    # The process

    def open_connections(self) -> int:
        return sum(pool.state.places.taken for pool in self._all())

    def before_fork(self) -> None:
        for pool in self._all():
            if not pool.terms.driver.suffers_from_forks:
                continue
            if guard.is_inside():
                reporter.tell(
                    logger.warning,
                    "Forking while bind %r is busy in this very thread (a signal handler?): its "
                    "idle connections are not closed first. Fork outside of signal handlers",
                    pool.terms.bind,
                )
            else:
                pool.supply.evict_idle("the process forks")

    def after_fork_in_child(self) -> None:
        detach_all()  # before anything is forgotten, which would close it
        for estate in self._without_pool():
            estate.abandon()
        self._estates.clear()
        self._job = None
        for pool in self._all():
            pool.after_fork()

    def at_exit(self) -> None:
        for pool in self._all():
            with contextlib.suppress(Exception):
                pool.close()
        for estate in self._without_pool():
            with contextlib.suppress(Exception):
                estate.settle()
        self._estates.clear()

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
