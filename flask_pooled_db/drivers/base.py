"""What the pool asks of a driver, and the answers for an unknown DB-API 2 module."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, NamedTuple

from flask_pooled_db.drivers import creators, sockets, unknown
from flask_pooled_db.drivers.comments import Comments
from flask_pooled_db.drivers.configuration import FromConfiguration
from flask_pooled_db.drivers.effects import of_mariadb
from flask_pooled_db.drivers.limits import TimeLimits
from flask_pooled_db.drivers.results import Results
from flask_pooled_db.drivers.schemas import Schemas
from flask_pooled_db.drivers.scripts import MARIADB
from flask_pooled_db.drivers.servers import Servers
from flask_pooled_db.drivers.serverside import ServerSide
from flask_pooled_db.drivers.watching import Watching
from flask_pooled_db.errors import ConfigError, UsageError

AUTOCOMMIT_REFUSED = (
    "can't be set: use db_connection_context() for writes, which commits at its end, and give it "
    "readonly=True for reads"
)


class Failure(enum.Enum):
    """What an error means for the transaction in which it happened."""

    STATEMENT = "only this statement failed"
    DOOMED = "the transaction can't be committed, unless a savepoint undoes the statement"
    ROLLED_BACK = "the server has rolled the transaction back"
    UNUSABLE = "the server has rolled it back, and refuses to go on with this connection"
    LOST = "the connection is lost, or nobody knows what the server did"


class Session(NamedTuple):
    """The part of a session's state that scopes change."""

    readonly: bool = False
    statement_timeout: float = 0.0  # seconds; 0: none
    schema: str | None = None  # of a tenant; None: the connection's own


IN_DOUBT = ""
"""In place of a schema: nobody knows in which one the session is."""


FRESH_SESSION = Session()
"""The state of a session that no scope has changed."""


