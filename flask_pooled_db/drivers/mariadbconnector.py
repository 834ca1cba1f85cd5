"""MariaDB Connector/Python: what its errors mean, and how to read its state."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from types import ModuleType
from typing import Any, ClassVar, cast

from flask_pooled_db.drivers import optionfiles
from flask_pooled_db.drivers.base import AUTOCOMMIT_REFUSED, Failure
from flask_pooled_db.drivers.configuration import TEXTS
from flask_pooled_db.drivers.mysql import (
    STATUS_IN_TRANS,
    STATUS_MORE_RESULTS,
    STATUS_SESSION_CHANGED,
    MySQLDriver,
)
from flask_pooled_db.drivers.sockets import Look, look_at_talkative

_POOLING_REFUSED = "can't be set: this extension is the pool"
# Functions of the connector, by what they are doing when an error comes through them.
CONVERTS = frozenset({"_check_execute_params", "_substitute_parameters", "_parse_execute"})
PREPARES = frozenset({"execute", "executemany", "callproc", "scroll", "kill"})
_MISUSES = (TypeError, LookupError, AttributeError)
_CHANGED = "_pooled_db_changed"  # an attribute of a connection whose session was changed
_UNKNOWN = 2000
_UTF8 = "leave it out, the connector always uses utf8mb4"
# The words are Python's: those until 3.12, and those since.
_UNKNOWN_ARGUMENT = re.compile("(is an invalid|got an unexpected) keyword argument")
_LOADED = "could not be loaded: it is already loaded"
_ROWS_AT_ONCE = 1000
_LOST = 2013
SQLSTATE = 20  # of mariadb.constants.INFO, which is not there without the driver
_NO_ERROR = "00000"
_CLASSES = {"22": "DataError", "23": "IntegrityError", "42": "ProgrammingError"}
_NO_TEXT = frozenset({int, float, bool, type(None), bytes, bytearray, memoryview, Decimal})
"""Classes of parameters whose text, if it is taken at all, can be encoded; so is a datetime's."""
_FORMAT_STYLE = re.compile(r"%(?:s|\(\w+\)s)")


