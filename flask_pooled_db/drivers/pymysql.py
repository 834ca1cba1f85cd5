"""PyMySQL: where it connects, what its errors mean, and how to read its state."""

from __future__ import annotations

import encodings.idna  # noqa: F401  so that no fork meets its import by the first connect
import functools
import ssl
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar, cast

from flask_pooled_db.drivers import optionfiles
from flask_pooled_db.drivers.base import AUTOCOMMIT_REFUSED, Failure
from flask_pooled_db.drivers.mysql import CLIENT_SESSION_TRACK, STATUS_IN_TRANS, MySQLDriver
from flask_pooled_db.drivers.passwords import NAMES as PASSWORDS
from flask_pooled_db.drivers.pymysql_connection import (
    WITHOUT_ARGUMENTS,
    TLSContexts,
    connection_class,
)
from flask_pooled_db.drivers.sockets import Look, look_at_tls
from flask_pooled_db.drivers.tracebacks import OWN_ERRORS, codes_of, is_generator

# Functions of PyMySQL, by what they are doing when an error comes through them.
CONVERTS = frozenset({"mogrify", "_mogrify", "escape", "literal", "_escape_string"})
GOES_THROUGH_ROWS = frozenset({"executemany", "_do_execute_many", "<genexpr>"})
PREPARES = frozenset({"execute", "callproc", "kill", "scroll", *GOES_THROUGH_ROWS})
SENDS = frozenset({"query", "_execute_command"})
READS_ROW = "_read_row_from_packet"
READS_RESULT = "next_result"

RUNS_QUERY = "_query"  # the method of a cursor in which it fetches all rows, or does not
_COM_RESET_CONNECTION = 0x1F  # https://mariadb.com/kb/en/com_reset_connection/


