"""The Flask side: configuration, the app context's leases, and what a client is answered."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from flask import Flask, g, request
from flask.globals import app_ctx
from werkzeug.exceptions import ServiceUnavailable

from flask_pooled_db.config import DEFAULT_BIND, parse_url, read_binds
from flask_pooled_db.dbapi import LeaseConnection
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.errors import ConfigError, PooledDBError, PoolTimeout, UsageError
from flask_pooled_db.lease import Held
from flask_pooled_db.ownership import current_owner, is_running
from flask_pooled_db.pool import Pool
from flask_pooled_db.stats import PoolStats
from flask_pooled_db.transaction import Scope, run_in_transaction

logger = logging.getLogger("flask_pooled_db")

T = TypeVar("T")

_NAME = "pooled_db"
_CURRENT = "_pooled_db"
_ENDPOINT = "_pooled_db_endpoint"


class _State:
    """What the extension keeps of one app: its pools by bind name."""

    def __init__(self, pools: dict[str, Pool]) -> None:
        self.pools = pools

    def pool(self, bind: str | None) -> Pool:
        try:
            return self.pools[bind or DEFAULT_BIND]
        except KeyError:
            raise UsageError(self._unknown(bind)) from None

    def _unknown(self, bind: str | None) -> str:
        known = ", ".join(repr(name) for name in self.pools)
        if bind is None:
            return f"there is no default database: set POOLED_DB_URL, or name a bind ({known})"
        return f"there is no bind {bind!r} in POOLED_DB_BINDS: these are known: {known}"


class PooledDB:
    """The extension: a pool of database connections for each bind of each app.

    `PooledDB(app)`, or `PooledDB()` and `init_app(app)` later; one object may serve several apps.
    Nothing connects before the first connection is asked for.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._states: weakref.WeakSet[_State] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the `POOLED_DB_` keys of `app.config`, make the pools, register the hooks.

        Raises `ConfigError` naming everything that is wrong with the configuration.
        """
        if _NAME in app.extensions:
            raise UsageError(f"PooledDB is initialised on {app!r} already: do it once")
        state = _State(_make_pools(app))
        app.extensions[_NAME] = state
        self._states.add(state)
        app.teardown_request(_note_endpoint)
        app.teardown_appcontext(_release_all)
        _release_whatever_happens(app)
        if PoolTimeout not in app.error_handler_spec[None][None]:
            app.register_error_handler(PoolTimeout, functools.partial(_answer_503, app))

    def connection_context(
        self,
        bind: str | None = None,
        *,
        readonly: bool = False,
        timeout: float | None = None,
        statement_timeout: float | None = None,
        isolation_level: str | None = None,
        savepoint: bool = True,
        independent: bool = False,
    ) -> Scope:
        """`db_connection_context()`, as a method."""
        return db_connection_context(
            bind,
            readonly=readonly,
            timeout=timeout,
            statement_timeout=statement_timeout,
            isolation_level=isolation_level,
            savepoint=savepoint,
            independent=independent,
        )

    def run_transaction(
        self,
        fn: Callable[..., T],
        *args: Any,
        attempts: int = 3,
        bind: str | None = None,
        **kwargs: Any,
    ) -> T:
        """Call `fn(conn, *args, **kwargs)` in a transaction and return what it returns.

        The whole is started over, `attempts` times in all, on a deadlock, a serialization failure,
        a lock wait timeout, and when the connection was lost before COMMIT was sent: `fn` must do
        nothing that can't be done twice, but in the database. It is never started over after a
        COMMIT whose answer was lost (`CommitOutcomeUnknown`). Inside another scope it is a nested
        scope, and the transaction is the outer one's to start over.
        """
        return run_in_transaction(
            functools.partial(db_connection_context, bind),
            lambda conn: fn(conn, *args, **kwargs),
            attempts,
        )

    def pool(self, bind: str | None = None) -> Pool:
        """The pool of a bind of the current app."""
        return _current()[0].pool(bind)

    def stats(self, bind: str | None = None) -> PoolStats:
        """What the pool of a bind of the current app, in this process, is doing."""
        return self.pool(bind).stats()

    def close(self, timeout: float = 0.0) -> None:
        """Close the pools of all apps in this process; leases get `timeout` seconds to end."""
        for state in list(self._states):
            for pool in state.pools.values():
                pool.close(timeout)


def db_connection_context(
    bind: str | None = None,
    *,
    readonly: bool = False,
    timeout: float | None = None,
    statement_timeout: float | None = None,
    isolation_level: str | None = None,
    savepoint: bool = True,
    independent: bool = False,
) -> Scope:
    """A block that is a transaction on a pooled connection; it yields the connection.

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
    - `independent`: take a connection of its own also inside another block.

    Raises `PoolTimeout`, `ConnectFailed` or `PoolClosed` on entry, `TransactionAborted` at the end
    of a transaction that was lost, `CommitOutcomeUnknown` when the answer to COMMIT was lost, and
    otherwise the driver's errors as they are.
    """
    # The quick way, for all but the first of an app context; else as in _current().
    state, held = g._get_current_object().__dict__.get(_CURRENT) or _current()
    return Scope(
        state.pools.get(bind or DEFAULT_BIND) or state.pool(bind),
        held,
        readonly,
        timeout,
        statement_timeout,
        isolation_level,
        savepoint,
        independent,
    )


def get_db_connection(
    bind: str | None = None, *, timeout: float | None = None, shareable: bool = False
) -> LeaseConnection:
    """A pooled connection for code that opens and closes connections itself.

    `close()` gives it back, and what was not committed is rolled back. One that was not closed by
    the end of the app context is taken back then, with a warning. `shareable`: it may be shared
    with other threads, where the driver can do that and POOLED_DB_MAXSHARED allows it.
    """
    state, held = _current()
    return state.pool(bind).lease(current_owner(), held, timeout=timeout, shareable=shareable)


def _current() -> tuple[_State, Held]:
    """The current app's state, and the leases that the current app context holds."""
    context = app_ctx._get_current_object()  # type: ignore[attr-defined]
    kept = context.g.__dict__
    current: tuple[_State, Held] | None = kept.get(_CURRENT)
    if current is None:
        state = context.app.extensions.get(_NAME)
        if state is None:
            raise UsageError(
                f"PooledDB is not initialised on {context.app!r}: call init_app(app) in its factory"
            )
        # One for all threads that share the context.
        current = kept.setdefault(_CURRENT, (state, Held()))
    return current


