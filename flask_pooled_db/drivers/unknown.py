"""What the connection of an unknown module tells: whether it is alive, and where its socket is."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any

PROBES = (
    "SELECT 1",
    "SELECT 1 FROM dual",  # Oracle
    "SELECT 1 FROM sysibm.sysdummy1",  # DB2
    "SELECT 1 FROM rdb$database",  # Firebird
)
"""Statements that need no table of the application's. Every server takes one of them."""

_NO_PING = (AttributeError, IndexError, TypeError, ValueError, NotImplementedError)


def ping(raw: Any) -> bool | None:
    """Return whether a connection's own `ping()` says that it is alive, as DBUtils understands it;
    None if it has none that works. What else it raises means that it is dead.
    """
    method = getattr(raw, "ping", None)
    if not callable(method):
        return None
    try:
        try:
            alive = method(False)  # most have a flag `reconnect`
        except (TypeError, DeprecationWarning):  # some have none, or not any more
            alive = method()
    except _NO_PING:
        return None
    return alive is None or bool(alive)


def probe(
    cursor: Any,
    failures: tuple[type[Exception], ...],
    statement_errors: tuple[type[Exception], ...],
) -> None:
    """Run a statement. Raises if nothing proves that the server is there.

    `failures` prove nothing, and `statement_errors` that the server has read the statement.
    """
    try:
        for statement in PROBES:
            try:
                cursor.execute(statement)
                cursor.fetchall()
            except failures:
                raise
            except statement_errors:
                return
            except Exception:  # it may be this statement that is wrong
                if statement is PROBES[-1]:
                    raise
            else:
                return
    finally:
        with contextlib.suppress(Exception):  # it has told what there is to know
            cursor.close()


def fileno(raw: Any) -> int | None:
    """Return the descriptor of a connection's socket, if the connection has `fileno()`."""
    try:
        number = raw.fileno()
        is_socket = type(number) is int and stat.S_ISSOCK(os.fstat(number).st_mode)
    except Exception:  # noqa: BLE001  it has none, or is closed
        return None
    return number if is_socket else None


def is_local(raw: Any) -> bool:
    """Return whether a connection is to SQLite, of which no call waits for a server."""
    return hasattr(raw, "total_changes")
