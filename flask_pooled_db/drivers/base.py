"""What the pool has to know of a driver, and the answers for a DB-API 2 module it doesn't know."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, NamedTuple

from flask_pooled_db.config import DatabaseURL
from flask_pooled_db.drivers import sockets
from flask_pooled_db.drivers.servers import Servers
from flask_pooled_db.errors import ConfigError, UsageError


class Failure(enum.Enum):
    """What an error means for the transaction it happened in."""

    STATEMENT = "only this statement failed"
    ROLLED_BACK = "the server has rolled the transaction back"
    UNUSABLE = "the server has rolled it back, and serves this connection no more"
    LOST = "the connection is lost, or what the server did is not known"


class Session(NamedTuple):
    """The state of a session that scopes change: a connection is in one of these states."""

    readonly: bool = False
    statement_timeout: float = 0.0  # seconds; 0: none


class Driver:
    """A DB-API 2 module together with the arguments to connect with.

    It holds no state of any connection; `raw` is always the driver's own connection. An instance
    serves as DBUtils' `creator`: it has `connect`, `dbapi` and `threadsafety`.

    This base is for modules nothing is known about, and promises less: no `readonly`, isolation
    level or statement timeout; any OperationalError, InterfaceError or InternalError costs the
    connection, since what it means can't be told; no look at the socket.
    """

    module: ClassVar[str] = ""
    """The import name of the DB-API 2 module this adapter is for."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """The schemes of URLs that ask for this adapter."""
    how_to_install: ClassVar[str] = ""
    database_argument: ClassVar[str] = "database"
    """The name of the connect argument for a URL's database."""
    recognizes_primary: ClassVar[bool] = False
    """Whether `wants_primary` may be set."""
    hazard_of_sharing: ClassVar[str] = ""
    """Why threads can't share a connection, whatever the module says of its threadsafety."""
    refused_arguments: ClassVar[Mapping[str, str]] = {}
    """Connect arguments that break a promise, and what to do instead."""

    def __init__(
        self, creator: Any, dbapi: ModuleType | None, arguments: dict[str, Any], timeout: float
    ) -> None:
        self.dbapi = dbapi
        self.connect_timeout = timeout
        # A class is a callable whose `connect` is a method (PyMySQL's `connect` is its Connection).
        is_class = isinstance(creator, type)
        self._create = creator if is_class else getattr(creator, "connect", creator)
        # A function of the application's own gets its own arguments and no others.
        self._is_own_creator = self._create is getattr(dbapi, "connect", None)
        self._arguments = arguments
        self.servers = Servers([{}])
        self.wants_primary = False
        self.suffers_from_forks = False
        """Whether a child harms its parent's connections by what it opens itself: idle ones are
        closed before a fork."""
        named = getattr(creator, "threadsafety", getattr(dbapi, "threadsafety", None))
        self.threadsafety = 1 if named is None else int(named)
        self.why_not_shared = f"its threadsafety is {self.threadsafety}"
        if self.hazard_of_sharing:
            self.threadsafety = 1
            self.why_not_shared = self.hazard_of_sharing
        self.Error: type[Exception] = getattr(dbapi, "Error", Exception)
        broken = ("OperationalError", "InterfaceError", "InternalError")
        self.failures = tuple(getattr(dbapi, name) for name in broken if hasattr(dbapi, name)) or (
            Exception,
        )

    @property
    def name(self) -> str:
        """The name to use in messages."""
        return self.module or getattr(self.dbapi, "__name__", "a DB-API 2 creator")

    # From the configuration

    @classmethod
    def accepts(cls, creator: Any, dbapi: ModuleType) -> bool:
        """Return whether this adapter fits a creator of connections and its DB-API 2 module."""
        return dbapi.__name__ == cls.module

    @classmethod
    def arguments_from(cls, url: DatabaseURL) -> dict[str, Any]:
        """Return the connect arguments for a URL. Raises `ConfigError` if there are none."""
        named = {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "password": url.password,
            cls.database_argument: url.database,
        }
        given = {name: value for name, value in named.items() if value is not None}
        return given | cls.query_arguments(url)

    @classmethod
    def query_arguments(cls, url: DatabaseURL) -> dict[str, Any]:
        """Return the connect arguments in a URL's query."""
        try:
            return {name: cls.from_text(name, text) for name, text in url.query.items()}
        except ValueError:
            raise ConfigError(["a query parameter of the URL must be a number"]) from None

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        """What is wrong with these connect arguments, each with its remedy."""
        return [
            f"the connect argument {name!r} {remedy}"
            for name, remedy in cls.refused_arguments.items()
            if arguments.get(name)
        ]

    @classmethod
    def from_text(cls, name: str, text: str) -> Any:
        """The value of the connect argument `name` that stands in a URL's query as `text`."""
        lowered = text.lower()
        if lowered in ("true", "false"):
            return lowered == "true"
        return int(text) if text.isascii() and text.isdecimal() else text

    # Connecting

    def connect(self, where: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """A new connection to the server that the arguments in `where` name.

        A transaction starts with its first statement.
        """
        return self._create(**{**self._arguments, **where})

    def set_up(self, raw: Any) -> None:
        """Make sure that a new connection is of use; raises where it is not."""

    def is_transient(self, error: BaseException) -> bool:
        """Whether another try to connect may succeed after this error."""
        return isinstance(error, (*self.failures, OSError)) and isinstance(error, Exception)

    # Liveness

    def fileno(self, raw: Any) -> int | None:
        """The descriptor of the connection's socket; None where there is none to be had."""
        return None

    def look(self, raw: Any) -> sockets.Look:
        """Return a function that looks at the connection's socket: see `sockets`."""
        return sockets.look_at(self.fileno(raw))

    def ping(self, raw: Any) -> None:
        """One round trip; raises when the connection is of no use."""
        ping = getattr(raw, "ping", None)
        if ping is not None:
            ping()

    # Errors

    def classify(self, raw: Any, error: BaseException) -> Failure:
        """What this error of a statement means. May ask the server, of a live connection."""
        if not isinstance(error, self.Error) or isinstance(error, self.failures):
            return Failure.LOST
        return Failure.STATEMENT

    def is_retryable(self, error: BaseException) -> bool:
        """Whether the same transaction, started over, may succeed after this error."""
        return False

    def never_sent(self, error: BaseException) -> bool:
        """Whether the driver refused to send the command at all, as the connection was gone."""
        return False

    # Transactions and sessions

    tells_transactions: ClassVar[bool] = False
    """Whether the two that follow say anything."""

    def in_transaction(self, raw: Any) -> bool | None:
        """Whether the server has a transaction open; None where the driver can't truly tell."""
        return None

    def refuses_commit(self, raw: Any) -> bool:
        """Whether the server would roll back when told to commit, without calling it an error."""
        return False

    def execute(self, raw: Any, sql: str) -> None:
        """Run a statement of the pool's own."""
        cursor = self.cursor(raw)
        try:
            cursor.execute(sql)
        finally:
            cursor.close()

    def cursor(self, raw: Any) -> Any:
        """A cursor for a statement of the pool's own."""
        cursor = raw.cursor()
        if self.prepare_cursor:
            self.prepare_cursor(cursor)
        return cursor

    prepare_cursor: Callable[[Any], object] | None = None
    """What has to be done with each new cursor of the driver's."""

    translate: Callable[[Any], Any] | None = None
    """Makes, of a statement that has parameters, one with the placeholders that the driver
    understands."""

    def begin(self, raw: Any) -> None:
        """See to it that a transaction is open, so that a savepoint can be set."""

    def apply_session(self, raw: Any, old: Session, new: Session) -> None:
        """Bring the session from one state to another, in one round trip at most."""
        if new.readonly != old.readonly:
            raise UsageError(f"readonly=True can't be had: {self.name} has no known way to it")
        if new.statement_timeout and not self.needs_interrupting(raw):
            raise UsageError(f"statement_timeout can't be had: {self.name} has no known way to it")

    def is_intact(self, raw: Any, session: Session) -> bool:
        """False where it can be seen, without asking, that the session is not in this state."""
        return True

    # Time limits that the server does not keep

    def needs_interrupting(self, raw: Any) -> bool:
        """Whether a statement's time limit is kept by `interrupt`, and by nobody else."""
        return callable(getattr(raw, "cancel", None))

    interruption_grace: ClassVar[float] = 0.0
    """Seconds after a time limit in which the server may end the statement by itself."""

    def interrupt(self, raw: Any, helper: Callable[[], Any]) -> None:
        """End the statement that runs on a connection, from another thread; return when that is
        done. `helper` returns another connection to the same server.
        """
        raw.cancel()

    def identity(self, raw: Any) -> Any:
        """Return what tells the connection's server from all others, where `interrupt` needs it."""
        return None

    def is_interruption(self, error: BaseException) -> bool:
        """Whether a statement that was interrupted ended by it, so that nothing is yet to come."""
        return False

    def time_is_up(self, seconds: float, error: Exception | None = None) -> Exception:
        """Return what to raise for a statement that took longer than it may; `error` is what it
        ended in, if not without one.
        """
        text = f"the statement took longer than its limit of {seconds:g} s"
        return error or self.failures[0](text)

    def isolation_statement(self, level: str) -> str | None:
        """The statement that gives the next transaction alone this level; None: it has it."""
        raise UsageError(f"isolation_level can't be had: {self.name} has no known way to it")

    def fresh_session(self, raw: Any) -> Any:
        """Return what `reset_session` has to know of a session that is new."""
        return None

    def reset_session(self, raw: Any, fresh: Any) -> bool:
        """Undo all that the session holds, so that it is as new. Returns False where only closing
        the connection does that.
        """
        return False

    # Rows not read

    def has_unread_rows(self, raw: Any) -> bool:
        """Whether the server still has rows to send for a statement that has been run."""
        return False

    def finish_reading(self, raw: Any) -> None:
        """Read the rows that are left, when all cursors have been closed."""

    has_to_close_cursors: ClassVar[bool] = True
    """Whether a cursor that is left open may do harm to the connection's next user. Where it does
    not, closing one waits for the server only if the connection has unread rows."""

    is_streaming: Callable[[Any], bool] | None = None
    """Whether a cursor reads its rows from the server only as they are fetched, where that can't be
    seen of its connection."""

    # The end

    def close(self, raw: Any) -> None:
        """Say goodbye and close."""
        raw.close()

    def cut(self, raw: Any) -> None:
        """Cut the connection, from any thread. A call that waits for the server fails at once."""
        fileno = self.fileno(raw)
        if fileno is not None:
            sockets.cut(fileno)

    def terminate(self, raw: Any) -> None:
        """Close without waiting for the server or reading what it still has to send."""
        self.cut(raw)
        self.close(raw)

    def close_all(self) -> None:
        """Let go of what the driver itself holds for its connections; its pool was closed."""

    # Fork

    def detach(self, raw: Any) -> None:
        """In a forked child, make sure that nothing the child does reaches the parent's session."""
        fileno = self.fileno(raw)
        if fileno is None:
            keep_forever(raw)
        else:
            sockets.detach(fileno)

    def after_fork(self) -> None:
        """In a forked child: forget what belongs to the parent."""
        self.servers.after_fork()


def keep_forever(thing: Any) -> None:
    """See to it that an object is never finalized, not even at the interpreter's exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
