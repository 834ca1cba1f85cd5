"""MariaDB Connector/Python."""

from __future__ import annotations

import ctypes
import math
import re
from types import ModuleType
from typing import Any, ClassVar

from flask_pooled_db.drivers.base import Failure
from flask_pooled_db.drivers.mysql import STATUS_IN_TRANS, MySQLDriver
from flask_pooled_db.drivers.sockets import Look, look_at_talkative

_POOLING = "can't be set: the pool is this extension"
_FORMAT_STYLE = re.compile(r"%(?:s|\(\w+\)s)")


class MariaDBConnectorDriver(MySQLDriver):
    """MariaDB Connector/Python, which wraps a C library.

    Its `server_status` is right after every statement that succeeded. An exception in the middle
    of a statement leaves it out of step with the server for good, without its noticing.
    """

    module = "mariadb"
    schemes = ("mariadb", "mariadb+mariadbconnector", "mysql+mariadbconnector")
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
        "autocommit": "can't be set: scopes commit; use readonly=True for reads without one",
        "reconnect": "can't be set: a reconnect would lose the transaction without a word",
        "pool_name": _POOLING,
        "pool_size": _POOLING,
        "pool_reset_connection": _POOLING,
    }

    def __init__(
        self, creator: Any, dbapi: ModuleType, arguments: dict[str, Any], timeout: float
    ) -> None:
        super().__init__(creator, dbapi, arguments, timeout)
        if self._is_own_creator:
            # Whole seconds are all it takes; it covers the handshake too.
            self._arguments = {"connect_timeout": math.ceil(timeout), **arguments}

    def has_tls(self, raw: Any) -> bool:
        # Without certificate verification the C library silently falls back to plaintext.
        return bool(raw.tls_cipher)

    def prepare_cursor(self, cursor: Any) -> None:
        # The cyclic garbage collector finalizes a cursor that an exception's traceback kept, and
        # its deallocation does so again; the second time its connection is freed, in use or not,
        # and the process crashes (seen with 1.1.14). A cursor holds nothing that leads back to it,
        # so the collector need not know of it: freed by its count of references, it is finalized
        # once.
        ctypes.pythonapi.PyObject_GC_UnTrack(ctypes.py_object(cursor))

    def error_number(self, error: BaseException) -> int:
        return int(getattr(error, "errno", 0) or 0)

    def classify(self, raw: Any, error: BaseException) -> Failure:
        return Failure.LOST if raw._closed else super().classify(raw, error)

    def never_sent(self, error: BaseException) -> bool:
        # 2006 when the command could not be written, 2013 when its answer could not be read.
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
        # Not raw.socket: that is a socket object which closes the descriptor when it goes.
        fileno = -1 if raw._closed else int(raw._get_socket())
        return fileno if fileno >= 0 else None

    def look(self, raw: Any) -> Look:
        # The C library reads the records of TLS, when it reads anything.
        return look_at_talkative(self.fileno(raw)) if self.has_tls(raw) else super().look(raw)

    def ping_server(self, raw: Any) -> None:
        raw.ping()

    def in_transaction(self, raw: Any) -> bool:
        return bool(self.server_status(raw) & STATUS_IN_TRANS)

    def translate(self, sql: Any) -> Any:
        # It knows %s, and not that %% stands for a percent sign beside it.
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
