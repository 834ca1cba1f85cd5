"""Which app a method of the extension works for: the current one, or the only one it serves."""

from __future__ import annotations

import functools
import gc
import threading
from typing import TYPE_CHECKING, Any, Unpack

from flask import current_app
from flask.globals import app_ctx

from flask_pooled_db.config import (
    DEFAULT_OPTIONS,
    ScopeKeywords,
    check_seconds,
    options_of,
    refuse_unknown,
)
from flask_pooled_db.errors import UsageError
from flask_pooled_db.flask.context import (
    AppState,
    Held,
    OutsideAppContext,
    current,
    kept,
    take_back,
)
from flask_pooled_db.host import HostStats
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.deadline import Deadline
from flask_pooled_db.lease.ofcontext import ContextLease
from flask_pooled_db.lease.owner import current_owner, is_running
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import PoolStats
from flask_pooled_db.pool.census import Census
from flask_pooled_db.runtime import refuse_to_pickle

if TYPE_CHECKING:
    from flask_pooled_db.lease.aio import AsyncScope


class Serving:
    """The part of the extension that knows the apps it serves, without keeping them alive."""

    def __init__(self) -> None:
        self.states: Census[AppState] = Census()

    __reduce_ex__ = refuse_to_pickle(
        "a PooledDB",
        "another process has one of its own. Give it a function of a module that imports it, as in "
        "executor.submit(function), and use it in there",
    )

    def here(self) -> tuple[AppState, Held]:
        """Return the state of the app that a call is for, and what is to hold its leases.

        It is the current app, which this object has to serve. Without an app context it is the only
        app that this object serves; the leases are then held by nobody else than their caller.
        """
        try:
            pair = kept()
        except LookupError:
            return self._only(), Held()
        if pair is None:
            pair = current()
        if pair[0].extension is not self:
            app = current_app._get_current_object()  # type: ignore[attr-defined]
            raise UsageError(
                f"this PooledDB does not serve the current app, {app!r}, which another PooledDB "
                "was initialised on: use that one, or push the context of an app of this one"
            )
        return pair

    def _only(self) -> AppState:
        states = self.states.members()
        if len(states) > 1:
            del states[:]
            gc.collect()  # apps are garbage that nobody has found yet, as after most tests
            states = self.states.members()
        if len(states) == 1:
            return states[0]
        if not states:
            raise OutsideAppContext(
                "there is no application context, and this PooledDB serves no app: call "
                "init_app(app) first, and keep the app"
            )
        raise OutsideAppContext(
            f"there is no application context, and this PooledDB serves {len(states)} apps: put "
            "the call into `with app.app_context():`, so that it is known which one is meant"
        )

    def connection_context(
        self, bind: str | None = None, **options: Unpack[ScopeKeywords]
    ) -> Scope:
        """Return a block that is a transaction. The options are those of `db_connection_context`.

        Outside an app context it works as well if this object serves one app alone. In the context
        of an app that another `PooledDB` was initialised on it is refused.
        """
        state, leases = self.here()
        try:
            engine = state.engines[bind]
        except (KeyError, TypeError):  # it is not open, or can't be looked up
            engine = None
        asked = options_of("connection_context", options) if options else DEFAULT_OPTIONS
        return Scope(engine or state.engine(bind), leases, asked)

    def async_connection_context(
        self, bind: str | None = None, **options: Unpack[ScopeKeywords]
    ) -> AsyncScope:
        """Return the same block for a task of asyncio: `async with`. It yields a connection whose
        methods, and those of its cursors, are awaited. The rules are those of
        `connection_context()`, and waiting holds up no event loop.

        A task that is cancelled in the middle of a statement ends it, at the server too, and its
        connection is closed. A COMMIT that was cancelled and not answered in a second is a
        `CommitOutcomeUnknown`, in place of the cancellation.
        """
        refuse_unknown("async_connection_context", options)
        return _asynchronous()(self.connection_context(bind, **options))

    def deadline(self, seconds: float) -> Deadline:
        """Return a block (`with`) that has so many seconds for its databases in all.

        In it no caller waits longer for a connection, and no statement runs longer, than what is
        left: of all databases, in blocking and asynchronous blocks, and also in blocks that were
        entered before. A wait that ends so is a `PoolTimeout`. A statement that is ended, and all
        that would begin later, is a `DeadlineExceeded`. COMMIT is not refused, nor ended: what was
        done in time is committed. Inside another deadline, the one that ends first counts. Tasks
        and threads that begin with a copy of the context are bound too, until the block ends.
        """
        check_seconds("seconds", seconds)
        try:
            pair = kept()
        except LookupError:  # without an app context
            pair = None
        return Deadline(seconds, f"db.deadline({seconds:g})", () if pair is None else pair[1])

    def pool(self, bind: str | None = None) -> Pool:
        """Return the pool of a bind: the current app's, or that of the only app there is.

        That of a bind which is not in POOLED_DB_BINDS is opened. It may be closed again when nobody
        uses it: then it raises `PoolClosed`, and this method returns the next one.
        """
        return self.here()[0].pool(bind)

    def stats(self, bind: str | None = None) -> PoolStats:
        """Return what the pool of a bind, in this process, is doing."""
        return self.pool(bind).stats()

    def host_stats(self) -> HostStats:
        """Return what all processes of the app on this host have published, each once a second.

        It never fails: without a usable POOLED_DB_RUNTIME_DIR it returns the numbers of this
        process alone, and says why. It waits up to two seconds for a disk that does not answer.
        """
        return self.here()[0].read_host()

    @property
    def connection(self) -> LeaseConnection:
        """The app context's connection to the default database: see `connection_of`."""
        return self.connection_of()

    def connection_of(self, bind: str | None = None) -> LeaseConnection:
        """Return the app context's connection to a database. It is the same one each time.

        It is opened at its first use and given back at the end of the app context; what it has not
        committed by then is rolled back. `close()` gives it back at once, and the next one is new.
        A lost connection stays the context's, and refuses, until it is closed: what was done over
        it is lost, and must not be committed in part. Each thread, task and greenlet has one of its
        own. A scope beside it is a transaction of its own.
        """
        if not app_ctx:
            raise OutsideAppContext(
                "there is no application context, and nobody else would give this connection "
                "back: put the work into `with app.app_context():`, or use db.connection_context()"
            )
        state, held = self.here()
        own: dict[Any, LeaseConnection] = vars(held).setdefault("own", {})  # once for all threads
        owner = current_owner()
        # The number of a thread that has ended is given to another one.
        who = threading.current_thread() if isinstance(owner, int) else owner
        key = who, state.engine(bind).key
        lease = own.get(key)
        if lease is None or lease.state is State.RELEASED:
            _give_back_others(own)
            own[key] = lease = state.lease(bind, owner, held, kind=ContextLease)
        return lease


@functools.cache
def _asynchronous() -> type[AsyncScope]:
    from flask_pooled_db.lease.aio import AsyncScope  # noqa: PLC0415  asyncio takes its time

    return AsyncScope


def _give_back_others(own: dict[tuple[Any, object], LeaseConnection]) -> None:
    """Give back the connections of tasks and threads that have ended, so that a context that runs
    many of them, one after the other, does not use its pool up.
    """
    for key, lease in own.copy().items():
        if not is_running(key[0]):  # a thread itself, for its number may be the caller's by now
            take_back(lease, "was taken back when its task or thread had ended", is_leak=False)
            own.pop(key, None)
