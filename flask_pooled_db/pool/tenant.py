"""SERVER and SCHEMA: a tenant, whose connections are another bind's, in a schema of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import ConnectFailed, PoolClosed, PoolTimeout
from flask_pooled_db.pool import reports
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.opened import NotOpen
from flask_pooled_db.pool.probe import CLOSED, Finding
from flask_pooled_db.pool.queue import Waiter
from flask_pooled_db.pool.state import Change, State
from flask_pooled_db.pool.steps import Steps, run
from flask_pooled_db.pool.supply import Refusal, Supply
from flask_pooled_db.runtime import guard

_GLANCE = 0.05
"""Seconds between two looks of `close()` at the leases that it waits for."""


class Schema(str):
    """A tenant's schema. That of another tenant may be equal, and is another object."""

    __slots__ = ()


class Caller:
    """A caller that is about to get a connection, or waits for one."""

    __slots__ = ("__weakref__",)


def doubt_schemas(server: Engine) -> None:
    """Have each lease of a pool enter its schema anew, the pool's own leases too: whoever had the
    connection before may have left it without any sign. Those that did so by now are replaced.
    """
    acquire, acquiring = server.acquire, server.acquiring
    if "acquire" in vars(server):
        return

    def acquire_in_doubt(timeout: float | None = None, session: Session | None = None) -> Entry:
        return in_doubt(acquire(timeout, session))

    def acquiring_in_doubt(waiter: Waiter, timeout: float | None) -> Steps[Entry]:
        return in_doubt((yield from acquiring(waiter, timeout)))

    def in_doubt(entry: Entry) -> Entry:
        try:
            entry.doubt_schema()
        except BaseException:
            server.evict(entry, "its checkout was interrupted")
            raise
        return entry

    server.acquire = acquire_in_doubt  # type: ignore[method-assign]
    server.acquiring = acquiring_in_doubt  # type: ignore[method-assign]
    server.supply.drain()


