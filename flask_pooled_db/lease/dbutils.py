"""DBUtils' face: its `PooledDB`, in front of an engine that knows nothing of DBUtils."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from time import monotonic
from typing import Any

from dbutils.pooled_db import PooledDB

from flask_pooled_db.config import (
    DEFAULT_BIND,
    PoolConfig,
    Rows,
    check_count,
    check_rows,
    check_seconds,
    shown,
)
from flask_pooled_db.drivers import Driver, Session
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.borrowed import BorrowedLease, borrowed_class
from flask_pooled_db.lease.deadline import around, time_to_wait
from flask_pooled_db.lease.holdings import explain
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.shaping import shape_rows
from flask_pooled_db.lease.shared import SharedLease
from flask_pooled_db.lease.sharing import Sharing
from flask_pooled_db.lease.whereabouts import whereabouts_of
from flask_pooled_db.pool import Budget, Counters, Engine, Entry, PoolStats
from flask_pooled_db.pool.state import Sizes
from flask_pooled_db.pool.timed import TimedEngine
from flask_pooled_db.pool.upkeep import upkeep
from flask_pooled_db.pool.watchers import UNWATCHED, Watchers
from flask_pooled_db.runtime import refuse_to_pickle


class Pool(PooledDB):  # type: ignore[misc]
    """DBUtils' `PooledDB`, without waiting for the network while others wait for the pool.

    `connection()`, `dedicated_connection()`, `steady_connection()`, `unshare()`, `cache()` and
    `close()` are DBUtils'. Nothing is opened before the first of them is called.
    """

    __reduce_ex__ = refuse_to_pickle("a pool", "another process has one of its own, use that")

    def __init__(
        self,
        config: PoolConfig,
        driver: Driver,
        *,
        bind: str = DEFAULT_BIND,
        clock: Callable[[], float] = monotonic,
        key: object = None,
        budget: Budget | None = None,
        watchers: Watchers = UNWATCHED,
    ) -> None:
        """`key` is equal for pools of the same database, one after the other; `budget` is the limit
        of several pools together.
        """
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
        self.counters = Counters()
        in_use = watchers.in_use
        kind = Engine if watchers.checkouts is None else TimedEngine
        self.engine = kind(
            config,
            driver,
            bind=bind,
            clock=clock,
            tend=upkeep.tend if in_use is None else functools.partial(_tend, in_use),
            key=key,
            budget=budget,
            watchers=watchers._replace(events=(self.counters, *watchers.events)),
        )
        self.engine.leaks.locate = whereabouts_of
        upkeep.add(self.engine)
        self.sharing: Sharing[SharedLease] | None = None
        if config.maxshared and driver.threadsafety > 1:
            self.sharing = Sharing(self.engine, config.maxshared)
        elif config.maxshared:
            warnings.warn(
                f"POOLED_DB_MAXSHARED has no effect: the connections of {driver.name} can't be "
                f"shared between threads ({driver.why_not_shared})",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def config(self) -> PoolConfig:
        """What the pool was made from."""
        return self.engine.terms.config

    @property
    def driver(self) -> Driver:
        """The driver that opens its connections."""
        return self.engine.terms.driver

    @property
    def bind(self) -> str:
        """The name of its database."""
        return self.engine.terms.bind

    def lease(
        self,
        owner: Any = None,
        holder: Leases | None = None,
        *,
        timeout: float | None = None,
        shareable: bool = False,
        session: Session | None = None,
        rows: Rows | None = None,
        kind: type[BorrowedLease] = BorrowedLease,
    ) -> LeaseConnection:
        """Return a lease of a connection; `holder` holds it until it is released. `rows` is the
        shape of its rows (None: as configured), and `kind` is the class of one that is not shared.

        Raises `PoolTimeout` after `timeout` seconds (None: as configured), `ConnectFailed`, or
        `PoolClosed`.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        if rows is not None:
            check_rows("rows", rows)
        engine, home = self.engine, self.sharing
        session = session or engine.usual_session
        holder = Leases() if holder is None else holder
        owner = owner or current_owner()
        is_bounded = bool(around.get())
        if is_bounded:
            timeout = time_to_wait(timeout, engine.patience)
        try:
            if shareable and home is not None:
                entry = home.acquire(timeout)
                made: type[BorrowedLease] = borrowed_class(SharedLease, entry, engine)
                lease = made(home, entry, owner, holder, session)
            else:
                entry = engine.acquire(timeout, session)
                made = borrowed_class(kind, entry, engine)
                lease = made(engine, entry, owner, holder, session)
        except PoolTimeout as error:
            explain(error, engine, holder)
            raise
        if rows is not None:
            shape_rows(lease, rows)
        if is_bounded:
            lease.watch_time()
        return lease

    # As in DBUtils

    def connection(self, shareable: bool = True) -> LeaseConnection:
        """Return a lease that `close()` gives back."""
        return self.lease(shareable=shareable)

    def steady_connection(self) -> LeaseConnection:
        """Return a connection outside of the pool; `close()` closes it."""
        engine = self.engine
        entry = engine.open_outside()
        home = Outside(engine)
        made = borrowed_class(BorrowedLease, entry, engine)
        return made(home, entry, current_owner(), Leases(), engine.usual_session)

    def cache(self, con: LeaseConnection) -> None:
        """Roll back and take back a lease."""
        con.close()

    def unshare(self, con: LeaseConnection) -> None:
        """Take back one lease of a shared connection."""
        con.close()

    def close(self, timeout: float = 0.0) -> None:
        """Lend nothing more, wait up to `timeout` seconds for leases, close all connections.

        Callers that wait get `PoolClosed`. A lease that is still out goes on undisturbed; its
        connection is closed when it is returned.
        """
        check_seconds("timeout", timeout)
        self.engine.close(timeout)
        if self.sharing is not None:
            self.sharing.notify()

    # Beyond DBUtils

    def end(self, **how: Any) -> bool:
        """Close it like `close()`, without waiting, and under the conditions of `Engine.close()`.
        Returns whether it did.
        """
        is_closed = self.engine.close(**how)
        if self.sharing is not None:
            self.sharing.notify()
        return is_closed

    def drain(self) -> None:
        """Replace every connection: the idle ones now, those in use when they are returned."""
        self.engine.supply.drain()

    def resize(self, mincached: int, maxcached: int, maxconnections: int) -> None:
        """Change the sizes (0: no limit, as configured). Leases beyond them end in peace."""
        sizes = {"mincached": mincached, "maxcached": maxcached, "maxconnections": maxconnections}
        for name, size in sizes.items():
            check_count(name, size)
        checked = PoolConfig.from_mapping(
            {"CREATOR": self.driver, **{name.upper(): size for name, size in sizes.items()}}
        )
        self.engine.supply.resize(
            Sizes(checked.mincached, checked.maxcached, checked.maxconnections)
        )

    def stats(self) -> PoolStats:
        """Return the state of the pool at this moment."""
        self.engine.forget_gone()
        state, supply = self.engine.state, self.engine.supply
        with state.lock:
            now = state.snapshot_locked(self.engine.terms.clock())
            return PoolStats(
                **now._asdict(),
                mincached=supply.sizes.mincached,
                maxcached=supply.sizes.maxcached,
                use_time=state.use_times_locked(),
                **self.counters.taken_locked(state.taken_at_once_locked()),
            )

    @property
    def open_connections(self) -> int:
        """How many places among `maxconnections` are taken."""
        return self.engine.state.places.taken

    def __del__(self) -> None:
        """Do nothing: `close()` closes, and upkeep closes what a pool that is garbage left."""

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<Pool {shown(self.bind)} of {self.driver.name}: {stats.in_use} in use, "
            f"{stats.idle} idle, {stats.waiting} waiting, at most {stats.maxconnections}>"
        )


def _tend(in_use: Callable[[], object], engine: Engine) -> None:
    upkeep.tend(engine)
    in_use()


class Outside:
    """The home of a lease whose connection belongs to no pool: it is closed."""

    def __init__(self, engine: Engine) -> None:
        self.terms = engine.terms
        self.interrupter = engine.interrupter

    def release(self, entry: Entry, unused: bool = False) -> None:
        """Close the connection."""
        entry.end()

    def invalidate(self) -> None:
        """Do nothing: this connection says nothing of the pool's."""