class MariaDBConnectorDriver(MySQLDriver):
    """MariaDB Connector/Python, which wraps a C library.

    Its `server_status` is right after every statement that succeeded and has no more results to
    come: else it is that of the last result that was read. An exception in the middle of
    a statement puts it out of step with the server for good, and it doesn't notice.
    """

    module = "mariadb"
    title = "MariaDB Connector/Python"
    schemes = ("mariadb", "mariadb+mariadbconnector", "mysql+mariadbconnector")
    password_types = (str,)
    closed_error_name = "ProgrammingError"
    how_to_install = "pip install 'flask-pooled-db[mariadb]'"
    tells_transactions = True
    tells_schema = frozenset({"database"})
    counts_rows = True
    inserts_many_by_text = False
    has_prepared = False  # a cursor does, and is closed with its lease
    tls_arguments: ClassVar = frozenset(
        {
            "ssl",
            "ssl_ca",
            "ssl_capath",
            "ssl_cert",
            "ssl_cipher",
            "ssl_crlpath",
            "ssl_key",
            "ssl_verify_cert",
            "tls_version",
        }
    )
    refused_arguments: ClassVar = {
        "autocommit": AUTOCOMMIT_REFUSED,
        "reconnect": "can't be set: a reconnect would silently lose the transaction",
        "pool_name": _POOLING_REFUSED,
        "pool_size": _POOLING_REFUSED,
        "pool_reset_connection": _POOLING_REFUSED,
    }

    usual_arguments: ClassVar = tls_arguments | {
        *("host", "port", "user", "username", "password", "passwd", "database", "db"),
        *("unix_socket", "connect_timeout", "read_timeout", "write_timeout", "local_infile"),
        *("compress", "init_command", "default_file", "default_group", "plugin_dir", "converter"),
        *("connectionclass", "client_flag"),
    }
    advice: ClassVar = {
        **dict.fromkeys(("charset", "use_unicode"), _UTF8),
        "collation": "set it by SETSESSION",
        "read_default_file": "it is called 'default_file'",
        "read_default_group": "it is called 'default_group'",
    }

    def __init__(
        self, creator: Any, dbapi: ModuleType, arguments: dict[str, Any], timeout: float
    ) -> None:
        super().__init__(creator, dbapi, arguments, timeout)
        if self._is_module_connect:
            # It covers the handshake too, but takes whole seconds only.
            self._arguments = {"connect_timeout": math.ceil(timeout), **arguments}

    @classmethod
    def why_not_supported(cls, dbapi: ModuleType) -> str:
        # Seen with 2.0.0rc2, on MariaDB 10.11: docs/design.md.
        version = str(getattr(dbapi, "__version__", ""))
        if version.partition(".")[0] != "2":
            return ""
        return (
            f"MariaDB Connector/Python 2 is not supported yet: {version} can't read all answers of "
            "a server that tells of changed sessions, and drops rows that were not read when the "
            "next statement comes; install 'mariadb<2', or use mysql+pymysql:// with PyMySQL"
        )

    @classmethod
    def names_of_arguments(
        cls, dbapi: ModuleType, given: Collection[str]
    ) -> Collection[str] | None:
        # Its signature does not tell.
        return cls.usual_arguments.union(
            name
            for name in given
            if name not in cls.usual_arguments
            and not _UNKNOWN_ARGUMENT.search(cls.objection(dbapi, name, ""))
        )

    @classmethod
    def objection(cls, dbapi: ModuleType, name: str, value: Any) -> str:
        if name == "connectionclass" or cast("Any", dbapi).__version_info__[0] != 1:
            return ""
        if name in TEXTS & cls.usual_arguments and _is_plain(value):
            return ""  # it has nothing against these, and to be asked takes it a while
        # It refuses every DSN: before it connects, and after it has looked at all names and types.
        try:
            cast("Any", dbapi).Connection(**{name: value, "dsn": ""})
        except (TypeError, ValueError, OverflowError) as error:
            return str(error)
        except cast("Any", dbapi).Error as error:
            error.__traceback__ = None  # or its frames stay: the connector leaks it
        return ""

    @classmethod
    def asks_for_tls(cls, arguments: Mapping[str, Any]) -> bool:
        file, group = arguments.get("default_file"), arguments.get("default_group")
        if not (file or group):
            return super().asks_for_tls(arguments)
        files = [file] if file else optionfiles.USUAL_FILES
        groups = optionfiles.groups_of(group, ("client", "client-server", "client-mariadb"))
        return super().asks_for_tls(arguments) or optionfiles.ask_for_tls(files, groups)

    def make_connection(self, where: Mapping[str, Any]) -> Any:
        try:
            return super().make_connection(where)
        except self.Error as error:
            if _LOADED not in str(error):
                raise
        # Another thread's connect has loaded the plugin that the account needs while this one was
        # about to: now it is there.
        return super().make_connection(where)

    def has_tls(self, raw: Any) -> bool:
        # Without certificate verification the C library silently falls back to plaintext.
        return bool(raw.tls_cipher)

    def prepare_cursor(self, cursor: Any) -> None:
        # A cursor that an exception's traceback kept is finalized twice: by the cyclic garbage
        # collector, and when it is deallocated. The second time frees its connection, in use or
        # not, and the process crashes (seen with 1.1.14). A cursor is part of no reference cycle,
        # so the collector need not track it: then its reference count alone frees it, once.
        ctypes.pythonapi.PyObject_GC_UnTrack(ctypes.py_object(cursor))

    def error_number(self, error: BaseException) -> int:
        return int(getattr(error, "errno", 0) or 0)

    def classify(self, raw: Any, error: BaseException) -> Failure:
        return Failure.LOST if raw._closed else super().classify(raw, error)

    def proves_nothing(self, error: BaseException) -> bool:
        # The connector's own errors have the number of an unknown error of the library; only one of
        # them comes with an answer.
        if self.error_number(error) == _UNKNOWN:
            is_own = isinstance(error, cast("Any", self.dbapi).ProgrammingError)
            return not is_own or str(error).startswith("Character set")
        return super().proves_nothing(error)

    def sent_nothing(self, error: BaseException) -> bool:
        function, below = place = self.place_of(error)
        if place.is_outside:  # our call does not fit the driver's function
            return isinstance(error, (TypeError, UnicodeEncodeError))
        if function in CONVERTS:
            return True
        return not below and function in PREPARES and isinstance(error, _MISUSES)

    def never_sent(self, raw: Any, error: BaseException) -> bool:
        # 2006: the command could not be written. 2013: its answer could not be read. An answer
        # that says 2006 is refused by the C library as malformed, 2027.
        return self.error_number(error) == 2006

    def connection_id(self, raw: Any) -> int:
        return int(raw.connection_id)

    def new_error(self, number: int, text: str) -> Exception:
        error = super().new_error(number, text)
        error.errno = number  # type: ignore[attr-defined]
        return error

    def server_version(self, raw: Any) -> str:
        return str(raw.server_info)

    def fileno(self, raw: Any) -> int | None:
        # Don't use raw.socket: that socket object closes the descriptor when it is collected.
        fileno = -1 if raw._closed else int(raw._get_socket())
        return fileno if fileno >= 0 else None

    def look(self, raw: Any) -> Look:
        # Over TLS only the C library can read a message, and only along with an answer.
        return look_at_talkative(self.fileno(raw)) if self.has_tls(raw) else super().look(raw)

    def ping_server(self, raw: Any) -> None:
        raw.ping()

    def note_status(self, raw: Any) -> None:
        if self.server_status(raw) & STATUS_SESSION_CHANGED:
            setattr(raw, _CHANGED, True)

    def has_changed(self, raw: Any) -> bool:
        return hasattr(raw, _CHANGED)

    def session_is_set(self, raw: Any) -> None:
        vars(raw).pop(_CHANGED, None)

    def in_transaction(self, raw: Any) -> bool:
        return bool(self.server_status(raw) & STATUS_IN_TRANS)

    def translate(self, sql: Any, parameters: Any = None) -> Any:
        # It replaces %s, but leaves a %% beside it as it is.
        if isinstance(sql, str) and "%%" in sql and _FORMAT_STYLE.search(sql):
            return sql.replace("%%", "%")
        return sql

    def send_reset(self, raw: Any) -> None:
        raw.reset()

    # Unread rows and results. `nextset()` and `close()` swallow the error of a later result, and a
    # fetch takes an error for the end of the rows. The library's SQLSTATE is that of its last call.

    def is_streaming(self, cursor: Any) -> bool:
        return not cursor.buffered and bool(cursor.field_count)

    def disturbs(self, cursor: Any) -> bool:
        # At the end of the rows of a prepared statement the library takes the connection for idle.
        return not cursor._text

    def settle(self, cursor: Any) -> None:
        # Where a row of the binary protocol can't be fetched, the last one is returned twice, and
        # the process crashes when the two are freed (seen with 1.1.14). Storing all rows raises.
        if not cursor._text:
            cursor.buffered = True
            cursor._initresult()

    def has_unread_rows(self, raw: Any) -> bool:
        return bool(self.server_status(raw) & STATUS_MORE_RESULTS)

    def has_only_results(self, raw: Any) -> bool:
        return True

    def finish_rows(self, cursor: Any) -> None:
        while cursor.fetchmany(_ROWS_AT_ONCE):
            pass

    def finish_cursor(self, raw: Any, cursor: Any) -> None:
        if cursor.closed:
            return
        has_more = True
        while has_more:
            if self.is_streaming(cursor):
                self.finish_rows(cursor)
                self.check_end(raw)
            has_more = bool(cursor.nextset())
        self.check_end(raw)

    def check_end(self, raw: Any) -> None:
        state = raw._mariadb_get_info(SQLSTATE)
        if state == _NO_ERROR:
            return
        cursor = self.cursor(raw)
        try:
            cursor.execute("SHOW ERRORS")
            errors = cursor.fetchall()
        finally:
            cursor.close()
        _, number, text = errors[-1] if errors else ("", _LOST, "the result came to no end")
        kind = getattr(self.dbapi, _CLASSES.get(state[:2], "OperationalError"))
        error = kind(text)
        error.errno, error.sqlstate, error.errmsg, error.msg = number, state, text, text
        error.came_late = True
        raise error

    def nothing_to_read(self) -> Exception:
        # After a failed statement the library reads what it has freed, and the process crashes.
        error: Exception = cast("Any", self.dbapi).ProgrammingError(
            "Cursor doesn't have a result set"
        )
        return error

    def check_text(self, *arguments: Any) -> None:
        # The library goes on with a null pointer where Python can't encode a text.
        for argument in arguments:
            if isinstance(argument, str):
                if not argument.isascii():
                    argument.encode()
            elif isinstance(argument, (list, tuple, set, frozenset)):
                self.check_text(*argument)
            elif isinstance(argument, dict):
                self.check_text(*argument.values())
            elif type(argument) not in _NO_TEXT and type(argument).__module__ != "datetime":
                # It takes str() of them; that of a list consists of the repr() of its members.
                f"{argument!s}{argument!r}".encode()

    def close(self, raw: Any) -> None:
        if not raw._closed:
            raw.close()


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and "\0" not in value
