"""MariaDB Connector/Python: what its errors mean, and how to read its state."""

from __future__ import annotations

import ctypes
import math
import re
from types import ModuleType
from typing import Any, ClassVar

from flask_pooled_db.drivers.base import AUTOCOMMIT_REFUSED, Failure
from flask_pooled_db.drivers.mysql import STATUS_IN_TRANS, MySQLDriver
from flask_pooled_db.drivers.sockets import Look, look_at_talkative

_POOLING_REFUSED = "can't be set: this extension is the pool"
_FORMAT_STYLE = re.compile(r"%(?:s|\(\w+\)s)")


class MariaDBConnectorDriver(MySQLDriver):
    """MariaDB Connector/Python, which wraps a C library.

    Its `server_status` is right after every statement that succeeded. An exception in the middle of
    a statement puts it out of step with the server for good, and it doesn't notice.
    """

    module = "mariadb"
    schemes = ("mariadb", "mariadb+mariadbconnector", "mysql+mariadbconnector")
    closed_error_name = "ProgrammingError"
    how_to_install = "pip install 'flask-pooled-db[mariadb]'"
    tells_transactions = True
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

    def __init__(
        self, creator: Any, dbapi: ModuleType, arguments: dict[str, Any], timeout: float
    ) -> None:
        super().__init__(creator, dbapi, arguments, timeout)
        if self._is_module_connect:
            # It covers the handshake too, but takes whole seconds only.
            self._arguments = {"connect_timeout": math.ceil(timeout), **arguments}

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

    def in_transaction(self, raw: Any) -> bool:
        return bool(self.server_status(raw) & STATUS_IN_TRANS)

    def translate(self, sql: Any) -> Any:
        # It replaces %s, but leaves a %% beside it as it is.
        if isinstance(sql, str) and "%%" in sql and _FORMAT_STYLE.search(sql):
            return sql.replace("%%", "%")
        return sql

    def send_reset(self, raw: Any) -> None:
        raw.reset()

    def is_streaming(self, cursor: Any) -> bool:
        return not cursor.buffered and bool(cursor.field_count)

    def close(self, raw: Any) -> None:
        if not raw._closed:
            raw.close()
