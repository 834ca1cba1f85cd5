"""The engine of a pool: checkout and return, opening and closing.

Every change of state is made under one lock, in a few steps, without I/O, callbacks or logging;
what is to be opened or closed then is done outside of it. A connection keeps its place among
`maxconnections` from before it is opened until after it is closed.
"""

from __future__ import annotations

import functools
import logging
import math
import random
import threading
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import NoReturn

from dbutils.pooled_db import PooledDB

from flask_pooled_db.config import DEFAULT_BIND, PoolConfig
from flask_pooled_db.connection import PooledConnection
from flask_pooled_db.drivers import Driver, Session
from flask_pooled_db.errors import ConnectFailed, PoolClosed, PoolTimeout
from flask_pooled_db.housekeeping import housekeeper
from flask_pooled_db.interrupter import Interrupter
from flask_pooled_db.servers import backoff
from flask_pooled_db.stats import Counters, PoolStats
from flask_pooled_db.threads import workers

logger = logging.getLogger("flask_pooled_db")

MAX_OPENING = 3
"""How many connects of a pool are under way at the same time. A burst of callers is better served
by connections that come back than by as many new ones."""

LIFETIME_JITTER = 0.1
"""The part of `max_lifetime` by which lifetimes differ, so that not all expire at once."""

_FRESH = 1.0
"""Seconds after connecting in which no check is made: the server has just answered. A check that
always fails then costs a connect a lease, and no storm of them."""

_PING_GRACE = 0.1
"""Seconds that a ping has, also for a caller who said to wait less: a server that is well answers
in them, and without a ping a caller with no time would never get a connection that had a rest."""

_SILENCE = 1.0
"""Seconds without an answer to a ping that condemn the other idle connections too. A caller with
less time than that gives up without a verdict on them."""

_HANG_GRACE = 1.0
"""Seconds after its time limit that a connect has to come back in. One that does not hangs in its
driver, out of our reach: its place is freed, and another one is tried."""


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


class Attempt:
    """A connect under way; the pool's lock guards it."""

    __slots__ = ("generation", "is_late", "thread")

    def __init__(self, generation: int) -> None:
        self.generation = generation  # what is drained meanwhile is not to be used
        self.thread = threading.current_thread()
        self.is_late = False  # it hangs, and holds no place any more


