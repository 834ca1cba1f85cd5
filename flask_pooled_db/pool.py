"""The pool: checkout and return, opening and closing, growth and shrinkage, fork and end.

Every change of state is made under one lock, in a few steps, without I/O, callbacks or logging;
what is to be opened or closed then is done outside of it. A connection keeps its place among
`maxconnections` from before it is opened until after it is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import random
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, NoReturn

from dbutils.pooled_db import PooledDB

from flask_pooled_db.config import DEFAULT_BIND, PoolConfig
from flask_pooled_db.connection import PooledConnection, disown_connections
from flask_pooled_db.dbapi import LeaseConnection
from flask_pooled_db.drivers import Driver, Session
from flask_pooled_db.errors import ConnectFailed, PoolClosed, PoolTimeout
from flask_pooled_db.housekeeping import housekeeper
from flask_pooled_db.lease import Held, Lease
from flask_pooled_db.ownership import current_owner
from flask_pooled_db.servers import backoff
from flask_pooled_db.stats import Counters, PoolStats

logger = logging.getLogger("flask_pooled_db")

MAX_OPENING = 3
"""How many connects of a pool are under way at the same time. A burst of callers is better served
by connections that come back than by as many new ones."""

LIFETIME_JITTER = 0.1
"""The part of `max_lifetime` by which lifetimes differ, so that not all expire at once."""

_LONGEST_SWEEP_INTERVAL = 1.0

_FRESH = 1.0
"""Seconds after connecting in which no check is made: the server has just answered. A check that
always fails then costs a connect a lease, and no storm of them."""

_PING_GRACE = 0.1
"""Seconds that a ping has, also for a caller who said to wait less: a server that is well answers
in them, and without a ping a caller with no time would never get a connection that had a rest."""

_SILENCE = 1.0
"""Seconds without an answer to a ping that condemn the other idle connections too. A caller with
less time than that gives up without a verdict on them."""


class Waiter:
    """A caller in the queue. It is settled once, under the pool's lock: with a connection, or with
    an error.
    """

    __slots__ = ("_settled", "con", "error", "needs_up", "session")

    def __init__(self, session: Session | None, *, needs_up: bool = False) -> None:
        self._settled = threading.Lock()
        self._settled.acquire()
        self.con: PooledConnection | None = None
        self.error: BaseException | None = None
        self.session = session
        self.needs_up = needs_up  # it gives up as soon as connecting fails

    def settle(self, con: PooledConnection | None, error: BaseException | None = None) -> None:
        self.con, self.error = con, error
        self._settled.release()

    def wait(self, seconds: float) -> None:
        """Return when settled, or after so many seconds."""
        self._settled.acquire(timeout=max(seconds, 0.0))


class Pool(PooledDB):  # type: ignore[misc]
    """DBUtils' `PooledDB`, without waiting for the network while others wait for the pool.

    `connection()`, `dedicated_connection()`, `steady_connection()`, `cache()` and `close()` are
    DBUtils'. Nothing is opened before the first of them is called.
    """

    def __init__(self, config: PoolConfig, driver: Driver, *, bind: str = DEFAULT_BIND) -> None:
        super().__init__(
            driver,
            mincached=0,  # opened in the background once the pool is in use
            maxcached=config.maxcached,
            maxshared=config.maxshared,
            maxconnections=config.maxconnections,
            blocking=config.blocking,
            maxusage=config.maxusage,
            setsession=config.setsession,
            failures=driver.failures,
            ping=config.ping,
        )
        self.config = config
        self.driver = driver
        self.bind = bind
        self._mincached = config.mincached
        self._resets_session = config.reset == "session"
        self.usual_session = Session(False, config.statement_timeout)
        self._reading_session = Session(True, config.statement_timeout)
        self.replica: Pool | None = None
        self.is_replica = False
        self._set_limits()
        self._start_afresh()
        _pools.add(self)
        if config.maxshared and not self._maxshared:
            warnings.warn(
                f"POOLED_DB_MAXSHARED has no effect: the connections of {driver.name} can't be "
                f"shared between threads (its threadsafety is {driver.threadsafety})",
                RuntimeWarning,
                stacklevel=2,
            )

    def _set_limits(self) -> None:
        self._open_limit = self._maxconnections or math.inf
        self._idle_limit = self._maxcached or math.inf

    def _start_afresh(self) -> None:
        """The state of a pool that has opened nothing yet."""
        self._lock = threading.Lock()  # guards all of the following
        self._share_freed = threading.Condition(self._lock)
        self._returned = threading.Condition(self._lock)
        self._idle: deque[PooledConnection] = deque()  # the last used at the right end
        self._in_use: set[PooledConnection] = set()
        self._shared: list[PooledConnection] = []
        self._sharing = 0  # those, and those that are to be added
        self._waiters: deque[Waiter] = deque()
        self._open = 0  # places taken: in use, idle, being opened, being closed
        self._opening = 0
        self._closed = False
        self._generation = 0  # connections of an older one are not used again
        self._counters = Counters()
        self._checkouts = 0
        self._connect_failures = 0  # in a row
        self._next_connect = 0.0
        self._last_connect_error: BaseException | None = None
        self._doubted_at = 0.0  # what was not proven alive since then is pinged before its use
        self._is_hopeless = False  # that error is going to last
        self._swept = False
        self._orphans: deque[PooledConnection] = deque()  # appended to without the lock
        self._closing = threading.Event()

    # Leases

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
        return LeaseConnection(Lease(self, con, owner or current_owner(), held, session))

    def connection(self, shareable: bool = True) -> LeaseConnection:
        """A lease that `close()` gives back, as in DBUtils."""
        return self.lease(shareable=shareable)

    def steady_connection(self) -> PooledConnection:
        """A new connection outside the pool, as in DBUtils."""
        return PooledConnection(self.driver, self.config)

    def session(self, readonly: bool, statement_timeout: float | None) -> Session:
        """The session state for these options; None stands for what is configured."""
        if statement_timeout is None:
            return self._reading_session if readonly else self.usual_session
        return Session(readonly, statement_timeout)

    # Checkout

    def acquire(
        self, timeout: float | None = None, session: Session | None = None
    ) -> PooledConnection:
        """A live connection for the caller alone, to be given back with `give_back`."""
        con = None
        with self._lock:
            idle = self._idle
            if idle and not self._waiters:
                con = idle.pop() if idle[-1].session is session else self._pop_idle(session)
                self._in_use.add(con)
                self._checkouts += 1
        now = monotonic()
        if con is not None:
            con.lent_at = now
            # The quick part of _is_fit, for the many checkouts that need no more.
            if now < con.good_until and not con.hung_up():
                return con
        return self._acquire_slowly(con, now, timeout, session)

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

    @property
    def is_down(self) -> bool:
        """Whether the last connect failed."""
        return self._connect_failures > 0

    def _acquire_slowly(
        self,
        con: PooledConnection | None,
        started: float,
        timeout: float | None,
        session: Session | None,
        *,
        needs_up: bool = False,
    ) -> PooledConnection:
        seconds = self.config.acquire_timeout if timeout is None else timeout
        deadline = started + seconds
        self._reclaim_orphans()
        self._start_housekeeping()
        in_front = False
        while True:
            if con is None:
                waiter = Waiter(session, needs_up=needs_up)
                con = self._wait_in_line(waiter, started, deadline, in_front)
            if self._is_fit(con, monotonic(), deadline):
                return con
            self._throw_out_dead(con)
            now = monotonic()
            if now >= deadline and now - started >= _PING_GRACE:
                self._raise_timeout(started, waiting_allowed=True)
            con = None
            in_front = True  # it had its turn, and got a dead connection

    def _wait_in_line(
        self, waiter: Waiter, started: float, deadline: float, in_front: bool
    ) -> PooledConnection:
        with self._lock:
            self._refuse_if_closed()
            self._refuse_if_hopeless()
            refused = (not in_front and self._is_overrun()) or (
                waiter.needs_up and self.is_down and not self._idle
            )
            openers = 0
            if not refused:
                (self._waiters.appendleft if in_front else self._waiters.append)(waiter)
                openers = self._assign()
        if refused:
            self._raise_timeout(started, waiting_allowed=False)
        try:
            self._start_openers(openers)
            waiter.wait(deadline - monotonic())
        except BaseException:
            con = self._withdraw(waiter)
            if con is not None:
                self.give_back(con, None)
            raise
        con = self._withdraw(waiter)
        if con is not None:
            return con
        if waiter.error is not None:
            raise waiter.error
        return self._raise_timeout(started, waiting_allowed=True)

    def _withdraw(self, waiter: Waiter) -> PooledConnection | None:
        """Take a waiter out of the queue; the connection, if it was handed one by then."""
        with self._lock:
            if waiter.con is None and waiter.error is None:
                self._waiters.remove(waiter)
            return waiter.con

    def _is_overrun(self) -> bool:
        """[locked] Whether one more caller would wait beyond what is allowed."""
        if not self._maxconnections:
            return False
        if self._blocking and not self.config.max_waiting:
            return False
        allowed = self.config.max_waiting if self._blocking else 0
        return len(self._in_use) + len(self._waiters) - self._maxconnections >= allowed

    def _pop_idle(self, session: Session | None) -> PooledConnection:
        """[locked] The idle connection used last; one in the right mode, if it is near."""
        idle = self._idle
        readonly = session is not None and session.readonly
        if idle[-1].session.readonly != readonly:
            for place in range(-2, -1 - min(len(idle), 8), -1):
                if idle[place].session.readonly == readonly:
                    con = idle[place]
                    del idle[place]
                    return con
        return idle.pop()

    def _is_fit(self, con: PooledConnection, now: float, deadline: float | None = None) -> bool:
        """Whether a connection that is going out is alive."""
        con.lent_at = now
        if con.hung_up():
            return False
        if now < con.good_until:
            return True
        seconds = self.config.connect_timeout
        if deadline is not None:
            seconds = min(seconds, max(deadline - now, _PING_GRACE))
        try:
            alive = con.is_alive(seconds)
        except BaseException:  # a timeout of the caller's own, in the middle of the ping
            self._discard(con)
            raise
        if not alive and monotonic() - now >= min(self.config.connect_timeout, _SILENCE):
            # Whoever goes next is not to wait for each of them as well.
            self.close_idle(abandon=True)
        con.proven_at = now
        con.lent_at = monotonic()
        return alive

    def _throw_out_dead(self, con: PooledConnection) -> None:
        self.doubt()
        self._discard(con)

    def doubt(self) -> None:
        """A connection was found dead or of no more use: the others may be too."""
        with self._lock:
            self._doubted_at = monotonic()
            for con in self._idle:
                if con.pings_on_checkout:
                    con.good_until = 0.0

    def close_idle(self, *, abandon: bool = False) -> None:
        """Close what is idle at this moment, or abandon it where its server may not listen."""
        with self._lock:
            idle = self._take_out(self._idle)
        self._close_all(idle, abandon=abandon)

    # Return

    def give_back(self, con: PooledConnection, discard: str | None) -> None:
        """Take back a connection that has no transaction open; with a reason, close it instead."""
        if discard is None and self._resets_session:
            try:
                discard = self._reset_session(con)
            except BaseException:
                self._discard(con)
                raise
        now = monotonic()
        openers = 0
        with self._lock:
            try:
                self._in_use.remove(con)
            except KeyError:
                return  # given back before, or opened before a fork
            con.idle_since = now
            if con.proven_at >= self._doubted_at or not con.pings_on_checkout:
                con.good_until = now + con.good_for
            else:
                con.good_until = 0.0
            keep = (
                discard is None
                and con.generation == self._generation
                and now < con.expires_at
                and not (self._maxusage and con.is_worn_out())
                and self._open <= self._open_limit
                and (len(self._idle) < self._idle_limit or self._waiters)
            )
            if keep:
                self._idle.append(con)
                if self._waiters:
                    openers = self._assign()
        if not keep:
            self._discard(con, abandon=discard is not None)
        if openers:
            self._start_openers(openers)

    def cache(self, con: PooledConnection) -> None:
        """Roll back and take back a connection, as in DBUtils."""
        if con not in self._in_use:
            return
        discard: str | None = "its rollback failed"
        try:
            con.roll_back()
            discard = None
        except Exception as error:  # noqa: BLE001  a return never raises
            logger.warning("Rolling back a connection failed (%s)", type(error).__name__)
        finally:
            self.give_back(con, discard)

    def _reset_session(self, con: PooledConnection) -> str | None:
        try:
            return None if con.reset_session() else "only closing it resets its session"
        except Exception as error:  # noqa: BLE001  a return never raises
            return f"resetting its session failed ({type(error).__name__})"

    def _discard(self, con: PooledConnection, *, abandon: bool = True) -> None:
        """Close a connection that is in use, and free its place once it is closed."""
        try:
            con.abandon() if abandon else con.close()
        finally:
            with self._lock:
                self._in_use.discard(con)
                self._counters.discarded += 1
                openers = self._free_place()
            self._start_openers(openers)

    def _free_place(self) -> int:
        """[locked] One place fewer is taken; how many openers are to be started for it."""
        self._open -= 1
        self._returned.notify_all()
        return self._assign()

    def _take_out(self, cons: Iterable[PooledConnection]) -> list[PooledConnection]:
        """[locked] Take connections out of the idle ones, to be closed. They keep their places."""
        out = list(cons)
        for con in out:
            self._idle.remove(con)
        return out

    def _close_all(self, cons: Iterable[PooledConnection], *, abandon: bool = False) -> None:
        left = list(cons)
        try:
            while left:
                self._discard(left.pop(), abandon=abandon)
        finally:
            if left:  # interrupted: none of them is to be forgotten
                self._close_all(left, abandon=True)

    # Who gets what: the one place where waiters, idle connections and free places meet

    def _assign(self) -> int:
        """[locked] Hand idle connections to waiters; the number of openers to be started."""
        if self._closed:
            return 0
        while self._waiters and self._idle:
            waiter = self._waiters.popleft()
            con = self._pop_idle(waiter.session)
            con.lent_at = monotonic()
            self._in_use.add(con)
            self._checkouts += 1
            waiter.settle(con)
        missing = self._mincached - len(self._in_use) - len(self._idle) if self._swept else 0
        if self.is_replica and self.is_down:  # readers pass it by: somebody has to look after it
            missing = max(missing, 1)
        wanted = max(len(self._waiters), missing) - self._opening
        free = self._maxconnections - self._open if self._maxconnections else wanted
        at_once = (1 if self._connect_failures else MAX_OPENING) - self._opening
        openers = max(0, min(wanted, free, at_once))
        self._open += openers
        self._opening += openers
        return openers

    # Opening

    def _start_openers(self, count: int) -> None:
        # Not by the caller: starting a thread waits for it, and a caller may be interrupted there.
        left = count
        try:
            while left > 0:
                left -= 1  # what was called for runs, also when the call is interrupted
                housekeeper.call_later(0.0, self._start_opener)
        except BaseException:
            with self._lock:
                self._opening -= left
                self._open -= left
            raise

    def _start_opener(self) -> None:
        opener = threading.Thread(
            target=self._open_connections, name="flask-pooled-db opener", daemon=True
        )
        try:
            opener.start()
        except RuntimeError as error:  # no more threads to be had
            if self._connect_failed(error, lasts=False):
                housekeeper.call_at(self._next_connect, self._start_opener)

    def _open_connections(self) -> None:
        """Open one connection after the other, as long as somebody wants one."""
        go_on = True
        while go_on and self._await_turn():
            # Up to where others can see the connection, so that a fork finds it there or nowhere.
            with self.driver.fork_guard or contextlib.nullcontext():
                go_on = self._open_one()

    def _open_one(self) -> bool:
        """Try to connect; whether this opener is to go on."""
        generation = self._generation  # what is drained meanwhile is not to be used
        try:
            con = self.steady_connection()
        except BaseException as error:  # noqa: BLE001  it goes to those who wait
            return self._connect_failed(error, lasts=not self.driver.is_transient(error))
        con.generation = generation
        return self._connected(con)

    def _await_turn(self) -> bool:
        """Wait until a connect may be tried; False where nobody wants it any more."""
        while True:
            with self._lock:
                seconds = self._next_connect - monotonic()
                wanted = not self._closed and (seconds <= 0 or bool(self._waiters))
                if self._maxconnections and self._open > self._maxconnections:
                    wanted = False  # the pool was made smaller meanwhile
                if not wanted:
                    self._opening -= 1
                    self._free_place_only()
                    return False
            if seconds <= 0:
                return True
            self._closing.wait(seconds)

    def _connected(self, con: PooledConnection) -> bool:
        self._prepare(con)
        with self._lock:
            self._opening -= 1
            self._counters.connects += 1
            recovered, self._connect_failures = self._connect_failures, 0
            self._last_connect_error = None
            self._is_hopeless = False
            keep = con.generation == self._generation and self._has_room()
            if keep:
                self._idle.append(con)
            openers = self._assign()
        if recovered:
            logger.warning("The database of bind %r is back", self.bind)
        if not keep:
            self._discard(con, abandon=False)
        self._start_openers(openers - 1)
        return openers > 0

    def _has_room(self) -> bool:
        """[locked] Whether a connection more may be kept: the sizes may have changed, and those it
        was opened for may have gone.
        """
        if self._open > self._open_limit:
            return False
        return bool(self._waiters) or len(self._idle) < self._idle_limit

    def _prepare(self, con: PooledConnection) -> None:
        """Work out, once for each connection, what every checkout and return looks at."""
        config = self.config
        if config.max_lifetime:
            share = 1.0 - LIFETIME_JITTER * random.random()
            con.expires_at = con.opened_at + config.max_lifetime * share
        if not con.pings_on_checkout:
            con.good_for = math.inf
        elif not con.has_own_check:
            con.good_for = config.ping_after
        con.proven_at = monotonic()
        con.good_until = con.proven_at + max(con.good_for, _FRESH)

    def _connect_failed(self, error: BaseException, *, lasts: bool) -> bool:
        with self._lock:
            self._opening -= 1
            self._counters.connect_errors += 1
            self._last_connect_error = error
            first = self._connect_failures == 0
            self._connect_failures += 1
            self._next_connect = monotonic() + backoff(self._connect_failures)
            self._is_hopeless = lasts
            for waiter in [waiter for waiter in self._waiters if lasts or waiter.needs_up]:
                self._waiters.remove(waiter)
                waiter.settle(None, self._connect_error(error))
            openers = self._free_place() if self._waiters else self._free_place_only()
        if first:
            logger.warning(
                "Connecting to the database of bind %r failed: %s", self.bind, _name(error)
            )
        self._start_openers(openers - 1)
        return openers > 0

    def _free_place_only(self) -> int:
        """[locked] Where nobody waits for another try: the next sweep makes it."""
        self._open -= 1
        self._returned.notify_all()
        return 0

    def _connect_error(self, cause: BaseException) -> ConnectFailed:
        error = ConnectFailed(
            f"connecting to the database of bind {self.bind!r} failed ({_name(cause)}), and "
            "trying again won't help: look at its credentials and settings"
        )
        error.__cause__ = cause
        return error

    def _raise_timeout(self, started: float, *, waiting_allowed: bool) -> NoReturn:
        with self._lock:
            error = self._timeout_error(started, waiting_allowed=waiting_allowed)
        raise error

    def _timeout_error(self, started: float, *, waiting_allowed: bool) -> PoolTimeout:
        """[locked]"""
        self._counters.timeouts += 1
        stats = self._stats()
        cause = self._last_connect_error
        waited = monotonic() - started
        limit = stats.maxconnections or "an unlimited number"
        what = f"in {waited:.1f} s" if waiting_allowed else "without waiting any more"
        text = (
            f"no connection {what} from the pool of bind {self.bind!r}: of {limit}, "
            f"{stats.in_use} are in use and {stats.idle} idle, {stats.waiting} others wait, "
            f"the longest lease is {stats.longest_lease:.1f} s old"
        )
        if cause is not None:
            text += f"; the last connect failed with {_name(cause)}"
        error = PoolTimeout(
            text,
            bind=self.bind,
            maxconnections=stats.maxconnections,
            in_use=stats.in_use,
            idle=stats.idle,
            waiting=stats.waiting,
            longest_lease=stats.longest_lease,
            waited=waited,
        )
        error.__cause__ = cause
        return error

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
            if not con.hung_up():
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

    def _start_housekeeping(self) -> None:
        with self._lock:
            first, self._swept = not self._swept, True
        if first:
            self._schedule_sweep()

    def _schedule_sweep(self) -> None:
        config = self.config
        times = (config.idle_timeout, config.max_lifetime, config.leak_threshold)
        shortest = min((seconds / 4 for seconds in times if seconds), default=1.0)
        interval = max(0.02, min(shortest, _LONGEST_SWEEP_INTERVAL))
        reference = weakref.ref(self)

        def sweep() -> None:
            pool = reference()
            # A closed one as well, until all has come back: a lease may be lost after the end.
            if pool is not None and (pool._open or not pool._closed):
                try:
                    pool.sweep()
                finally:
                    pool._schedule_sweep()

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
            threading.Thread(
                target=self._close_expired,
                args=(expired,),
                name="flask-pooled-db closer",
                daemon=True,
            ).start()
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

    def stats(self) -> PoolStats:
        """The state of the pool at this moment."""
        with self._lock:
            return self._stats()

    def _stats(self) -> PoolStats:
        """[locked]"""
        counters = self._counters
        oldest = min((con.lent_at for con in self._in_use), default=None)
        return PoolStats(
            open=self._open,
            in_use=len(self._in_use),
            idle=len(self._idle),
            waiting=len(self._waiters),
            maxconnections=self._maxconnections,
            longest_lease=0.0 if oldest is None else max(0.0, monotonic() - oldest),
            checkouts=self._checkouts,
            timeouts=counters.timeouts,
            connects=counters.connects,
            connect_errors=counters.connect_errors,
            discarded=counters.discarded,
            leaked=counters.leaked,
        )

    def drain(self) -> None:
        """Replace every connection: the idle ones now, those in use when they come back."""
        with self._lock:
            self._generation += 1
            idle = self._take_out(self._idle)
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
            self._generation += 1  # nothing that is out comes in again
            for waiter in self._waiters:
                waiter.settle(None, self._closed_error())
            self._waiters.clear()
            idle = self._take_out(self._idle)
            self._share_freed.notify_all()
        self._closing.set()
        self._close_all(idle)
        self._reclaim_orphans()
        deadline = monotonic() + timeout
        with self._lock:
            while self._open and (left := deadline - monotonic()) > 0:
                self._returned.wait(left)
        self.driver.close_all()

    def _refuse_if_hopeless(self) -> None:
        """[locked] Fail at once in the pause after a failure to connect that is going to last,
        unless there is a connection that may come back.
        """
        hopeless = self._is_hopeless and not self._idle and not self._in_use
        if hopeless and self._last_connect_error is not None and monotonic() < self._next_connect:
            raise self._connect_error(self._last_connect_error)

    def _refuse_if_closed(self) -> None:
        """[locked]"""
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(
            f"the pool of bind {self.bind!r} was closed: nothing can be had from it any more"
        )

    def after_fork(self) -> None:
        """Start afresh in a forked child: what the parent opened is the parent's."""
        closed = self._closed
        self._start_afresh()
        self._closed = closed
        self.driver.after_fork()

    def __del__(self) -> None:
        """Nothing: `close()` closes; the drivers' own objects free their sockets."""

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<Pool {self.bind!r} of {self.driver.name}: {stats.in_use} in use, "
            f"{stats.idle} idle, {stats.waiting} waiting, at most {stats.maxconnections}>"
        )


