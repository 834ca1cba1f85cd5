"""The connection inside the pool: the driver's own, and what the pool has to know of it."""

from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_pooled_db.config import PingPolicy, PoolConfig
from flask_pooled_db.drivers import FRESH_SESSION, IN_DOUBT, Driver, Session
from flask_pooled_db.drivers.servers import Server
from flask_pooled_db.pool.link import Link
from flask_pooled_db.pool.reports import WORDS
from flask_pooled_db.runtime import housekeeper

DRAINED_AT = -1.0
"""When a connection expires that is in use while its pool is drained: it did so long ago."""


@dataclass(slots=True)
class Origin:
    """What stays the same for as long as a connection is open: where it came from."""

    driver: Driver
    config: PoolConfig
    ping: PingPolicy
    opened_at: float
    where: Mapping[str, Any] = field(default_factory=dict)
    """The connect arguments that name its server."""
    fresh_session: Any = None
    """What the driver has to know to reset the session."""
    needs_interrupting: bool = False
    """Whether the time limits of its statements are the pool's to keep."""
    identity: Any = None
    """What tells its server from others; known once the pool may have to end a statement."""
    is_unasked: bool = False
    """Whether statements that the pool may have to end were sent before that was known."""
    own_schema: str | None = None
    """What leads back to the schema that it began in; known once it is to leave that."""


class EntryRef(weakref.ref["Entry"]):
    """How a pool knows a connection that somebody else holds. With the last who holds it gone, its
    link is left to be ended.
    """

    __slots__ = ("__weakref__", "link")

    link: Link


class Entry:
    """A pooled connection.

    It is replaced by the pool between two leases, and never within one. Its fields are guarded by
    the lock, or belong to the holder of its lease while it is checked out.
    """

    # Slots: what a checkout and a return read lies side by side in memory.
    __slots__ = (
        "__weakref__",
        "condemned",
        "driver",
        "expires_at",
        "in_check",
        "is_changed",
        "is_suspect",
        "lease_class",
        "link",
        "look",
        "origin",
        "raw",
        "ready_session",
        "ref",
        "session",
        "since",
        "streams",
        "uses",
        "valid_until",
        "waited_at",
    )

    ref: EntryRef  # set by the pool that it belongs to

    def __init__(self, raw: Any, origin: Origin) -> None:
        self.raw = raw
        """The driver's own connection."""
        self.origin = origin
        self.driver = origin.driver
        self.link = Link(raw, self.driver)
        self.look = self.driver.look(raw)
        """Look at the socket without a round trip. Returns a positive number if the connection has
        ended, a negative one if only a ping can tell, else 0."""
        self.lease_class: Any = None  # set by the first lease of a connection of this kind
        self.condemned: str | None = None  # why it must not be used again
        self.since = origin.opened_at  # when it was checked out, or returned
        self.expires_at = math.inf
        self.valid_until = 0.0  # until then a look is enough to lend it
        self.in_check = False  # taken for a caller who does not have it yet
        self.is_changed = False  # its session, so that the next lease must not find it
        self.is_suspect = False  # another one was found dead since its server last answered
        self.waited_at = -math.inf  # the `since` of its last checkout by a caller that had to wait
        self.uses = 0  # statements, counted if `maxusage` limits them
        self.streams: list[Any] = []  # cursors with rows that the server has yet to send
        self.enter_session(FRESH_SESSION)

    def join(self, when_lost: Callable[[EntryRef], object]) -> EntryRef:
        """Make it a pool's. `when_lost` is called by a finalizer."""
        self.ref = ref = EntryRef(self, when_lost)
        ref.link = self.link
        return ref

    @property
    def is_garbage(self) -> bool:
        """Whether it counts as lost already, and a finalizer of its own garbage asks. Anybody may
        close it at any moment then.
        """
        ref = getattr(self, "ref", None)  # outside of a pool it has none
        return ref is not None and ref() is not self

    def enter_session(self, session: Session) -> None:
        """Note the state that the session is in now."""
        self.session = session
        # A lease that wants this very session has nothing to do before its statements, unless
        # something has to be done before each.
        self.ready_session = None if self._checks_statements(session) else session

    @property
    def was_waited_for(self) -> bool:
        """Whether its present holder had to wait for it."""
        return self.waited_at == self.since

    def doubt_schema(self) -> None:
        """Have the next lease enter its schema anew, whichever that is."""
        self.enter_session(self.session._replace(schema=IN_DOUBT))

    def _checks_statements(self, session: Session) -> bool:
        origin, config = self.origin, self.origin.config
        is_counted = config.maxusage > 0 or config.transaction_timeout > 0
        is_begun = self.driver.begins_transactions
        return origin.ping.on_query or is_counted or is_begun or self.limits(session)

    def limits(self, session: Session) -> bool:
        """Return whether the pool has to keep the session's time limit of statements."""
        return self.origin.needs_interrupting and session.statement_timeout > 0

    def condemn(self, reason: str) -> None:
        """Have it closed, and not reused, when it is returned. The first reason counts."""
        self.condemned = self.condemned or reason
        self.expires_at = 0.0

    def count_use(self) -> None:
        """Count a statement. After `maxusage` statements the connection has served its time."""
        most = self.origin.config.maxusage
        if most:
            self.uses += 1
            if self.uses >= most:
                self.expires_at = 0.0

    # I/O: each of these is bounded, and none is called with the pool's lock held

    def bounded(self, seconds: float) -> Any:
        """Return a block in which the connection is cut if its server takes longer than that."""
        return housekeeper.bounded(seconds, functools.partial(self.driver.cut, self.raw))

    def answers(self, seconds: float) -> bool:
        """Return whether the server answers a ping, or the configured check, in `seconds`."""
        ping = self.origin.ping
        if ping.probe is None and not self.driver.can_be_cut(self.raw):
            return self.link.answers_elsewhere(seconds)
        with self.bounded(seconds):
            try:
                if ping.probe is None:
                    answered = self.link.ping()
                else:
                    answered = ping.run_probe(self.raw)
                    if self.driver.in_transaction(self.raw) is not False:
                        self.raw.rollback()  # a check by SQL opens a transaction
            except Exception:  # noqa: BLE001  a ping that fails, however, means dead
                return False
        return answered and self.look() <= 0  # it may have been cut just as the answer came

    def roll_back(self) -> None:
        """Send ROLLBACK."""
        with self.bounded(self.origin.config.connect_timeout):
            self.raw.rollback()

    def commit_unlimited(self) -> None:
        """Send COMMIT, which the session's time limit of statements is not to end."""
        driver, raw = self.driver, self.raw
        self.is_changed = self.is_changed or driver.has_changed(raw)
        driver.commit_unlimited(raw)
        driver.session_is_set(raw)  # that was no change of its caller's

    def reset_session(self) -> bool:
        """Undo all that its users left in the session, and set it up as after connecting.

        Returns False if only closing the connection does that.
        """
        with self.bounded(self.origin.config.connect_timeout):
            if not self.driver.reset_session(self.raw, self.origin.fresh_session):
                return False
            self.enter_session(FRESH_SESSION)
            run_setsession(self.driver, self.raw, self.origin.config)
            self.driver.session_is_set(self.raw)
            self.is_changed = False
        return True

    def enter_schema(self, schema: str | None) -> bool:
        """Bring the session to a schema, or back to the connection's own if that is None. Returns
        whether that has begun a transaction.
        """
        driver, origin = self.driver, self.origin
        if origin.own_schema is None:
            origin.own_schema = driver.own_schema(self.raw)
        self.doubt_schema()  # until it is certain
        driver.enter_schema(self.raw, schema, origin.own_schema)
        self.enter_session(self.session._replace(schema=schema))
        return driver.in_transaction(self.raw) is True

    def end(self) -> None:
        """Close it, with a goodbye unless it is condemned: then its server may not be listening."""
        if self.condemned:
            self.link.terminate()
        else:
            self.link.close()


