"""What MariaDB's two drivers share: the server's error numbers and its session variables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, cast

from flask_pooled_db.drivers import mysqlerrors as errors
from flask_pooled_db.drivers import scripts
from flask_pooled_db.drivers.base import Failure, Session
from flask_pooled_db.drivers.effects import Effect, of_mariadb
from flask_pooled_db.drivers.mysql_server import MYSQL
from flask_pooled_db.drivers.mysqldatabases import WithDatabases
from flask_pooled_db.drivers.passwords import NAMES as PASSWORDS
from flask_pooled_db.drivers.passwords import is_encodable
from flask_pooled_db.drivers.tracebacks import Place, place_of
from flask_pooled_db.errors import ConfigError

# Flags of the server status: https://mariadb.com/kb/en/ok_packet/
STATUS_IN_TRANS = 0x0001
STATUS_AUTOCOMMIT = 0x0002
STATUS_SESSION_CHANGED = 0x4000  # by the last statement; sent if the session tracks its state
CLIENT_SESSION_TRACK = 1 << 23  # asks for it: https://mariadb.com/kb/en/connection/
STATUS_MORE_RESULTS = 0x0008

_CHARACTER_SETS = ("character_set_client", "character_set_results", "collation_connection")
_TRACK = "SET session_track_state_change=ON"
_INIT_CONNECT = "init_connect"  # SQL that the server runs for each new connection


class MySQLDriver(WithDatabases):
    """MariaDB and MySQL."""

    recognizes_primary = True
    takes_password_file = True
    server: ClassVar = MYSQL
    harmless = WithDatabases.harmless | {
        *("character_set_name", "escape", "escape_string", "get_autocommit", "get_host_info"),
        *("get_proto_info", "get_server_info", "get_server_version", "insert_id", "literal"),
        *("affected_rows", "fetchall_unbuffered", "mogrify", "thread_id", "xid"),
    }
    rows_only = WithDatabases.rows_only | {"show_warnings"}
    number_arguments: ClassVar = frozenset(
        {"port", "connect_timeout", "read_timeout", "write_timeout", "client_flag"}
    )
    tls_arguments: ClassVar[frozenset[str]] = frozenset()
    """Connect arguments that ask for TLS, unless they are false."""

    @classmethod
    def asks_for_tls(cls, arguments: Mapping[str, Any]) -> bool:
        """Return whether these connect arguments ask for TLS."""
        return any(arguments.get(name) for name in cls.tls_arguments)

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        found = super().problems(arguments)
        for name in PASSWORDS:
            password = arguments.get(name)
            if isinstance(password, str) and not is_encodable(password):
                found.append(f"the connect argument {name!r} has characters that are none")
        return found

    def follow(self, earlier: Any) -> None:
        super().follow(earlier)
        if self.servers.names == earlier.servers.names:
            self._is_galera = earlier._is_galera

    def connect(self, where: Mapping[str, Any] = MappingProxyType({})) -> Any:
        raw = None
        with contextlib.suppress(UnicodeError):
            raw = self.make_connection(where)
        if raw is None:  # the driver's own error holds the whole text, which may be the password
            raise ConfigError(["a connect argument has characters that the driver can't encode"])
        # Both drivers silently fall back to plaintext in some cases.
        if self.asks_for_tls(self._arguments) and not self.has_tls(raw):
            self.terminate(raw)
            raise self.new_error(2026, "TLS was asked for and the connection came up without it")
        return raw

    def make_connection(self, where: Mapping[str, Any]) -> Any:
        """Return a new connection of the driver's."""
        return super().connect(where)

    def has_tls(self, raw: Any) -> bool:
        """Return whether a connection uses TLS."""
        raise NotImplementedError

    def error_number(self, error: BaseException) -> int:
        """Return the number of a driver's error, or 0 if it has none."""
        raise NotImplementedError

    def place_of(self, error: BaseException) -> Place:
        """Return where in the driver's Python code an error arose."""
        dbapi = cast("Any", self.dbapi)
        return place_of(error, (dbapi.cursors, dbapi.connections))

    def proves_nothing(self, error: BaseException) -> bool:
        """Return whether an error tells neither what the server answered nor that nothing was sent.

        A server's numbers are neither below 1000 nor the clients' own. An error without a number
        that is not the statement's comes from a broken answer.
        """
        number = self.error_number(error)
        if not number:
            return not isinstance(error, self.statement_errors)
        return errors.is_clients(number) and number not in errors.CLIENT_REFUSED

    def sent_nothing(self, error: BaseException) -> bool:
        """Return whether an error that is not of the driver's classes proves that its statement was
        not sent, and that no answer is on its way.
        """
        return False

    def server_version(self, raw: Any) -> str:
        """Return the server's version, as it tells it."""
        raise NotImplementedError

    def is_transient(self, error: BaseException) -> bool:
        return super().is_transient(error) and self.error_number(error) not in errors.PERMANENT

    def classify(self, raw: Any, error: BaseException) -> Failure:
        if not isinstance(error, self.Error):
            # It isn't from the database, so it may have interrupted an answer.
            return Failure.STATEMENT if self.sent_nothing(error) else Failure.LOST
        number = self.error_number(error)
        if self.proves_nothing(error) or number in errors.LOST:
            return Failure.LOST
        if number == errors.ERROR_DURING_COMMIT and self._is_galera:
            return Failure.LOST
        if number in errors.UNUSABLE or (self.wants_primary and self._is_read_only_error(error)):
            return Failure.UNUSABLE
        if number in errors.ROLLED_BACK:
            return Failure.ROLLED_BACK
        if number in errors.ASK_SERVER:
            return Failure.STATEMENT if self._still_in_transaction(raw) else Failure.ROLLED_BACK
        return Failure.STATEMENT

    def _is_read_only_error(self, error: BaseException) -> bool:
        # 1290 is also about other options.
        text = str(error).replace("_", "-")
        return self.error_number(error) in errors.READ_ONLY and "read-only" in text

    def _still_in_transaction(self, raw: Any) -> bool:
        # MySQL has no @@in_transaction: there the setting tells what error 1205 has ended.
        mariadb = "MariaDB" in self.server_version(raw)
        answer = "@@in_transaction" if mariadb else "NOT @@innodb_rollback_on_timeout"
        try:
            return bool(self.value(raw, f"SELECT {answer}", 0))
        except self.Error:
            return False  # assume the worse

    def transaction_survived(self, raw: Any, error: BaseException, sql: Any) -> bool | None:
        number = self.error_number(error)
        if not isinstance(error, self.Error) or not number or errors.is_clients(number):
            return True  # it was not sent
        # Unless something was sent since the error, the flags are those from before the statement.
        is_first = isinstance(sql, str) and not hasattr(error, "came_late")
        if is_first and self.in_transaction(raw) is False:
            return True
        # Functions and triggers may neither commit nor roll back (error 1422).
        is_told = isinstance(sql, str) and not self.is_of_earlier(error)
        effect = of_mariadb(sql) if is_told else Effect.UNKNOWN
        if effect is Effect.NONE:
            if number in errors.HARMLESS:
                return True
        elif Effect.UNKNOWN not in effect:
            return True  # what it does to the transaction, its text says
        if not self.is_in_transaction_for_sure(raw):
            return False
        # A routine may have ended the transaction and begun another.
        return True if effect is Effect.NONE else None

    def commits_each(self, raw: Any) -> bool:
        return bool(self.server_status(raw) & STATUS_AUTOCOMMIT)

    has_readonly = tells_lost_savepoints = True

    def is_in_transaction_for_sure(self, raw: Any) -> bool | None:
        # An error packet has no flags; the next OK packet has. https://mariadb.com/kb/en/ok_packet/
        self.execute(raw, "DO 0")
        return bool(self.server_status(raw) & STATUS_IN_TRANS)

    def is_of_earlier(self, error: BaseException) -> bool:
        """Return whether an error may be that of an earlier statement, whose results came late."""
        return False

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, self.Error) and self.error_number(error) in errors.RETRYABLE

    def server_status(self, raw: Any) -> int:
        """Return the flags that the server sent last."""
        return int(raw.server_status)

    # MySQL's max_execution_time ends a SELECT and nothing else:
    # https://dev.mysql.com/doc/refman/9.7/en/server-system-variables.html#sysvar_max_execution_time

    def needs_interrupting(self, raw: Any) -> bool:
        return "MariaDB" not in self.server_version(raw)

    keeps_time = True

    def is_time_limit(self, error: BaseException) -> bool:
        return super().is_time_limit(error) or self.error_number(error) == errors.OUT_OF_TIME

    def commit_unlimited(self, raw: Any) -> None:
        # The limit ends a COMMIT that waits as well, and its transaction with it.
        if "MariaDB" in self.server_version(raw):
            self.execute(raw, "SET STATEMENT max_statement_time=0 FOR COMMIT")
        else:
            raw.commit()

    def limit_transactions(self, raw: Any, seconds: float) -> None:
        # In whole seconds, and while it is idle: https://mariadb.com/kb/en/transaction-timeouts/
        if "MariaDB" in self.server_version(raw):
            self.execute(raw, f"SET idle_transaction_timeout={math.ceil(seconds)}")

    interruption_grace = 0.05

    def interrupt(self, raw: Any, helper: Callable[[], Any]) -> None:
        self.execute(helper(), f"KILL QUERY {self.connection_id(raw)}")

    def connection_id(self, raw: Any) -> int:
        """Return the server's number for the connection."""
        raise NotImplementedError

    def server_id(self, raw: Any) -> int | None:
        with contextlib.suppress(Exception):  # an application's own connections may lack it
            return self.connection_id(raw)
        return None

    def identity(self, raw: Any) -> Any:
        # Behind a proxy, another server may use the same number for another connection.
        if "MariaDB" not in self.server_version(raw):
            return self.value(raw, "SELECT @@server_uuid", 0)
        return self.row(raw, "SELECT @@hostname, @@port, @@server_id, @@datadir, @@pid_file")

    def ending(self, raw: Any) -> Callable[[Callable[[], Any]], object] | None:
        number = self.connection_id(raw)

        def kill(helper: Callable[[], Any]) -> None:
            try:
                self.execute(helper(), f"KILL {number}")
            except self.Error as error:
                if self.error_number(error) != errors.NO_SUCH_CONNECTION:
                    raise

        return kill

    def is_interruption(self, error: BaseException) -> bool:
        return self.error_number(error) in (errors.INTERRUPTED, errors.TIME_IS_UP)

    def time_is_up(self, seconds: float, error: Exception | None = None) -> Exception:
        text = f"Query execution was interrupted: it took longer than its limit of {seconds:g} s"
        return self.new_error(errors.TIME_IS_UP, text)

    def new_error(self, number: int, text: str) -> Exception:
        """Return an OperationalError like the one that the driver makes from a server's error."""
        error: Exception = self.failures[0](number, text)
        return error

    def is_intact(self, raw: Any, session: Session) -> bool:
        status = raw.server_status
        if status & STATUS_IN_TRANS:
            return False  # something began a transaction that the lease did not see
        return bool(status & STATUS_AUTOCOMMIT) == session.readonly

    def apply_session(self, raw: Any, old: Session, new: Session) -> None:
        mariadb = "MariaDB" in self.server_version(raw)
        settings = []
        if new.readonly != old.readonly:
            variable = "tx_read_only" if mariadb else "transaction_read_only"
            settings += [f"autocommit={new.readonly:d}", f"{variable}={new.readonly:d}"]
        if new.statement_timeout != old.statement_timeout:
            if mariadb:  # seconds, to the microsecond
                settings.append(f"max_statement_time={new.statement_timeout:.6f}")
            else:  # milliseconds
                settings.append(f"max_execution_time={round(new.statement_timeout * 1000)}")
        if settings:
            self.execute(raw, f"SET {', '.join(settings)}")

    _is_galera: bool | None = None
    """Whether the server is a node of a cluster, which its first connection tells."""

    effects = staticmethod(of_mariadb)
    dialect = scripts.MARIADB

    def statements(self, raw: Any, script: str) -> Iterator[scripts.Statement]:
        def verbatim() -> str:
            return scripts.verbatim_quotes(self.server_status(raw))

        return scripts.of_mariadb(script, verbatim)

    def _track_session(self, raw: Any) -> None:
        """Have the server tell of each statement that changes the session. One that can't leaves it
        to the statements' texts.
        """
        try:
            self.execute(raw, _TRACK)
        except self.Error as error:
            if self.error_number(error) != errors.UNKNOWN_VARIABLE:
                raise

    def set_up(self, raw: Any) -> None:
        self._track_session(raw)
        if self.server_status(raw) & STATUS_AUTOCOMMIT:
            # The application's own creator or init_command switched it on.
            self.execute(raw, "SET autocommit=0")
        if self._is_galera is None:
            wsrep_on = self.value(raw, "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'", 1)
            self._is_galera = str(wsrep_on).upper() == "ON"
        self._check_server(raw)

    def ping(self, raw: Any) -> None:
        if not self._check_server(raw):
            self.ping_server(raw)

    def _check_server(self, raw: Any) -> bool:
        """Raise if the server can't serve this pool. Return whether that took a round trip."""
        if self._is_galera:
            self._check_node(raw)
        if self.wants_primary and self.value(raw, "SELECT @@read_only", 0) not in (0, "0", "OFF"):
            raise self.failures[0](1290, "the server is read-only: it is not the primary")
        return bool(self._is_galera or self.wants_primary)

    def _check_node(self, raw: Any) -> None:
        # A Galera node that has lost its cluster accepts connections and answers pings, but refuses
        # everything else.
        if self.value(raw, "SHOW GLOBAL STATUS LIKE 'wsrep_ready'", 1) != "ON":
            raise self.failures[0](1047, "the Galera node is not ready: it has lost its cluster")

    def ping_server(self, raw: Any) -> None:
        """Make one round trip to the server."""
        raise NotImplementedError

    def fresh_session(self, raw: Any) -> Any:
        # The server need not do what the client asked for: see character_set_collations and
        # skip-character-set-client-handshake.
        names = (*_CHARACTER_SETS, _INIT_CONNECT)
        variables = ", ".join(f"@@{name}" for name in names)
        return dict(zip(names, self.row(raw, f"SELECT {variables}"), strict=True))

    def reset_session(self, raw: Any, fresh: Any) -> bool:
        if not self._is_module_connect:
            return False  # nobody knows what the application's function did after connecting
        if fresh[_INIT_CONNECT]:
            return False  # the server runs it for a new connection alone
        # It rolls back and clears variables, temporary tables and locks. It keeps the current
        # database, and sets autocommit and the character set to the server's defaults:
        # https://mariadb.com/kb/en/com_reset_connection/
        self.send_reset(raw)
        database = self._arguments.get("database", self._arguments.get("db"))
        if database:
            self.use(raw, database)
        elif self.value(raw, "SELECT DATABASE()", 0) is not None:
            return False  # no SQL makes the session have no current database again
        settings = [f"{name}={fresh[name] or 'NULL'}" for name in _CHARACTER_SETS]
        self.execute(raw, f"SET {', '.join(settings)}, autocommit=0")
        self._track_session(raw)
        if self._arguments.get("sql_mode") is not None:
            cursor = self.cursor(raw)
            cursor.execute("SET sql_mode=%s", (self._arguments["sql_mode"],))
            cursor.close()
        if self._arguments.get("init_command"):
            self.execute(raw, self._arguments["init_command"])
        return True

    def send_reset(self, raw: Any) -> None:
        """Send COM_RESET_CONNECTION."""
        raise NotImplementedError

    def isolation_statement(self, level: str) -> str:
        return f"SET TRANSACTION ISOLATION LEVEL {level}"
