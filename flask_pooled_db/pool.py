"""The pool: leases of the engine's connections, sharing, growth and shrinkage, the end."""

from __future__ import annotations

import functools
import logging
import threading
import warnings
import weakref
from collections import deque
from time import monotonic
from typing import Any

from flask_pooled_db.config import DEFAULT_BIND, PoolConfig
from flask_pooled_db.connection import PooledConnection
from flask_pooled_db.dbapi import LeaseConnection, connection_class
from flask_pooled_db.drivers import Driver, Session
from flask_pooled_db.engine import Engine
from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from flask_pooled_db.housekeeping import housekeeper
from flask_pooled_db.lease import Held
from flask_pooled_db.ownership import current_owner
from flask_pooled_db.process import Estate, estates, pools
from flask_pooled_db.stats import PoolStats
from flask_pooled_db.threads import workers

logger = logging.getLogger("flask_pooled_db")

_LONGEST_SWEEP_INTERVAL = 1.0


class Pool(Engine):
    """DBUtils' `PooledDB`, without waiting for the network while others wait for the pool.

    `connection()`, `dedicated_connection()`, `steady_connection()`, `cache()` and `close()` are
    DBUtils'. Nothing is opened before the first of them is called.
    """

    def __init__(self, config: PoolConfig, driver: Driver, *, bind: str = DEFAULT_BIND) -> None:
        super().__init__(config, driver, bind=bind)
        self.replica: Pool | None = None
        self._lease_classes: dict[type, type[LeaseConnection]] = {}  # by the driver's class
        self._start_leasing()
        pools.add(self)
        if config.maxshared and not self._maxshared:
            warnings.warn(
                f"POOLED_DB_MAXSHARED has no effect: the connections of {driver.name} can't be "
                f"shared between threads ({driver.why_not_shared})",
                RuntimeWarning,
                stacklevel=2,
            )

    def _start_leasing(self) -> None:
        """The state of a pool that has lent nothing yet."""
        self._share_freed = threading.Condition(self._lock)
        self._shared: list[PooledConnection] = []  # [lock]
        self._sharing = 0  # [lock] those, and those that are to be added
        self._orphans: deque[PooledConnection] = deque()  # appended to without the lock

    # Leases

    def _prepare(self, con: PooledConnection) -> None:
        super()._prepare(con)
        kind = type(con.raw)
        if kind not in self._lease_classes:
            self._lease_classes[kind] = connection_class(con.raw)
        con.lease_class = self._lease_classes[kind]

    def lease(
        self,
        owner: Any = None,
        held: Held | None = None,
        *,
        timeout: float | None = None,
        shareable: bool = False,
        session: Session | None = None,
    ) -> LeaseConnection:
        """A lease of a connection; `held` holds it until it is released.

        Raises `PoolTimeout` after `timeout` seconds (None: as configured), `ConnectFailed`, or
        `PoolClosed`.
        """
        session = session or self.usual_session
        is_shared = bool(shareable and self._maxshared)
        con = self._acquire_shared(timeout) if is_shared else self.acquire(timeout, session)
        held = Held() if held is None else held
        owner = owner or current_owner()
        lease: LeaseConnection = con.lease_class(self, con, owner, held, session)
        return lease

    def connection(self, shareable: bool = True) -> LeaseConnection:
        """A lease that `close()` gives back, as in DBUtils."""
        return self.lease(shareable=shareable)

    def acquire_to_read(
        self, timeout: float | None, session: Session
    ) -> tuple[Pool, PooledConnection]:
        """A connection of the replica, if there is one and it is up, else one of this pool's own;
        and the pool that it belongs to.
        """
        replica = self.replica
        if replica is None:
            return self, self.acquire(timeout, session)
        if not self.config.replica_fallback:
            return replica, replica.acquire(timeout, session)
        try:
            con = replica._acquire_slowly(None, monotonic(), timeout, session, needs_up=True)
        except (PoolTimeout, ConnectFailed):
            if not replica.is_down:
                raise  # it is busy, and this pool may be so too
            return self, self.acquire(timeout, session)
        return replica, con

    # Sharing, for drivers whose connections serve several threads at once

    def _acquire_shared(self, timeout: float | None) -> PooledConnection:
        """A connection to share: a new one up to `maxshared`, else the one shared least."""
        started = monotonic()
        deadline = started + (self.config.acquire_timeout if timeout is None else timeout)
        while True:
            with self._lock:
                con = self._wait_for_share(started, deadline)
            if con is None:
                return self._new_share(deadline)
            if con.look() <= 0:
                return con
            if self.release_share(con, is_fit=False):
                self._discard(con)

    def _wait_for_share(self, started: float, deadline: float) -> PooledConnection | None:
        """[locked] A share of a connection; None, with a place kept for it, for a new one."""
        while True:
            self._refuse_if_closed()
            full = self._maxconnections and len(self._in_use) >= self._maxconnections
            if self._sharing < self._maxshared and not (full and self._shared):
                self._sharing += 1
                return None
            con = self._least_shared()
            if con is not None:
                con.shares += 1
                self._checkouts += 1
                return con
            left = deadline - monotonic()
            if left <= 0 or not self._blocking:
                raise self._timeout_error(started, waiting_allowed=self._blocking)
            self._share_freed.wait(left)

    def _new_share(self, deadline: float) -> PooledConnection:
        con = None
        try:
            con = self.acquire(max(0.0, deadline - monotonic()))
        finally:
            with self._lock:
                if con is None:
                    self._sharing -= 1
                else:
                    con.shares = 1
                    self._shared.append(con)
                self._share_freed.notify_all()
        return con

    def _least_shared(self) -> PooledConnection | None:
        """[locked] As in DBUtils, a connection in a transaction is not shared."""
        free = [
            con
            for con in self._shared
            if not con._transaction and not self.driver.in_transaction(con.raw)
        ]
        return min(free, key=lambda con: con.shares, default=None)

    def release_share(self, con: PooledConnection, *, is_fit: bool = True) -> bool:
        """One lease fewer shares a connection; whether it was the last. One that is not fit is
        shared with nobody else, and not used again.
        """
        with self._lock:
            con.shares -= 1
            if not is_fit:
                con.expires_at = 0.0
            if con in self._shared and not (con.shares and is_fit):
                self._shared.remove(con)
                self._sharing -= 1
            self._share_freed.notify_all()
            return not con.shares

    def share_changed(self) -> None:
        """A lease of a shared connection has ended its transaction."""
        with self._lock:
            self._share_freed.notify_all()

    def unshare(self, con: PooledConnection) -> None:
        """Give back one share of a connection, as in DBUtils."""
        if self.release_share(con):
            self.cache(con)

    # Leases that nobody returned

    def lost_lease(self, con: PooledConnection) -> None:
        """A lease was garbage collected: note its connection, take no lock, do no I/O."""
        self._orphans.append(con)
        warnings.warn(
            f"a connection of bind {self.bind!r} was never given back: use it in a `with` block",
            ResourceWarning,
            stacklevel=2,
        )

    def note_leak(self) -> None:
        """Count a lease that was taken back from an owner that did not return it."""
        with self._lock:
            self._counters.leaked += 1

    def _reclaim_orphans(self) -> None:
        while self._orphans:
            try:
                con = self._orphans.popleft()
            except IndexError:  # another thread was faster
                return
            self.note_leak()
            logger.warning("A connection of bind %r was never given back; it is closed", self.bind)
            if not con.shares or self.release_share(con, is_fit=False):
                self._discard(con)

    # Housekeeping

    def _tend(self) -> None:
        self._reclaim_orphans()
        with self._lock:
            first, self._is_tended = not self._is_tended, True
        if first:
            self._schedule_sweep(Estate(self, self.driver, self._idle, self._in_use))

    def _schedule_sweep(self, estate: Estate) -> None:
        config = self.config
        times = (config.idle_timeout, config.max_lifetime, config.leak_threshold)
        shortest = min((seconds / 4 for seconds in times if seconds), default=1.0)
        interval = max(0.02, min(shortest, _LONGEST_SWEEP_INTERVAL))
        reference = weakref.ref(self)

        def sweep() -> None:
            pool = reference()
            if pool is None:
                workers.start("closer", estate.settle)
            # A closed one as well, until all has come back: a lease may be lost after the end.
            elif pool._open or not pool._closed:
                try:
                    pool.sweep()
                finally:
                    pool._schedule_sweep(estate)
            else:
                estates.discard(estate)

        housekeeper.call_later(interval, sweep)

    def sweep(self) -> None:
        """Close what idled or lived too long, open up to `mincached`, report long leases.

        It never waits: opening and closing are done by threads of their own.
        """
        now = monotonic()
        with self._lock:
            expired = self._take_out(self._expired(now))
            due = self._next_connect <= now
            openers = self._assign() if due else 0
            leaks = self._long_leases(now)
        for con in leaks:
            logger.warning(
                "A lease of bind %r has been out for %.1f s (POOLED_DB_LEAK_THRESHOLD is %.1f s)",
                self.bind,
                now - con.lent_at,
                self.config.leak_threshold,
            )
        if expired or self._orphans:
            workers.start("closer", functools.partial(self._close_expired, expired))
        self._start_openers(openers)

    def _close_expired(self, cons: list[PooledConnection]) -> None:
        self._reclaim_orphans()
        self._close_all(cons)

    def _expired(self, now: float) -> list[PooledConnection]:
        """[locked] Idle connections that are too old, and those above `mincached` that rest."""
        config = self.config
        expired = []
        surplus = len(self._idle) + len(self._in_use) - self._mincached
        for con in self._idle:  # the one that has been idle longest first
            old = now >= con.expires_at
            rested = config.idle_timeout and now - con.idle_since >= config.idle_timeout
            if old or (rested and surplus > 0):
                expired.append(con)
                surplus -= 1
        return expired

    def _long_leases(self, now: float) -> list[PooledConnection]:
        """[locked] Leases out for longer than `leak_threshold`, each once."""
        threshold = self.config.leak_threshold
        if not threshold:
            return []
        long = [
            con
            for con in self._in_use
            if now - con.lent_at > threshold and con.leak_reported != con.lent_at
        ]
        for con in long:
            con.leak_reported = con.lent_at
        return long

    # The whole pool

    @property
    def open_connections(self) -> int:
        """How many places among `maxconnections` are taken."""
        return self._open

    def stats(self) -> PoolStats:
        """The state of the pool at this moment."""
        with self._lock:
            return self._stats()

    def drain(self) -> None:
        """Replace every connection: the idle ones now, those in use when they come back."""
        with self._lock:
            idle = self._retire_all()
        self._close_all(idle)

    def resize(self, mincached: int, maxcached: int, maxconnections: int) -> None:
        """Change the sizes (0: no limit, as configured). Leases beyond them end in peace."""
        sizes = {"mincached": mincached, "maxcached": maxcached, "maxconnections": maxconnections}
        checked = PoolConfig.from_mapping(
            {"CREATOR": self.driver, **{name.upper(): size for name, size in sizes.items()}}
        )
        with self._lock:
            self._refuse_if_closed()
            self._mincached = checked.mincached
            self._maxcached = checked.maxcached
            self._maxconnections = checked.maxconnections
            self._set_limits()
            surplus = max(
                self._open - maxconnections if maxconnections else 0,
                len(self._idle) - maxcached if maxcached else 0,
            )
            idle = self._take_out(list(self._idle)[: max(0, surplus)])
            openers = self._assign()
        self._start_openers(openers)
        self._close_all(idle)

    def close(self, timeout: float = 0.0) -> None:
        """Lend nothing more, give leases `timeout` seconds to come back, close all connections.

        Callers that wait get `PoolClosed`. A lease that is still out then goes on undisturbed; its
        connection is closed when it comes back.
        """
        with self._lock:
            self._closed = True
            for waiter in self._waiters:
                waiter.settle(None, self._closed_error())
            self._waiters.clear()
            idle = self._retire_all()
            self._share_freed.notify_all()
        self._closing.set()
        self._close_all(idle)
        self._reclaim_orphans()
        deadline = monotonic() + timeout
        with self._lock:
            while self._open and (left := deadline - monotonic()) > 0:
                self._returned.wait(left)
        self.driver.close_all()

    def after_fork(self) -> None:
        """Start afresh in a forked child: what the parent opened is the parent's."""
        closed = self._closed
        self._start_engine()
        self._start_leasing()
        self._closed = closed
        self.driver.after_fork()
        self.interrupter.after_fork()

    def __del__(self) -> None:
        """Nothing: `close()` closes; the drivers' own objects free their sockets."""

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<Pool {self.bind!r} of {self.driver.name}: {stats.in_use} in use, "
            f"{stats.idle} idle, {stats.waiting} waiting, at most {stats.maxconnections}>"
        )