def _make_pools(app: Flask) -> dict[str, Pool]:
    problems: list[str] = []
    default_url = f"sqlite:///{quote(str(Path(app.instance_path) / app.name))}.sqlite"
    configs = read_binds(app.config, default_url, problems)
    drivers = {}
    for bind, config in configs.items():
        try:
            drivers[bind] = make_driver(config)
        except ConfigError as error:
            where = "POOLED_DB" if bind == DEFAULT_BIND else f"POOLED_DB_BINDS[{bind!r}]"
            problems += [f"{where}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    if any(config.url == parse_url(default_url) for config in configs.values()):
        with contextlib.suppress(OSError):  # connecting will say what is wrong
            Path(app.instance_path).mkdir(parents=True, exist_ok=True)
    pools = {bind: Pool(configs[bind], driver, bind=bind) for bind, driver in drivers.items()}
    for pool in pools.values():
        if pool.config.replica is not None:
            pool.replica = pools[pool.config.replica]
            pool.replica.is_replica = True
    return pools


def _note_endpoint(exc: BaseException | None) -> None:
    """Keep the endpoint for `_release_all`, which runs when the request is no longer there."""
    current = g.get(_CURRENT)
    if current is not None and current[1]:
        setattr(g, _ENDPOINT, request.endpoint)


def _release_all(exc: BaseException | None) -> None:
    """Take back what the app context still holds, but what another running thread works with."""
    current = g.pop(_CURRENT, None)
    if current is None or not current[1]:
        return
    owner = current_owner()
    for lease in list(current[1]):
        if lease.owner != owner and is_running(lease.owner):
            continue
        endpoint = g.get(_ENDPOINT)
        where = f"endpoint {endpoint!r}" if endpoint else "code outside a request"
        logger.warning(
            "A database connection was not given back by %s; it was taken back when the app "
            "context ended, and what it had not committed was rolled back. Use "
            "db_connection_context(), or close() it",
            where,
        )
        try:
            lease.take_back("was taken back when its app context ended")
        except Exception:
            logger.exception("Taking back a database connection failed")


def _release_whatever_happens(app: Flask) -> None:
    """Have `_release_all` called also when a teardown function of the app raises: Flask 3.1 then
    leaves out those that would have come after it, and ours may be among them.
    """
    tear_down = app.do_teardown_appcontext

    @functools.wraps(tear_down)
    def do_teardown_appcontext(*args: Any, **kwargs: Any) -> None:
        try:
            tear_down(*args, **kwargs)
        finally:
            _release_all(None)

    app.do_teardown_appcontext = do_teardown_appcontext  # type: ignore[method-assign]


def _answer_503(app: Flask, error: PoolTimeout) -> Any:
    """Service Unavailable, unless the app handles `PooledDBError` or 503 in its own way."""
    logger.warning("Answering 503: %s", error)
    own = app.error_handler_spec[None][None].get(PooledDBError)
    if own is not None:
        return app.ensure_sync(own)(error)
    seconds = max(1, math.ceil(error.waited))
    return app.handle_http_exception(
        ServiceUnavailable("The database is busy or away. Please try again.", retry_after=seconds)
    )