class Driver(FromConfiguration, Comments, Results, Schemas, ServerSide, TimeLimits, Watching):
    """A DB-API 2 module together with the arguments to connect with.

    It holds no state of any connection. `raw` is always the driver's own connection. An instance
    serves as DBUtils' `creator`: it has `connect`, `dbapi` and `threadsafety`.

    This base class serves unknown modules, and promises less: no `readonly`, isolation level or
    statement timeout, and a look at the socket only if the connection has `fileno()`. Any error
    costs the connection, because its meaning is unknown, unless its class says that only the
    statement is wrong. Such an error ends the transaction, as PostgreSQL has it, unless the
    connection says what became of it, or a savepoint undoes the statement.

    A driver says in one of three ways what it can't do. It raises `UsageError` for an option that
    the caller asked for. It answers a question with None if it doesn't know, or else with the
    safer answer. And it has None in place of a step that it doesn't need (`prepare_cursor`,
    `translate`, `is_streaming`): callers on the hot path then make no call.
    """

    refused_arguments: ClassVar[Mapping[str, str]] = {"autocommit": AUTOCOMMIT_REFUSED}
    recognizes_primary: ClassVar[bool] = False
    """Whether the driver can tell a primary from a replica, so that `wants_primary` may be set."""
    hazard_of_sharing: ClassVar[str] = ""
    """Why threads must not share a connection, whatever the module's threadsafety says."""

    asks: ClassVar[bool] = False
    """Whether a function tells its URL, at each connect."""

    closed_error_name: ClassVar[str] = "InterfaceError"
    """The name of the class of what a closed connection raises."""
    harmless: ClassVar[frozenset[str]] = frozenset(
        {"fetchone", "fetchmany", "fetchall", "nextset", "scroll", "setinputsizes", "setoutputsize"}
    )
    """The methods of connections and cursors that send no statement. All others may."""
    takes_sql: ClassVar[frozenset[str]] = frozenset({"copy", "copy_expert", "stream"})
    """The methods of cursors, beside those of the standard, whose first argument is a statement."""
    rows_only: ClassVar[frozenset[str]] = frozenset({"copy_from", "copy_to"})
    """The methods of connections and cursors that do nothing but read and write rows."""
    tells_schema: ClassVar[frozenset[str]] = frozenset()
    """The attributes of connections that tell the schema that they are in."""
    nesting: ClassVar[frozenset[str]] = frozenset(
        {"execute_named", "execute_simple", "execute_unnamed"}
    )
    """The methods that would otherwise be transactions of their own; here are those of pg8000."""

    def __init__(
        self, creator: Any, dbapi: ModuleType | None, arguments: dict[str, Any], timeout: float
    ) -> None:
        self.dbapi = dbapi
        self.connect_timeout = timeout
        self._create = creators.what_connects(creator)
        # An application's own creator gets the arguments that were configured and no others.
        self._is_module_connect = creators.is_module_connect(creator, dbapi)
        self._arguments = arguments
        self.servers = Servers([{}])  # the arguments themselves name the server
        self.wants_primary = False  # whether to refuse servers that take no writes
        self.suffers_from_forks = False
        """Whether a forked child can harm its parent's connections by opening its own. The pool
        then closes idle connections before a fork."""
        self.threadsafety = creators.threadsafety_of(creator, dbapi)
        self._is_assumed_safe = dbapi is None and not hasattr(creator, "threadsafety")
        self.why_not_shared = f"its threadsafety is {self.threadsafety}"
        if self.hazard_of_sharing:
            self.threadsafety = min(self.threadsafety, 1)
            self.why_not_shared = self.hazard_of_sharing
        self.iterates_cursors = type(self) is Driver
        """Whether a cursor is best iterated in the driver's own way, and not by `fetchone()`."""
        if type(self) is Driver:
            self.forget = unknown.forget
        self.Error: type[Exception] = getattr(dbapi, "Error", Exception)
        broken = ("OperationalError", "InterfaceError", "InternalError")
        self.failures = _classes(dbapi, broken) or (Exception,)
        """Errors after which a connection isn't trusted. The pool raises the first one itself."""
        self.closed_error: type[Exception] = getattr(dbapi, self.closed_error_name, self.Error)
        """What a closed connection of the driver's raises."""
        wrong = ("ProgrammingError", "IntegrityError", "DataError", "NotSupportedError")
        self.statement_errors = _classes(dbapi, wrong)
        """Errors that say by their class what is wrong with a statement."""

    @property
    def name(self) -> str:
        """Return the name to use in messages."""
        return self.module or getattr(self.dbapi, "__name__", "a DB-API 2 creator")

    @property
    def title(self) -> str:
        """Return what its users call the module."""
        return self.module or getattr(self.dbapi, "__name__", "DB-API 2")

    # Connecting

    @property
    def is_known(self) -> bool:
        """Whether it is known what it can do: not before a function has told its URL."""
        return True

    def for_connect(self) -> Driver:
        """Return the driver for one connect: this one, unless a function tells its URL."""
        return self

    def follow(self, earlier: Any) -> None:
        """Take over from an earlier driver of the same pool what belongs to neither alone."""
        self.servers.follow(earlier.servers)

    def connect(self, where: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """Return a new connection, with the arguments in `where` added that name the server.

        The connection begins a transaction with its first statement.
        """
        own = self.introduction() if self._is_module_connect else {}
        return self._create(**{**own, **self._arguments, **self.read_password(), **where})

    def set_up(self, raw: Any) -> None:
        """Prepare a new connection. Raises if it can't be used."""
        if self._is_assumed_safe and creators.is_unsafe(raw):
            raise ConfigError([creators.UNSAFE])
        if type(self) is Driver and unknown.keeps_transactions(raw):
            self.effects, self.tells_lost_savepoints = of_mariadb, True
            self.dialect = MARIADB
            self.cursors_send = unknown.set_up(raw)

    def is_transient(self, error: BaseException) -> bool:
        """Return whether another attempt to connect may succeed after this error."""
        return isinstance(error, (*self.failures, OSError)) and not isinstance(error, ConfigError)

    # Liveness

    def fileno(self, raw: Any) -> int | None:
        """Return the descriptor of the connection's socket, or None if it isn't known."""
        return unknown.fileno(raw)

    def look(self, raw: Any) -> sockets.Look:
        """Return a function that looks at the connection's socket, as described in `sockets`."""
        if type(self).fileno is Driver.fileno:  # who knows what its server sends
            return sockets.look_at_talkative(self.fileno(raw))
        return sockets.look_at(self.fileno(raw))

    def can_be_cut(self, raw: Any) -> bool:
        """Return whether `cut` ends a call that waits for the server, or none ever does."""
        return (
            type(self).fileno is not Driver.fileno
            or self.fileno(raw) is not None
            or unknown.is_local(raw)
        )

    def ping(self, raw: Any) -> bool | None:
        """Make one round trip. Raises if the connection can't be used.

        Returns True if it may have left a transaction open where none was.
        """
        alive = unknown.ping(raw)
        if alive is None:
            unknown.probe(self.cursor(raw), self.failures, self.statement_errors)
            return self.in_transaction(raw) is not False
        if not alive:
            raise self.failures[0]("the connection's ping() says that it is dead")
        return False

    # Errors

    def classify(self, raw: Any, error: BaseException) -> Failure:
        """Return what an error proves, of COMMIT too; LOST if nothing. May ask the server."""
        if unknown.refused_unread(raw, error):
            return Failure.STATEMENT
        told, state = unknown.transaction(raw), unknown.sqlstate(error)
        if told is not None and state:
            is_lost = state.startswith(unknown.UNKNOWN_STATES)
            return Failure.LOST if is_lost else Failure.DOOMED
        if not isinstance(error, self.Error) and unknown.is_in_step(raw):
            return Failure.STATEMENT
        if not isinstance(error, self.statement_errors) or isinstance(error, self.failures):
            return Failure.LOST
        if unknown.keeps_transactions(raw):
            return Failure.STATEMENT if self._is_still_open(raw) else Failure.ROLLED_BACK
        # Without a transaction, a wrong use of the module has lost none.
        is_misuse = isinstance(error, _classes(self.dbapi, ("ProgrammingError",)))
        is_kept = told is unknown.Told.OPEN or (told is unknown.Told.NONE and is_misuse)
        return Failure.STATEMENT if is_kept else Failure.DOOMED

    def _is_still_open(self, raw: Any) -> bool:
        """Return False if a routine has ended the transaction before it raised an error."""
        if not unknown.flag(raw):
            return True  # before the statement there was none, or nobody knows
        return self.is_in_transaction_for_sure(raw) is not False

    transaction_survived: Callable[[Any, BaseException, Any], bool | None] | None = None
    """Returns whether the transaction that was open before a statement survived its error, which
    means STATEMENT, or None if nobody can tell. May ask the server. None if it always did."""

    def is_retryable(self, error: BaseException) -> bool:
        """Return whether the transaction may succeed after this error if it is started over."""
        return unknown.sqlstate(error) in unknown.RETRYABLE_STATES

    def never_sent(self, raw: Any, error: BaseException) -> bool:
        """Return whether an error that means LOST proves that the command was never sent."""
        return False

    # Transactions and sessions

    tells_transactions: ClassVar[bool] = False
    """Whether the driver knows the answers to the next two questions."""

    def in_transaction(self, raw: Any) -> bool | None:
        """Return whether the server has a transaction open, or None if the driver doesn't know."""
        told = unknown.transaction(raw)
        return None if told is None else told is not unknown.Told.NONE

    def is_in_transaction_for_sure(self, raw: Any) -> bool | None:
        """Return what `in_transaction` does, also right after an error. May ask the server."""
        if unknown.flag(raw) is None:
            return self.in_transaction(raw)
        self.execute(raw, "DO 0")  # an error tells nothing; the next answer does
        return unknown.flag(raw)

    def release_if_there(self, raw: Any, savepoint: str) -> bool:
        """Release a savepoint. Returns whether it was there."""
        try:
            self.execute(raw, f"RELEASE SAVEPOINT {savepoint}")
        except self.Error as error:
            if not unknown.is_unknown_savepoint(error):
                raise
            return False
        return True

    def refuses_commit(self, raw: Any) -> bool:
        """Return whether the server would answer COMMIT with a silent rollback."""
        return False

    def execute(self, raw: Any, sql: str) -> None:
        """Run a statement for the pool itself."""
        cursor = self.cursor(raw)
        try:
            cursor.execute(sql)
        finally:
            cursor.close()

    def cursor(self, raw: Any) -> Any:
        """Return a cursor for a statement of the pool itself."""
        cursor = raw.cursor()
        if self.prepare_cursor:
            self.prepare_cursor(cursor)
        return cursor

    prepare_cursor: Callable[[Any], object] | None = None
    """Prepares each new cursor of the driver; None if that isn't needed."""

    translate: Callable[..., Any] | None = None
    """Returns a statement with the driver's own placeholders, given its parameters, or without them
    for `executemany`; None if they are those of MariaDB's drivers."""

    def set_savepoint(self, raw: Any, name: str) -> None:
        """Set a savepoint, before the next statement that writes at the latest."""
        self.execute(raw, f"SAVEPOINT {name}")

    before_step: Callable[[Any], None] | None = None
    """Does what has to come before something that was handed out may write; None if `set_savepoint`
    has done it all."""

    def end_savepoint(self, raw: Any, name: str, *, roll_back: bool) -> None:
        """Release a savepoint, or undo what came after it."""
        verb = "ROLLBACK TO SAVEPOINT" if roll_back else "RELEASE SAVEPOINT"
        self.execute(raw, f"{verb} {name}")

    def unblock_commit(self, raw: Any, error: BaseException, cursors: Iterable[Any]) -> bool:
        """Return whether COMMIT, which was refused, may be sent again: `cursors` that are open
        kept it from being done, and are closed now.
        """
        return False

    def open_transaction(self, raw: Any) -> None:
        """Open a transaction on the server, so that what the driver does itself is part of it."""
        unknown.open_transaction(raw)

    def apply_session(self, raw: Any, old: Session, new: Session) -> None:
        """Change the session from one state to another, in one round trip at most. Its schema is
        `enter_schema`'s affair.
        """
        if new.readonly != old.readonly:
            raise self._unsupported("readonly=True")
        if new.statement_timeout and not self.needs_interrupting(raw):
            raise self._unsupported("statement_timeout")

    def is_intact(self, raw: Any, session: Session) -> bool:
        """Return False if the driver knows, without asking, that the session left this state."""
        return True

    def isolation_statement(self, level: str) -> str | None:
        """Return what gives `begin` the next transaction's level, or None if each has it."""
        raise self._unsupported("isolation_level")

    def begins_late(self, raw: Any) -> bool:
        """Return whether a transaction would begin in a round trip of its own, so that the next two
        methods are asked for.
        """
        return False

    def can_begin_with(self, raw: Any, function: Any, text: object) -> bool:
        """Return whether a call with a statement is one that a transaction can begin with."""
        return False

    def begin_with(self, raw: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Call what sends a statement, and begin the transaction in its round trip."""
        return function(*args)

    def begin(self, raw: Any, statement: str) -> None:
        """Have the next transaction be as an `isolation_statement` says."""
        self.execute(raw, statement)

    def _unsupported(self, option: str) -> UsageError:
        return UsageError(f"{self.name} does not support {option}: leave it out")

    def fresh_session(self, raw: Any) -> Any:
        """Return what `reset_session` has to know about a new session."""
        return None

    def reset_session(self, raw: Any, fresh: Any) -> bool:
        """Make the session as good as new. Return False if the connection has to be closed."""
        return False

    # The end

    def checkpoint(self, raw: Any) -> None:
        """Before all idle connections are closed, bring into the database what lies beside it. Does
        not wait for other connections for long.
        """

    def close(self, raw: Any) -> None:
        """Say goodbye to the server and close."""
        raw.close()

    def cut(self, raw: Any) -> None:
        """Cut the connection, from any thread. A call that waits for the server fails at once."""
        fileno = self.fileno(raw)
        if fileno is not None:
            sockets.cut(fileno)

    def terminate(self, raw: Any) -> None:
        """Close without a goodbye, and without reading what the server still has to send."""
        try:
            self.cut(raw)
        finally:
            self.close(raw)

    @property
    def outlives_connections(self) -> bool:
        """Whether the database is there while no connection to it is open."""
        return True

    @property
    def holds_anything(self) -> bool:
        """Whether `close_all()` has anything to release."""
        return False

    def close_all(self) -> None:
        """Release what the driver itself holds for its connections, after its pool was closed."""

    # Fork

    def detach(self, raw: Any) -> None:
        """In a forked child, make sure that nothing the child does reaches the parent's session."""
        fileno = self.fileno(raw)
        if fileno is None:
            keep_forever(raw)
        else:
            sockets.detach(fileno)

    def after_fork(self) -> None:
        """In a forked child, forget what belongs to the parent."""
        self.servers.after_fork()


def _classes(dbapi: ModuleType | None, names: Iterable[str]) -> tuple[type[Exception], ...]:
    return tuple(getattr(dbapi, name) for name in names if hasattr(dbapi, name))


def keep_forever(thing: Any) -> None:
    """Keep an object from ever being finalized, even when the interpreter exits."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