class Tenant:
    """A schema of a server that others share. To scopes and leases it is an engine.

    Each of its leases asks for a session in its schema, and brings its connection there before its
    first statement. It counts its callers and its leases, and keeps none of them alive.
    """

    def __init__(
        self, server: Engine, bind: str, schema: Schema, key: Any = None, of: str | None = None
    ) -> None:
        """`key` is what a block inside another one is compared by (None: this tenant alone). `of`
        is the bind that its readers asked for, if it is the replica of that.
        """
        self.server = server
        self.terms = server.terms._replace(bind=bind)
        self.key = object() if key is None else key
        self.schema = schema
        self.usual_session = server.usual_session._replace(schema=self.schema)
        self._reading_session = server.session(True, None)._replace(schema=self.schema)
        self.replica: Tenant | None = None  # where its readonly leases go
        if server.replica is not None:
            self.replica = Tenant(server.replica, server.replica.terms.bind, schema, of=bind)
        self.lease_classes = server.lease_classes
        self.interrupter = server.interrupter
        self.liveness = server.liveness
        self.leaks = server.leaks
        self.is_closed = False
        self.refusal: Refusal = functools.partial(reports.pool_closed, of or bind)  # once closed
        self.emptied: Callable[[], None] | None = None  # called once closed, with the lock held
        self._told: Callable[[], None] | None = None  # after each return
        self._used = self.terms.clock()
        if server.terms.driver.hides_schema:
            doubt_schemas(server)
        self._start(server.state)

    def _start(self, state: State) -> None:
        self._state = state  # a forked child has a new one
        self._callers: Census[Caller] = Census()
        self._leases: Census[Entry] = Census()

    @property
    def patience(self) -> float:
        """How many seconds a caller waits who does not say."""
        return self.server.patience

    @property
    def state(self) -> State:
        """The state of the server's pool."""
        return self.server.state

    @property
    def supply(self) -> Supply:
        """The supply of the server's pool."""
        return self.server.supply

    def session(self, readonly: bool, statement_timeout: float | None) -> Session:
        """Return the session state for these options; None stands for the configured limit."""
        if statement_timeout is None:
            return self._reading_session if readonly else self.usual_session
        return Session(readonly, statement_timeout, self.schema)

    # Checkout

    def acquire(self, timeout: float | None = None, session: Session | None = None) -> Entry:
        """Return a connection like `Engine.acquire()`; its errors name the tenant's bind."""
        session = session or self.usual_session
        return run(self._borrowing(self.server.acquire, timeout, session))

    def acquiring(self, waiter: Waiter, timeout: float | None) -> Steps[Entry]:
        """Return the steps of `acquire()`, like `Engine.acquiring()`."""
        return self._borrowing(self.server.acquiring, waiter, timeout)

    def _borrowing(self, acquire: Callable[..., Entry | Steps[Entry]], *args: Any) -> Steps[Entry]:
        caller, entry = Caller(), None
        try:
            if not guard.is_inside():  # else the server refuses it
                with guard.lock:
                    self._count_locked(caller)
            steps = acquire(*args)
            entry = steps if isinstance(steps, Entry) else (yield from steps)
            self._leases.add(entry)
            return entry  # noqa: TRY300  an interruption may come before each line
        except NotOpen:  # by its name the tenant is opened, never the server alone
            raise
        except (PoolTimeout, PoolClosed, ConnectFailed) as error:
            reports.name_tenant(error, self.terms.bind)
            raise
        except BaseException:
            if entry is not None:
                self.server.evict(entry, "its checkout was interrupted")
            raise
        finally:
            self._callers.discard(caller)  # whoever keeps an error keeps its frames

    def _count_locked(self, caller: Caller) -> None:
        if self.is_closed:
            raise self.refusal()
        if self._state is not self.server.state:
            self._start(self.server.state)
        self._callers.add(caller)
        self._used = self.terms.clock()

    # Return

    def release(self, entry: Entry, unused: bool = False) -> None:
        """Take back a connection like `Engine.release()`."""
        self._leases.discard(entry)
        self._used = self.terms.clock()
        self.server.release(entry, unused=unused)
        if self.is_closed:
            with guard.lock:
                self.tell_emptied_locked()
        if self._told is not None:
            self._told()

    def when_refused(self, make: object) -> None:
        """Do nothing: its server is a bind of the configuration."""

    def when_emptied(self, told: Callable[[], None] | None) -> None:
        """Have `told` called, with the lock held, once it is closed and no lease is out."""
        self.emptied = told

    def watch_returns(self, told: Callable[[], None] | None) -> None:
        """Have `told` called after each return, or nothing any more."""
        self._told = told

    def tell_emptied_locked(self) -> None:
        """Tell who has closed it that no lease is out any more, if that is so."""
        if self.emptied is not None and self.is_closed and not self._leases:
            self.emptied()

    @property
    def is_empty(self) -> bool:
        """Whether no lease is out."""
        return not self._leases

    @property
    def is_unused(self) -> bool:
        """Whether no lease and no caller is in it. Only the lock makes that last."""
        is_used = self._state is self.server.state and (self._callers or self._leases)
        return not is_used and (self.replica is None or self.replica.is_unused)

    @property
    def last_used(self) -> float:
        """When a caller came, or a lease ended, the last time, by the pool's clock."""
        return self._used if self.replica is None else max(self._used, self.replica.last_used)

    # What else is asked of an engine

    def invalidate(self) -> None:
        """Have every connection of the server's pool pinged before it is lent again."""
        self.server.invalidate()

    def open_outside(self) -> Entry:
        """Return a new connection that belongs to no pool."""
        if self.is_closed:
            raise self.refusal()
        return self.server.open_outside()

    def probe(self, seconds: float) -> Finding:
        """Return whether a caller would get a connection of the server's that answers."""
        return CLOSED if self.is_closed else self.server.probe(seconds)

    def forget_gone(self) -> None:
        """Forget callers that can't be woken any more."""
        self.server.forget_gone()

    def snapshot(self) -> reports.Snapshot:
        """Return the numbers of the server's pool at this moment."""
        return self.server.snapshot()

    def close(
        self,
        timeout: float = 0.0,
        only_if: Callable[[], bool] = lambda: True,
        *,
        late: Refusal | None = None,
        waiting: Refusal | None = None,
    ) -> bool:
        """Lend nothing more, and wait up to `timeout` seconds for leases. Callers that wait get
        `PoolClosed`. The server's pool stays open. The rest is as in `Engine.close()`.
        """
        deadline, change = monotonic() + timeout, Change()
        with guard.lock:
            if not only_if():
                return False
            self.is_closed = True
            failed = self.state.queue.fail_locked(
                waiting or self.refusal,
                lambda waiter: waiter.session is not None and waiter.session.schema is self.schema,
            )
            change.tell(failed)
            self.refusal = late or self.refusal
        self.supply.carry_out(change)
        if self.replica is not None:
            self.replica.close(late=late, waiting=waiting)
        while not self.is_unused and (left := deadline - monotonic()) > 0:
            sleep(min(left, _GLANCE))
        return True
