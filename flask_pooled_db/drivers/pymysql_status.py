"""PyMySQL's connection with a `server_status` that is true after every statement.

The packet that ends the rows of a result tells the state of the session after it. PyMySQL reads the
packet and drops the flags, so that its own status is that of the last statement without rows.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from flask_pooled_db.drivers.mysql import STATUS_SESSION_CHANGED

_FLAGS = 0xFFFF  # PyMySQL reads them as signed
_QUERY_RESULT = ["self", "unbuffered"]
_EOF_CHECK = ["self", "packet"]


def fits(dbapi: ModuleType) -> bool:
    """Return whether this release of PyMySQL has what is relied on here."""
    connections: Any = getattr(dbapi, "connections", None)
    result = getattr(connections, "MySQLResult", None)
    reads = getattr(getattr(connections, "Connection", None), "_read_query_result", None)
    ends = getattr(result, "_check_packet_is_eof", None)
    return (
        reads is not None
        and ends is not None
        and hasattr(connections, "EOFPacketWrapper")
        and list(inspect.signature(reads).parameters) == _QUERY_RESULT
        and list(inspect.signature(ends).parameters) == _EOF_CHECK
    )


def with_true_status(dbapi: ModuleType) -> Any:
    """Return the module's class of connections, whose status is true if this release fits."""
    connections: Any = dbapi.connections
    if not fits(dbapi):
        return connections.Connection

    class Result(connections.MySQLResult):  # type: ignore[misc]
        def _check_packet_is_eof(self, packet: Any) -> bool:
            if not packet.is_eof_packet():
                return False
            end = connections.EOFPacketWrapper(packet)
            self.warning_count, self.has_next = end.warning_count, end.has_next
            # The connection is forgotten with the last row.
            self.connection.server_status = self.server_status = end.server_status & _FLAGS
            return True

    class Connection(connections.Connection):  # type: ignore[misc]
        has_true_status = True
        is_session_changed = False  # since the pool has set it up, as the server tells
        _status = 0

        @property
        def server_status(self) -> int:
            return self._status

        @server_status.setter
        def server_status(self, status: int) -> None:
            self._status = status
            if status & STATUS_SESSION_CHANGED:
                self.is_session_changed = True

        def _read_query_result(self, unbuffered: bool = False) -> Any:
            self._result = None
            result = Result(self)
            if unbuffered:
                result.init_unbuffered_query()
            else:
                result.read()
            self._result = result
            if result.server_status is not None:
                self.server_status = result.server_status
            return result.affected_rows

    return Connection
