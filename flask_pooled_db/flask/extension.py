"""The extension: `PooledDB`, and the two ways to a connection."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack
from urllib.parse import quote

from flask import Flask
from werkzeug.exceptions import ServiceUnavailable

from flask_pooled_db.config import (
    DEFAULT_OPTIONS,
    Rows,
    ScopeKeywords,
    check_flag,
    check_seconds,
    options_of,
    read_app,
    signature_with_options,
)
from flask_pooled_db.errors import DeadlineExceeded, PooledDBError, PoolTimeout, UsageError
from flask_pooled_db.flask import commands, context
from flask_pooled_db.flask.binds import ByName
from flask_pooled_db.flask.context import CURRENT, AppState, current, current_context
from flask_pooled_db.flask.deadlines import bound_requests
from flask_pooled_db.flask.keeper import Keeper
from flask_pooled_db.flask.numbers import AppNumbers, location_of
from flask_pooled_db.flask.observed import Observed
from flask_pooled_db.flask.observing import Watch, telemetry_of
from flask_pooled_db.flask.ordered import carry_out
from flask_pooled_db.flask.pools import PoolMaker
from flask_pooled_db.flask.statements import Statements
from flask_pooled_db.host import Publisher
from flask_pooled_db.lease.after_commit import Call
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.retry import run_in_transaction
from flask_pooled_db.lease.scope import Scope, enclosing_lease
from flask_pooled_db.pool import Budget
from flask_pooled_db.pool.ageing import registries
from flask_pooled_db.pool.registry import Registry
from flask_pooled_db.runtime import reporter

logger = logging.getLogger("flask_pooled_db")

LONGEST_RETRY_AFTER = 10.0
"""Seconds after which a client is asked to try again, at most, while the database is away."""

T = TypeVar("T")


def db_connection_context(bind: str | None = None, **options: Unpack[ScopeKeywords]) -> Scope:
    """Return a block that is a transaction on a pooled connection; it yields the connection.

    Left normally it commits, left by an exception it rolls back; the connection always goes back.
    A block inside a block of the same bind, in the same thread, task or greenlet, is a part of
    that one's transaction, under a savepoint.

    - `bind`: which database; None is the default one.
    - `readonly`: autocommit reads; a write fails on the server.
    - `timeout`: seconds to wait for a connection.
    - `statement_timeout`: seconds that each statement may run on the server; 0: no limit.
    - `isolation_level`: of this transaction alone, for example "SERIALIZABLE".
    - `savepoint`: with False, a nested block has none: an exception that leaves it aborts the
      outer transaction.
    - `independent`: take a connection of its own even inside another block.
    - `rows`: what the rows of this block's cursors are: "tuple", "dict", "namedtuple", or what a
      function makes of a cursor's description and a row; None: as POOLED_DB_ROWS says.

    Raises `PoolTimeout`, `ConnectFailed` or `PoolClosed` on entry, `TransactionAborted` at the end
    of a transaction that was lost, `CommitOutcomeUnknown` when the answer to COMMIT was lost, and
    otherwise the driver's errors as they are.
    """
    asked = options_of("db_connection_context", options) if options else DEFAULT_OPTIONS
    try:  # as `current()` does after the first time in a context: a call takes longer
        state, leases = current_context.get().g.__dict__[CURRENT]
    except LookupError:
        state, leases = current()
    try:
        engine = state.engines[bind]
    except (KeyError, TypeError):  # it is not open, or can't be looked up
        engine = None
    return Scope(engine or state.engine(bind), leases, asked)


db_connection_context.__signature__ = signature_with_options(  # type: ignore[attr-defined]
    db_connection_context
)


def get_db_connection(
    bind: str | None = None,
    *,
    timeout: float | None = None,
    shareable: bool = False,
    rows: Rows | None = None,
) -> LeaseConnection:
    """Return a pooled connection for code that opens and closes connections itself.

    `close()` gives it back, and what was not committed is rolled back; on SQLite, that is what
    sqlite3 itself would not have stored. If it was not closed by the end of the app context it is
    taken back then, with a warning. `shareable`: it may be shared with other threads, if the driver
    can do that and POOLED_DB_MAXSHARED allows it. `rows`: as of `db_connection_context()`.
    """
    check_flag("shareable", shareable)
    state, leases = current()
    return state.lease(
        bind, current_owner(), leases, timeout=timeout, shareable=shareable, rows=rows
    )


class PooledDB(ByName, Statements, Observed):
    """The extension: a pool of database connections for each bind of each app.

    `PooledDB(app)`, or `PooledDB()` and `init_app(app)` later; one object may serve several apps.
    Nothing connects before the first connection is asked for. Its methods work for the current app
    or, without an app context, for the only app that it serves.
    """

    def __init__(self, app: Flask | None = None) -> None:
        super().__init__()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the `POOLED_DB_` keys of `app.config`, make the pools, register the hooks.

        Raises `ConfigError` naming everything that is wrong with the configuration.
        """
        if context.EXTENSION in app.extensions:
            raise UsageError(f"PooledDB is initialised on {app!r} already: do it once")
        state = self._state_of(app)
        app.extensions[context.EXTENSION] = state
        self.states.add(state)
        context.register(app)
        if seconds := state.registry.config.request_deadline:
            bound_requests(app, seconds)
        app.cli.add_command(commands.group)
        for kind in (PoolTimeout, DeadlineExceeded):
            if kind not in app.error_handler_spec[None][None]:
                app.register_error_handler(kind, functools.partial(_answer_503, app))

    def run_transaction(
        self,
        fn: Callable[..., T],
        *args: Any,
        attempts: int = 3,
        bind: str | None = None,
        **kwargs: Any,
    ) -> T:
        """Call `fn(conn, *args, **kwargs)` in a transaction and return what it returns.

        The whole is started over, up to `attempts` times in all, on a deadlock, a serialization
        failure, a lock wait timeout, and when the connection was lost before COMMIT was sent. So
        `fn` must do nothing outside of the database that cannot be done twice. It is never started
        over after a COMMIT whose answer was lost (`CommitOutcomeUnknown`). Inside another scope it
        is a nested scope, and the transaction is the outer scope's to start over.

        Before each further attempt it pauses: for a random time, up to 20 ms, doubled each time, up
        to 0.5 s. All pauses together take no longer than POOLED_DB_ACQUIRE_TIMEOUT: the error is
        raised when the next one does not fit any more.
        """
        return run_in_transaction(
            functools.partial(self.connection_context, bind),
            lambda conn: fn(conn, *args, **kwargs),
            attempts,
        )

    async def run_transaction_async(
        self,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        attempts: int = 3,
        bind: str | None = None,
        **kwargs: Any,
    ) -> T:
        """Await `fn(conn, *args, **kwargs)` in an `async_connection_context()` and return what it
        returns. It is started over as by `run_transaction()`.
        """
        from flask_pooled_db.lease import aio  # noqa: PLC0415  asyncio takes its time

        return await aio.run_in_transaction(
            functools.partial(self.async_connection_context, bind),
            lambda conn: fn(conn, *args, **kwargs),
            attempts,
        )

    def on_commit(self, function: Callable[[], object], bind: str | None = None) -> None:
        """Have a function called, without arguments, when the current scope's work is committed.

        It is called once, after the outermost scope's COMMIT was acknowledged and its connection
        given back; never if its work is rolled back. Outside a scope of this bind it is called at
        once. What it raises is logged. See `conn.on_commit()`.
        """
        lease = enclosing_lease(self.here()[0].engine(bind))
        if lease is None:
            Call.of(function).make()
        else:
            lease.on_commit(function)

    def close(self, timeout: float = 0.0) -> None:
        """Close the pools of all apps in this process; leases get `timeout` seconds to end."""
        check_seconds("timeout", timeout)
        for state in self.states.members():
            state.numbers.collect()  # of binds that are gone afterwards
            for pool in state.registry.close():
                pool.close(timeout)
            if state.publisher is not None:
                state.publisher.end()
            if state.watch.telemetry is not None:
                state.watch.telemetry.flush()

    def _state_of(self, app: Flask) -> AppState:
        """Return the pools of an app, as its configuration has them, and what observes them."""
        problems: list[str] = []
        config = read_app(app.config, f"sqlite:///{quote(app.name)}.sqlite", problems)
        limit = config.binds_maxconnections
        telemetry = telemetry_of(config.otel, problems)
        watch = Watch(app, config.record_statements, telemetry)
        watch.seen.wants_usage = app in self.counting
        numbers, publisher = AppNumbers(app.name, watch.seen), None
        if config.runtime_dir != "":
            folders = app.root_path, app.instance_path
            place = location_of(app.name, folders, config.runtime_dir)
            publisher = Publisher(place, numbers, functools.partial(carry_out, numbers))
            watch.in_use = publisher.begin
        maker = PoolMaker(config, app.instance_path, Budget(limit) if limit else None, watch)
        pools = maker.fixed_pools(problems)
        registry = Registry(
            pools,
            Keeper(watch.teller, self, maker, watch.seen.binds),
            config,
            tend=registries.begin,
        )
        registries.add(registry)
        numbers.registry, registry.settled = registry, numbers.settle
        if telemetry is not None:
            telemetry.read_from(numbers)
        return AppState(registry, self, app.root_path, watch, numbers, publisher)


def _answer_503(app: Flask, error: PoolTimeout | DeadlineExceeded) -> Any:
    """Answer Service Unavailable, unless the app handles `PooledDBError` or 503 itself."""
    reporter.tell(logger.warning, "Answering 503: %s", error)
    own = app.error_handler_spec[None][None].get(PooledDBError)
    if own is not None:
        return app.ensure_sync(own)(error)
    if isinstance(error, PoolTimeout):
        wait = max(error.waited, min(error.outage, LONGEST_RETRY_AFTER))
    else:
        wait = min(error.seconds, LONGEST_RETRY_AFTER)
    seconds = max(1, math.ceil(wait))
    return app.handle_http_exception(
        ServiceUnavailable("The database is busy or away. Please try again.", retry_after=seconds)
    )