def open_entry(
    driver: Driver,
    config: PoolConfig,
    ping: PingPolicy,
    clock: Callable[[], float],
    tries: Callable[[Server], object] = lambda _: None,
) -> Entry:
    """Connect to the first server that is suitable, and set the session up. `tries` is told which
    server comes next. Where a function tells the URL, it is asked once, in the time of the first
    server.

    Raises the driver's error: a transient one if there is any, since then it is worth retrying.
    """
    errors: list[Exception] = []
    opened_at = clock()
    driver = driver.for_connect()
    for server in driver.servers.attempts():
        tries(server)
        began = clock()
        try:
            origin = Origin(driver, config, ping, opened_at, server.arguments)
            entry = _connect_to(origin, clock)
        except Exception as error:  # noqa: BLE001  raised below, if no other server is suitable
            opened_at = clock()
            # A connect that hung may return after hours: its server is not to be left alone longer.
            driver.servers.failed(server, min(opened_at - began, config.connect_timeout))
            errors.append(without_values(error))
        else:
            driver.servers.succeeded(server)
            return entry
    raise next(filter(driver.is_transient, errors), errors[0])


def without_values(error: Exception) -> Exception:
    """Return the error of a connect, in which no UnicodeError holds the text it is about: that may
    be the password.
    """
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        one = rest.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        rest += (one.__cause__, one.__context__)
        if isinstance(one, UnicodeEncodeError | UnicodeDecodeError | UnicodeTranslateError):
            one.args = tuple(arg[:0] if arg == one.object else arg for arg in one.args)
            one.object, one.start, one.end = one.object[:0], 0, 0
    return error


def without_tracebacks(error: BaseException) -> BaseException:
    """Drop the frames that led to an error which is to be kept, along with what they refer to.

    The pool is among that. The errors of MariaDB Connector/Python take no part in garbage
    collection: a pool that kept one with its frames would never be collected.
    """
    seen: set[int] = set()
    rest = [error]
    while rest:
        one = rest.pop()
        if id(one) not in seen:
            seen.add(id(one))
            BaseException.with_traceback(one, None)  # its own class may refuse to be changed
            rest += filter(None, (one.__cause__, one.__context__))
    return error


def _connect_to(origin: Origin, clock: Callable[[], float]) -> Entry:
    driver, config = origin.driver, origin.config
    try:
        raw = driver.connect(origin.where)
    except Exception as error:
        with contextlib.suppress(Exception):  # it takes none
            setattr(error, WORDS, driver.words_of(error))
        raise
    left = max(config.connect_timeout - (clock() - origin.opened_at), 0.0)
    try:
        with housekeeper.bounded(left, functools.partial(driver.cut, raw)):
            driver.set_up(raw)
            if config.reset != "rollback":
                origin.fresh_session = driver.fresh_session(raw)
            run_setsession(driver, raw, config)
            driver.session_is_set(raw)
        origin.needs_interrupting = driver.needs_interrupting(raw)
        return Entry(raw, origin)
    except BaseException:
        driver.terminate(raw)
        raise


def run_setsession(driver: Driver, raw: Any, config: PoolConfig) -> None:
    """Set the server's own limit of transactions, and run the statements of `setsession`."""
    if config.transaction_timeout:
        driver.limit_transactions(raw, config.transaction_timeout)
    if config.setsession:
        cursor = raw.cursor()
        for statement in config.setsession:
            cursor.execute(statement)
        cursor.close()
        raw.commit()  # a SELECT among them would leave a transaction and its snapshot open
