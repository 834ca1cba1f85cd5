"""What an app context holds: the app's pools, and the leases that were taken in it."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any, cast

from flask import Flask, g
from flask.globals import app_ctx

from flask_pooled_db.config import DEFAULT_BIND, check_seconds, describe
from flask_pooled_db.errors import PoolTimeout, UsageError
from flask_pooled_db.flask.keeper import unknown_bind
from flask_pooled_db.flask.naming import note_caller
from flask_pooled_db.flask.numbers import AppNumbers, merge
from flask_pooled_db.flask.observing import Watch, report_repeats
from flask_pooled_db.flask.page.board import Board
from flask_pooled_db.host import WANTED, HostStats, Publisher, alone
from flask_pooled_db.lease.borrowed import taker_of
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.deadline import around, tell_limit, time_to_wait
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.line import end_in_turn
from flask_pooled_db.lease.owner import current_owner, is_running
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.whereabouts import place_of
from flask_pooled_db.pool import Engine
from flask_pooled_db.pool.opened import NotOpen, Ticket
from flask_pooled_db.pool.registry import Registry
from flask_pooled_db.runtime import callers, reporter

logger = logging.getLogger("flask_pooled_db")

EXTENSION = "pooled_db"
CURRENT = "_pooled_db"

# What Flask's proxy looks into. Asking it directly takes a part of the time.
current_context: ContextVar[Any] = app_ctx.__wrapped__  # type: ignore[attr-defined]


class OutsideAppContext(UsageError, RuntimeError):
    """What needs an app context was used outside of one. Flask's own error is a `RuntimeError`."""


