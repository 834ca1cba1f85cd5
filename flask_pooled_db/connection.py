"""The connection inside the pool: DBUtils' steady connection without its failover."""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import select
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

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
        "_transaction",
        "_usage",
        "driver",
        "expires_at",
        "good_for",
        "good_until",
        "hung_up",
        "idle_since",
        "is_disowned",
        "is_doubted",
        "leak_reported",
        "lease_class",
        "lent_at",
        "minds_statements",
        "opened_at",
        "pings_on_checkout",
        "pings_on_cursor",
        "pings_on_query",
        "raw",
        "session",
        "shares",
        "streams",
    )

    _closed: bool
    lease_class: Any  # of a LeaseConnection; set by the pool

    def __init__(self, driver: Driver, config: PoolConfig) -> None:
        self.driver = driver
        self.session = Session()
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
        # Whether something is to be seen to at each statement, and not at the first alone.
        self.minds_statements = self.pings_on_query or bool(self._maxusage)
        self.hung_up = _look_at(driver.fileno(self.raw))
        """Whether the server's side has ended, or said something nobody asked for (not 0): a look
        at the socket, without a round trip; 0 where there is no socket to look at."""
        _connections.add(self)

    def _create(self) -> Any:
        """Connect to the first server that will do."""
        servers = self.driver.servers
        errors: list[Exception] = []
        for server in servers.in_turn():
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
        raw = self.driver.connect(where)
        left = self._connect_timeout - (time.monotonic() - self.opened_at)
        try:
            with self.bounded(max(left, 0.0), raw):
                self.driver.set_up(raw)
                self._set_up(raw)
        except BaseException:
            self.driver.abandon(raw)
            raise
        return raw

    def _set_up(self, raw: Any) -> None:
        if self._setsession_sql:
            self._setsession(raw)
            raw.commit()  # a SELECT among them would leave a transaction and its snapshot open

    def bounded(self, seconds: float, raw: Any = None) -> Any:
        """A block in which the connection is cut if the server lets it wait that long."""
        return housekeeper.bounded(seconds, functools.partial(self.driver.abort, raw or self._con))

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
        return alive and not self.hung_up()  # cut as the answer came

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
            if not self.driver.reset_session(self._con):
                return False
            self.session = Session()
            self._set_up(self._con)
        return True

    def close(self) -> None:
        """Say goodbye to the server and close."""
        self._end(self.driver.close)

    def abandon(self) -> None:
        """Close without a word to a server that may not listen."""
        self._end(self.driver.abandon)

    def disown(self) -> None:
        """In a forked child: leave the connection to the parent, without a byte on the wire."""
        self.is_disowned = True
        if not self._closed:
            self._closed = True
            self.driver.disown(self._con)

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


def disown_connections() -> None:
    """In a forked child: leave every connection of this process to the parent."""
    for con in list(_connections):
        con.disown()
    _connections.clear()


def _never_fatal(error: BaseException) -> bool:
    return False


class _PollFD(ctypes.Structure):
    _fields_: ClassVar = [  # struct pollfd of poll(2)
        ("fd", ctypes.c_int),
        ("events", ctypes.c_short),
        ("revents", ctypes.c_short),
    ]


def _look_at(fileno: int | None) -> Callable[[], int]:
    """A function that tells whether the descriptor has anything to say, without waiting for it.

    It keeps the GIL, as `select.poll` does not: that would wake up another thread and line up
    behind it, for an answer that the kernel has at hand. Nor does gevent know of it.
    """
    if fileno is None or not hasattr(select, "poll"):
        return int  # called, it is 0
    asked = _PollFD(fileno, select.POLLIN | select.POLLPRI)
    return functools.partial(ctypes.pythonapi.poll, ctypes.byref(asked), 1, 0)