class PyMySQLDriver(MySQLDriver):
    """PyMySQL.

    Connections of its own `connect()` have a status that is true; of those of an application's
    creator only what is certain is believed: see `pymysql_status`.
    """

    module = "pymysql"
    title = "PyMySQL"
    schemes = ("mysql", "mysql+pymysql", "mariadb+pymysql")
    how_to_install = "pip install 'flask-pooled-db[pymysql]'"
    named_arguments: ClassVar = {
        "cursorclass": ("pymysql.cursors", ("Cursor", "DictCursor", "SSCursor", "SSDictCursor"))
    }
    password_types = (str, bytes, bytearray)
    counts_rows = True
    has_prepared = False
    number_arguments: ClassVar = MySQLDriver.number_arguments | {"max_allowed_packet"}
    tls_arguments: ClassVar = frozenset(
        {"ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity"}
    )
    refused_arguments: ClassVar = {
        "autocommit": AUTOCOMMIT_REFUSED,
        "defer_connect": "can't be set: the pool connects when a connection is needed",
    }

    def __init__(
        self, creator: Any, dbapi: ModuleType, arguments: dict[str, Any], timeout: float
    ) -> None:
        if arguments.get("ssl") in (True, 1):  # from a URL: TLS that doesn't verify the certificate
            arguments = {**arguments, "ssl": {"check_hostname": False, "verify_mode": False}}
        super().__init__(creator, dbapi, arguments, timeout)
        self._contexts = TLSContexts()
        if self._is_module_connect:
            # One that has been replaced, by a tracer for example, is called.
            if self._create is cast("Any", dbapi).connections.Connection:
                self._create = functools.partial(connection_class(dbapi), self._contexts)
            flags = arguments.get("client_flag", 0) | CLIENT_SESSION_TRACK
            given = {**encoded(arguments), "client_flag": flags}
            self._arguments = {"connect_timeout": timeout, **given}

    def follow(self, earlier: Any) -> None:
        super().follow(earlier)
        self._create, self._contexts = earlier._create, earlier._contexts

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        problems = super().problems(arguments)
        if arguments.get("ssl_disabled") and cls.asks_for_tls({**arguments, "ssl_disabled": False}):
            problems.append(
                "the connect argument 'ssl_disabled' contradicts the other TLS arguments: "
                "remove one or the other"
            )
        return problems

    @classmethod
    def objection(cls, dbapi: ModuleType, name: str, value: Any) -> str:
        if name == "ssl" and isinstance(value, int | str) and value not in (True, False):
            return "it is true, a mapping or an SSLContext"
        if name == "charset" and isinstance(value, str) and value:
            known = cast("Any", dbapi).charset.charset_by_name(value)
            return "" if known else "no character set that it knows; the best is 'utf8mb4'"
        return ""

    @classmethod
    def asks_for_tls(cls, arguments: Mapping[str, Any]) -> bool:
        if arguments.get("ssl_disabled"):
            return False
        file, group = arguments.get("read_default_file"), arguments.get("read_default_group")
        if not (file or group):
            return super().asks_for_tls(arguments)
        files = [file] if file else optionfiles.USUAL_FILES[:1]
        groups = optionfiles.groups_of(group, () if group else ("client",))
        return super().asks_for_tls(arguments) or optionfiles.ask_for_tls(files, groups)

    def introduction(self) -> Mapping[str, Any]:
        return {"program_name": self.label()}

    def read_password(self) -> Mapping[str, Any]:
        return encoded(super().read_password())

    def has_tls(self, raw: Any) -> bool:
        return isinstance(raw._sock, ssl.SSLSocket)

    def error_number(self, error: BaseException) -> int:
        number = error.args[0] if error.args else 0
        return number if isinstance(number, int) else 0

    def classify(self, raw: Any, error: BaseException) -> Failure:
        if not raw.open:  # it closes itself when it loses its place in the protocol
            return Failure.LOST
        if self.place_of(error).function == READS_ROW and not self.error_number(error):
            return Failure.LOST  # a converter's, whatever its class: the rest is unread
        return super().classify(raw, error)

    def sent_nothing(self, error: BaseException) -> bool:
        function, below = place = self.place_of(error)
        if place.is_outside:  # our call does not fit the driver's function
            return isinstance(error, TypeError)
        if function in CONVERTS:
            return True
        if function in GOES_THROUGH_ROWS and below and is_generator(below[0]):
            return True  # it yields the parameters
        if below or not isinstance(error, OWN_ERRORS):
            return False
        # These encode the statement in a line that comes before the one that sends it.
        is_encoding = function in SENDS and isinstance(error, (TypeError, UnicodeEncodeError))
        return is_encoding or function in PREPARES

    def is_of_earlier(self, error: BaseException) -> bool:
        return any(code.co_name == READS_RESULT for code in codes_of(error))

    def never_sent(self, raw: Any, error: BaseException) -> bool:
        # A closed connection answers every command with InterfaceError(0, ""). 2006 means that the
        # command could not be written, and closes it; if the answer could not be read, it is 2013.
        # What lies between client and server may answer 2006 too: then the connection is open.
        if raw.open:
            return False
        is_refusal = isinstance(error, cast("Any", self.dbapi).InterfaceError)
        return self.error_number(error) == (0 if is_refusal else 2006)

    tells_transactions = True

    def in_transaction(self, raw: Any) -> bool | None:
        is_open = bool(self.server_status(raw) & STATUS_IN_TRANS)
        return is_open if is_open or hasattr(raw, "has_true_status") else None

    def has_changed(self, raw: Any) -> bool:
        return getattr(raw, "is_session_changed", False)

    def session_is_set(self, raw: Any) -> None:
        if hasattr(raw, "has_true_status"):
            raw.is_session_changed = False

    def connection_id(self, raw: Any) -> int:
        return int(raw.thread_id())

    def server_version(self, raw: Any) -> str:
        return str(raw.server_version)

    def fileno(self, raw: Any) -> int | None:
        return None if raw._sock is None else raw._sock.fileno()

    def look(self, raw: Any) -> Look:
        return look_at_tls(raw._sock) if self.has_tls(raw) else super().look(raw)

    def ping_server(self, raw: Any) -> None:
        raw.ping(reconnect=False)

    def execute(self, raw: Any, sql: str) -> None:
        raw.query(sql)

    def plain_cursor(self, raw: Any) -> Any:
        return raw.cursor(cast("Any", self.dbapi).cursors.Cursor)

    def send_reset(self, raw: Any) -> None:
        raw._execute_command(_COM_RESET_CONNECTION, b"")
        raw._read_ok_packet()

    def has_unread_rows(self, raw: Any) -> bool:
        result = raw._result
        return result is not None and bool(result.unbuffered_active or result.has_next)

    late_attributes = frozenset({"lastrowid"})
    forgets = False
    has_to_close_cursors = False  # unread rows belong to the connection, not to a cursor

    def has_only_results(self, raw: Any) -> bool:
        return raw._result is not None and not raw._result.unbuffered_active

    def finish_reading(self, raw: Any) -> None:
        result = raw._result
        while result.unbuffered_active:  # PyMySQL's own loop passes over a statement that timed out
            if result._check_packet_is_eof(raw._read_packet()):
                result.unbuffered_active, result.connection = False, None
        while raw._result.has_next:
            raw.next_result()

    def finish_cursor(self, raw: Any, cursor: Any) -> None:
        if cursor._result is not None and cursor._result is raw._result:
            self.finish_reading(raw)

    def is_streaming(self, cursor: Any) -> bool:
        return cursor._result is not None and bool(cursor._result.unbuffered_active)

    def may_stream(self, raw: Any, cursor: Any = None) -> bool:
        kind = raw.cursorclass if cursor is None else type(cursor)
        plain = cast("Any", self.dbapi).cursors.Cursor
        return getattr(kind, RUNS_QUERY, None) is not getattr(plain, RUNS_QUERY)

    def close(self, raw: Any) -> None:
        if raw.open:
            raw.close()

    def terminate(self, raw: Any) -> None:
        # Drop the result, so that neither the connection nor a streaming cursor tries to read the
        # rest of it when it is collected.
        if raw._result is not None:
            raw._result.unbuffered_active = False
            raw._result = None
        raw._force_close()

    def after_fork(self) -> None:
        super().after_fork()
        self._contexts.after_fork()
        WITHOUT_ARGUMENTS.after_fork()


def encoded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return connect arguments in which a password is as the server has it. PyMySQL would encode a
    text as Latin-1, or fail.
    """
    given = {name: arguments[name] for name in PASSWORDS if isinstance(arguments.get(name), str)}
    return {
        **arguments,
        **{name: text.encode() for name, text in given.items() if not text.isascii()},
    }