class AppState:
    """What the extension keeps of one app: its pools by bind name.

    It does not refer to the app, which it must not keep alive.
    """

    def __init__(
        self,
        registry: Registry,
        extension: Any,
        root_path: str,
        watch: Watch,
        numbers: AppNumbers,
        publisher: Publisher | None,
    ) -> None:
        self.registry = registry
        self.watch = watch
        self.numbers = numbers
        self.publisher = publisher  # None if POOLED_DB_RUNTIME_DIR is False
        self.extension = extension  # the `PooledDB` that made it
        self.root_path = root_path  # of the app
        self.board = Board()  # what the page is sent
        # What scopes need, by the bind as they name it: None is the default one.
        self.engines = registry.engines

    def read_host(self) -> HostStats:
        """Return what all processes of the app on this host have published."""
        if self.publisher is not None:
            return self.publisher.read()
        return alone(self.numbers.collect(), merge, WANTED)

    def engine(self, bind: Any) -> Engine:
        """Return what a scope of a bind needs. In place of a pool that is not open it is an
        `Unopened`, which fails, and is opened, when it is used. Raises `UsageError` if there can't
        be a bind of that name.
        """
        engine = self.engines.get(bind) if isinstance(bind, str | None) else None
        return engine or cast("Engine", self.registry.unopened(self.name(bind)))

    def name(self, bind: Any) -> str:
        """Return the name of a bind that may have to be loaded. Raises `UsageError` if there can't
        be one of that name.
        """
        fixed = self.registry.fixed
        known = ", ".join(repr(name) for name in sorted(fixed))
        if bind is None:
            if DEFAULT_BIND not in fixed:
                text = "there is no default database: set POOLED_DB_URL, or name a bind"
                raise UsageError(f"{text} ({known})")
            return DEFAULT_BIND
        if not isinstance(bind, str):
            raise UsageError(f"bind must be the name of a bind ({known}), not {describe(bind)}")
        if bind not in fixed and self.extension.loader is None:
            raise unknown_bind(bind, sorted(fixed), is_loaded=False)
        return bind

    def pool(self, bind: str | None) -> Pool:
        """Return the pool of a bind, and open it if it is not. Raises `UsageError` if there is none
        of that name.
        """
        pool: Pool = self._ticket(bind).pool
        return pool

    def _ticket(self, bind: str | None, timeout: float | None = None) -> Ticket:
        name = self.name(bind)
        pool = self.registry.pools.get(name)
        if pool is not None:
            return Ticket(pool, timeout)
        try:
            return self.registry.open(name, timeout)
        except PoolTimeout as error:
            tell_limit(error)
            raise

    def lease(
        self,
        bind: str | None,
        owner: Any,
        holder: Leases,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> LeaseConnection:
        """Return a lease of a bind's pool. See `Pool.lease`."""
        if timeout is not None:
            check_seconds("timeout", timeout)
        if around.get():
            timeout = time_to_wait(timeout, self.engine(bind).patience)
        ticket = self._ticket(bind, timeout)
        while True:
            began = monotonic()
            try:
                pool: Pool = ticket.pool
                return pool.lease(owner, holder, timeout=ticket.timeout, **options)
            except NotOpen as error:  # it was closed since
                open_bind, spent = error.open, ticket.spent + monotonic() - began
            except BaseException:
                del ticket  # whoever keeps the error must not keep the bind open
                raise
            del ticket
            ticket = open_bind(timeout, spent)


class Held(Leases):
    """The leases that an app context holds; some of them are its own, and end with it."""

    own: dict[tuple[Any, object], LeaseConnection] | None = None
    """Its own connections, by who uses them and the key of their pool; None before the first."""


def kept() -> tuple[AppState, Held] | None:
    """Return what `current()` has returned in this app context before, if it has. Raises
    `LookupError` outside of one.
    """
    pair: tuple[AppState, Held] | None = current_context.get().g.__dict__.get(CURRENT)
    return pair


def current() -> tuple[AppState, Held]:
    """Return the current app's state, and the leases that the current app context holds."""
    try:
        context = current_context.get()
    except LookupError as error:
        raise OutsideAppContext(
            "there is no application context, so nobody can tell whose database is meant: put "
            "the call into `with app.app_context():`, or use the methods of the app's PooledDB "
            "(db.connection_context()), which work without a context if it serves one app"
        ) from error
    values = context.g.__dict__
    pair: tuple[AppState, Held] | None = values.get(CURRENT)
    if pair is None:
        state = context.app.extensions.get(EXTENSION)
        if state is None:
            raise UsageError(
                f"PooledDB is not initialised on {context.app!r}: call init_app(app) in its factory"
            )
        # One pair for all threads that share the context.
        pair = values.setdefault(CURRENT, (state, Held()))
    return pair


def register(app: Flask) -> None:
    """Have the leases of each app context released at its end."""
    app.teardown_request(_note_caller)
    _release_last(app)


def _note_caller(exc: BaseException | None) -> None:
    """Keep the name of the caller for `release_all`, which runs when the request is gone."""
    pair = g.get(CURRENT)
    if pair is not None and pair[1]:
        note_caller(exc)


def release_all() -> None:
    """Release the leases this context still holds, except what another thread that is alive has
    borrowed, and may be at work with: only its user keeps that from here on. So what the job of an
    executor has forgotten is found when the job is over, though its thread goes on.
    """
    pair = g.get(CURRENT)
    if pair is None or not pair[1]:
        return
    owner, held = current_owner(), pair[1]
    own = [] if held.own is None else list(held.own.values())
    for lease in list(held):
        is_leak = not any(lease is one for one in own)
        if is_leak and lease.owner != owner and is_running(lease.owner):
            lease.outlive_holder()
            continue
        take_back(lease, "was taken back when its app context ended", is_leak=is_leak)
    if not held:
        g.pop(CURRENT, None)


def take_back(lease: LeaseConnection, reason: str, *, is_leak: bool) -> None:
    """Release a lease in place of its owner. What goes wrong is logged."""
    try:
        if is_leak:
            _logging_failure(_report, lease)
    finally:
        end = functools.partial(lease.revoke, reason, is_leak=is_leak)
        end_in_turn(lease, reason, functools.partial(_logging_failure, _end, lease, end))


def _end(lease: LeaseConnection, end: Callable[[], None]) -> None:
    end()
    if lease.after_commit is not None:
        lease.after_commit.run()


def _logging_failure(function: Callable[..., None], *args: Any) -> None:
    try:
        function(*args)
    except Exception:  # noqa: BLE001  others are taken back all the same
        text = "Taking back a database connection failed:\n%s"
        reporter.tell(logger.error, text, traceback.format_exc())


def _report(lease: LeaseConnection) -> None:
    """Log a lease that was not given back."""
    place = place_of(lease)
    taken = f", which took it {callers.at(place)}" if place else ""
    lost = lease.uncommitted()
    lease.terms.notices.warn(
        ("leaked", place, callers.named()),
        "A database connection was not given back by %s%s; it was taken back when the app "
        "context ended, and what it had not committed%s was rolled back. Use "
        "db_connection_context(), or close() it",
        callers.named() or taker_of(lease),
        taken,
        f" ({lost})" if lost else "",
    )


def _release_last(app: Flask) -> None:
    """Call `release_all` after all teardown functions of the app, in whatever order they were
    registered: some close or commit what they have taken. It is called even if one of them raises,
    after which Flask 3.1 skips the others.
    """
    tear_down = app.do_teardown_appcontext

    @functools.wraps(tear_down)
    def do_teardown_appcontext(*args: Any, **kwargs: Any) -> None:
        try:
            tear_down(*args, **kwargs)
        finally:
            try:
                release_all()
            finally:
                report_repeats()

    app.do_teardown_appcontext = do_teardown_appcontext  # type: ignore[method-assign]
