"""The connection inside the pool: DBUtils' steady connection without its failover."""

from __future__ import annotations

import functools
import logging
import math
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dbutils.steady_db import SteadyDBConnection

from flask_pooled_db.drivers import Driver, Session
from flask_pooled_db.housekeeping import housekeeper

if TYPE_CHECKING:
    from flask_pooled_db.config import PoolConfig

logger = logging.getLogger("flask_pooled_db")

# DBUtils' flags of `ping`
PING_FETCHED, PING_CURSOR, PING_QUERY = 1, 2, 4


class PooledConnection(SteadyDBConnection):  # type: ignore[misc]
    """A driver's connection inside the pool: DBUtils' steady connection, with its failover taken
    out. It is replaced by the pool between two leases, and never within one.
    """

    # Not in the instance's dictionary, so that what a checkout and a return read of it lies side
    # by side in memory.
    __slots__ = (
        "_closed",
        "_connect_timeout",
        "_fresh",
        "_resets",
        "_transaction",
        "_usage",
        "driver",
        "expires_at",
        "good_for",
        "good_until",
        "identity",
        "idle_since",
        "is_disowned",
        "is_doubted",
        "is_limited",
        "leak_reported",
        "lease_class",
        "lent_at",
        "look",
        "minds_statements",
        "needs_interrupting",
        "opened_at",
        "pings_on_checkout",
        "pings_on_cursor",
        "pings_on_query",
        "raw",
        "session",
        "shares",
        "streams",
        "where",
    )

    _closed: bool
    lease_class: Any  # of a LeaseConnection; set by the pool

    def __init__(self, driver: Driver, config: PoolConfig) -> None:
        self.driver = driver
        self.opened_at = time.monotonic()
        self.idle_since = self.lent_at = self.opened_at
        self.leak_reported = 0.0  # the lent_at of the lease that was last reported
        self.shares = 0  # leases that share it
        self.streams: list[Any] = []  # cursors of its leases that have unread rows
        self.expires_at = math.inf
        self.is_doubted = False  # another one was found dead since the server last answered
        self.good_for = 0.0  # seconds after its use that it needs no ping
        self.good_until = 0.0
        self.is_disowned = False  # it is another process's
        self._connect_timeout = config.connect_timeout
        self._resets = config.reset == "session"
        self._fresh: Any = None  # what the driver has to know to reset the session
        self.where: Mapping[str, Any] = {}  # the arguments that name its server
        self.identity: Any = None  # the server's, where statements are interrupted
        super().__init__(
            driver,
            maxusage=config.maxusage,
            setsession=config.setsession,
            failures=driver.failures,
            ping=config.ping,
            isfatal=_never_fatal,
        )
        self.raw = self._con
        """The driver's own connection."""
        # Whether DBUtils' `ping` asks for a check at these points.
        self.pings_on_checkout = bool(self._ping & PING_FETCHED)
        self.pings_on_cursor = bool(self._ping & PING_CURSOR)
        self.pings_on_query = bool(self._ping & PING_QUERY)
        self.needs_interrupting = driver.needs_interrupting(self.raw)
        self.enter_session(Session())
        self.look = driver.look(self.raw)
        """Look at the socket without a round trip. Returns a positive number if the connection has
        ended, a negative one if only a ping can tell, else 0."""
        _connections.add(self)

    def enter_session(self, session: Session) -> None:
        """Take note of the state that the session is in now."""
        self.session = session
        self.is_limited = self.needs_interrupting and session.statement_timeout > 0
        # Whether something is to be seen to at each statement, and not at the first alone.
        self.minds_statements = self.pings_on_query or self._maxusage > 0 or self.is_limited

    def _create(self) -> Any:
        """Connect to the first server that will do."""
        servers = self.driver.servers
        errors: list[Exception] = []
        for server in servers.attempts():
            try:
                raw = self._connect_to(server.arguments)
            except Exception as error:  # noqa: BLE001  raised below, if no other server will do
                servers.failed(server)
                errors.append(error)
            else:
                servers.succeeded(server)
                return raw
        # One that may pass tells more than one that won't.
        raise next(filter(self.driver.is_transient, errors), errors[0])

    def _connect_to(self, where: Mapping[str, Any]) -> Any:
        self.opened_at = time.monotonic()
        self.where = where
        raw = self.driver.connect(where)
        left = self._connect_timeout - (time.monotonic() - self.opened_at)
        try:
            with self.bounded(max(left, 0.0), raw):
                self.driver.set_up(raw)
                if self._resets:
                    self._fresh = self.driver.fresh_session(raw)
                self._set_up(raw)
        except BaseException:
            self.driver.terminate(raw)
            raise
        return raw

    def _set_up(self, raw: Any) -> None:
        if self._setsession_sql:
            self._setsession(raw)
            raw.commit()  # a SELECT among them would leave a transaction and its snapshot open

    def bounded(self, seconds: float, raw: Any = None) -> Any:
        """A block in which the connection is cut if the server lets it wait that long."""
        return housekeeper.bounded(seconds, functools.partial(self.driver.cut, raw or self._con))

    @property
    def has_own_check(self) -> bool:
        """Whether the check is a statement or a callable that was configured."""
        return self._pinger is not None

    def is_alive(self, seconds: float) -> bool:
        """Whether the server answers a ping (or the configured check) in so many seconds."""
        with self.bounded(seconds):
            try:
                if self._pinger is None:
                    self.driver.ping(self._con)
                    alive = True
                else:
                    alive = self._pinger(self._con) is not False
                    if self.driver.in_transaction(self._con) is not False:
                        self._con.rollback()  # a check by SQL opens a transaction
            except Exception:  # noqa: BLE001  whatever it is, a ping that fails means dead
                return False
        return alive and self.look() <= 0  # else it was cut as the answer came

    def count_statement(self) -> None:
        """With as many statements as `maxusage` allows, the connection has served its time."""
        if self._maxusage:
            self._usage += 1
            if self._usage >= self._maxusage:
                self.expires_at = 0.0

    def roll_back(self) -> None:
        """Send ROLLBACK; the connection is cut if the server takes too long over it."""
        with self.bounded(self._connect_timeout):
            self._con.rollback()

    def reset_session(self) -> bool:
        """Undo all that its user left in the session, and set it up as after connecting.

        False where the driver has no way to do so.
        """
        with self.bounded(self._connect_timeout):
            if not self.driver.reset_session(self._con, self._fresh):
                return False
            self.enter_session(Session())
            self._set_up(self._con)
        return True

    def close(self) -> None:
        """Say goodbye to the server and close."""
        self._end(self.driver.close)

    def terminate(self) -> None:
        """Close without a word to a server that may not listen."""
        self._end(self.driver.terminate)

    def detach(self) -> None:
        """In a forked child: leave the connection to the parent, without a byte on the wire."""
        self.is_disowned = True
        if not self._closed:
            self._closed = True
            self.driver.detach(self._con)

    def _end(self, end: Callable[[Any], None]) -> None:
        if not self._closed:
            self._closed = True
            try:
                end(self._con)
            except Exception as error:  # noqa: BLE001  it is gone, as it should be
                logger.debug("Closing a connection failed: %s", type(error).__name__)

    # What DBUtils would do behind the lease's back

    def commit(self) -> None:
        self._con.commit()

    def rollback(self) -> None:
        self._con.rollback()

    def _close(self) -> None:
        self.close()

    def _reset(self, force: bool = False) -> None:
        self._con.rollback()

    def _ping_check(self, ping: int = 1, reconnect: bool = False) -> bool | None:
        return self.is_alive(self._connect_timeout) if ping & self._ping else None

    def _cursor(self, *args: Any, **kwargs: Any) -> Any:
        return self._con.cursor(*args, **kwargs)

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return self._con.cursor(*args, **kwargs)

    def __del__(self) -> None:
        """Nothing: who drops a connection closes it; the driver's own object frees its socket."""


_connections: weakref.WeakSet[PooledConnection] = weakref.WeakSet()


def detach_connections() -> None:
    """In a forked child: leave every connection of this process to the parent."""
    for con in list(_connections):
        con.detach()
    _connections.clear()


def _never_fatal(error: BaseException) -> bool:
    return False