class Engine(PooledDB):  # type: ignore[misc]
    """Connections and who gets them: what of DBUtils' `PooledDB` knows nothing of leases."""

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
        self.is_replica = False
        self.interrupter = Interrupter(driver, config.connect_timeout)
        self._set_limits()
        self._start_engine()

    def _set_limits(self) -> None:
        self._open_limit = self._maxconnections or math.inf
        self._idle_limit = self._maxcached or math.inf

    def _start_engine(self) -> None:
        """The state of an engine that has opened nothing yet."""
        self._lock = threading.Lock()  # guards all of the following
        self._returned = threading.Condition(self._lock)
        self._idle: deque[PooledConnection] = deque()  # the last used at the right end
        self._in_use: set[PooledConnection] = set()
        self._waiters: deque[Waiter] = deque()
        self._open = 0  # places taken: in use, idle, being opened, being closed
        self._opening = 0
        self._late = 0  # connects that hang: they hold no place, and count among those at once
        self._closed = False
        self._generation = 0  # what was being opened in an older one is not used
        self._counters = Counters()
        self._checkouts = 0
        self._connect_failures = 0  # in a row
        self._next_connect = 0.0
        self._last_connect_error: BaseException | None = None
        self._is_hopeless = False  # that error is going to last
        self._is_tended = False  # the background sees to `mincached`
        self._closing = threading.Event()

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
            if now < con.good_until and not con.look():
                return con
        return self._acquire_slowly(con, now, timeout, session)

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
        self._tend()
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

    def _tend(self) -> None:
        """What is seen to on the way by a checkout that takes its time."""

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
                self.give_back(con, None, untouched=True)
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
        return bool(len(self._in_use) + len(self._waiters) - self._maxconnections >= allowed)

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
        seen = con.look()
        if seen > 0:
            return False
        if not seen and now < con.good_until:
            return True
        seconds = self.config.connect_timeout
        if deadline is not None:
            seconds = min(seconds, max(deadline - now, _PING_GRACE))
        con.is_doubted = False
        try:
            alive = con.is_alive(seconds)
        except BaseException:  # a timeout of the caller's own, in the middle of the ping
            self._discard(con)
            raise
        if not alive and monotonic() - now >= min(self.config.connect_timeout, _SILENCE):
            # Whoever goes next is not to wait for each of them as well.
            self.close_idle(abandon=True)
        con.lent_at = monotonic()
        return alive

    def _throw_out_dead(self, con: PooledConnection) -> None:
        self.doubt()
        self._discard(con)

    def doubt(self) -> None:
        """A connection was found dead or of no more use: the others may be too."""
        with self._lock:
            for con in (*self._idle, *self._in_use):
                if con.pings_on_checkout:
                    con.is_doubted = True
                    con.good_until = 0.0

    def close_idle(self, *, abandon: bool = False) -> None:
        """Close what is idle at this moment, or abandon it where its server may not listen."""
        with self._lock:
            idle = self._take_out(self._idle)
        self._close_all(idle, abandon=abandon)

    # Return

    def give_back(
        self, con: PooledConnection, discard: str | None, untouched: bool = False
    ) -> None:
        """Take back a connection that has no transaction open; with a reason, close it instead.
        `untouched`: nothing was done with it.
        """
        if discard is None and self._resets_session and not untouched:
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
            con.good_until = 0.0 if con.is_doubted else now + con.good_for
            keep = (
                discard is None
                and now < con.expires_at
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

    def _retire_all(self) -> list[PooledConnection]:
        """[locked] Have nothing that is open or being opened used again; what is to be closed."""
        self._generation += 1
        for con in self._in_use:
            con.expires_at = 0.0
        return self._take_out(self._idle)

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
        missing = self._mincached - len(self._in_use) - len(self._idle) if self._is_tended else 0
        if self.is_replica and self.is_down:  # readers pass it by: somebody has to look after it
            missing = max(missing, 1)
        wanted = max(len(self._waiters), missing) - self._opening
        free = self._maxconnections - self._open if self._maxconnections else wanted
        most = min(1 if self._connect_failures else MAX_OPENING, MAX_OPENING - self._late)
        openers = max(0, min(wanted, free, most - self._opening))
        self._open += openers
        self._opening += openers
        return openers

    # Opening

    def steady_connection(self) -> PooledConnection:
        """A new connection outside the pool, as in DBUtils."""
        with workers.connecting():
            return PooledConnection(self.driver, self.config)

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
        try:
            workers.start("opener", self._open_connections)
        except RuntimeError as error:  # no more threads to be had
            if self._connect_failed(error, Attempt(self._generation)):
                housekeeper.call_at(self._next_connect, self._start_opener)

    def _open_connections(self) -> None:
        """Open one connection after the other, as long as somebody wants one."""
        go_on = True
        while go_on and self._await_turn():
            # Up to where others can see the connection, so that a fork finds it there or nowhere.
            with workers.connecting():
                go_on = self._open_one()

    def _open_one(self) -> bool:
        """Try to connect; whether this opener is to go on."""
        attempt = Attempt(self._generation)
        seconds = self.config.connect_timeout * len(self.driver.servers) + _HANG_GRACE
        give_up = functools.partial(self._give_up_on, attempt)
        try:
            with housekeeper.bounded(seconds, give_up):
                con = PooledConnection(self.driver, self.config)
        except BaseException as error:  # noqa: BLE001  it goes to those who wait
            lasts = not self.driver.is_transient(error)
            return self._connect_failed(error, attempt, lasts=lasts)
        return self._connected(con, attempt)

    def _give_up_on(self, attempt: Attempt) -> None:
        """Free the place of a connect that hangs, and try another one."""
        workers.give_up_on(attempt.thread)
        error = TimeoutError("a connect did not return by its time limit: it hangs in its driver")
        if self._connect_failed(error, attempt, hangs=True):
            self._start_openers(1)

    def _await_turn(self) -> bool:
        """Wait until a connect may be tried; False where nobody wants it any more."""
        while True:
            with self._lock:
                seconds = self._next_connect - monotonic()
                needless = seconds > 0 or workers.is_forking
                wanted = not self._closed and (not needless or bool(self._waiters))
                if self._maxconnections and self._open > self._maxconnections:
                    wanted = False  # the pool was made smaller meanwhile
                if not wanted:
                    self._opening -= 1
                    self._free_place_only()
                    return False
            if seconds <= 0:
                return True
            with workers.resting():
                self._closing.wait(seconds)

    def _finish(self, attempt: Attempt) -> None:
        """[locked] Take note that a connect has come back."""
        if attempt.is_late:
            self._late -= 1
            self._open += 1  # for as long as it takes to see whether it is of use
        else:
            self._opening -= 1

    def _connected(self, con: PooledConnection, attempt: Attempt) -> bool:
        self._prepare(con)
        with self._lock:
            self._finish(attempt)
            self._counters.connects += 1
            recovered, self._connect_failures = self._connect_failures, 0
            self._last_connect_error = None
            self._is_hopeless = False
            keep = attempt.generation == self._generation and self._has_room()
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
        if self._closed or self._open > self._open_limit:
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
        con.good_until = monotonic() + max(con.good_for, _FRESH)

    def _connect_failed(
        self, error: BaseException, attempt: Attempt, *, lasts: bool = False, hangs: bool = False
    ) -> bool:
        with self._lock:
            if hangs:
                attempt.is_late = True
                self._late += 1
                self._opening -= 1
            else:
                self._finish(attempt)
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

    # What it says of itself

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


def _name(error: BaseException) -> str:
    """An error's class and number: its text may hold anything, a password too."""
    number = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    suffix = f" {number}" if isinstance(number, int) else ""
    return f"{type(error).__name__}{suffix}"