def _name(error: BaseException) -> str:
    """An error's class and number: its text may hold anything, a password too."""
    number = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    suffix = f" {number}" if isinstance(number, int) else ""
    return f"{type(error).__name__}{suffix}"


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_warned_of_fork = False
_fork_guards: list[threading.Lock] = []


def _before_fork() -> None:
    global _warned_of_fork  # noqa: PLW0603  one warning a process
    pools = list(_pools)
    opened = sum(pool._open for pool in pools)
    if opened and not _warned_of_fork:
        _warned_of_fork = True
        logger.warning(
            "Forking with %d open database connections: the child leaves them to its parent and "
            "opens its own. Connect after the fork to save them",
            opened,
        )
    for pool in pools:
        guard = pool.driver.fork_guard
        if guard is not None:
            guard.acquire()
            _fork_guards.append(guard)
            pool.close_idle()


def _after_fork_in_parent() -> None:
    while _fork_guards:
        _fork_guards.pop().release()


def _after_fork_in_child() -> None:
    _fork_guards.clear()
    disown_connections()
    for pool in list(_pools):
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def close_pools() -> None:
    """Close every pool of this process and end the housekeeping thread."""
    for pool in list(_pools):
        with contextlib.suppress(Exception):
            pool.close()
    housekeeper.stop()


atexit.register(close_pools)
