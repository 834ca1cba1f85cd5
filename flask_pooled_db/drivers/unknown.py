"""What the connection of an unknown module tells: whether it is alive, where its socket is, what
became of its transaction.
"""

from __future__ import annotations

import contextlib
import enum
import os
import stat
from collections import deque
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


class Told(enum.Enum):
    """What a connection says of its transaction."""

    NONE = enum.auto()
    OPEN = enum.auto()
    FAILED = enum.auto()  # PostgreSQL would answer COMMIT with a silent rollback
    ACTIVE = enum.auto()  # a statement is under way


# libpq's transaction status, which psycopg2 and its kin pass on: idle, active, in a transaction, in
# a failed one. It is 4 once the connection is lost:
# https://www.postgresql.org/docs/current/libpq-status.html
_LIBPQ = {0: Told.NONE, 1: Told.ACTIVE, 2: Told.OPEN, 3: Told.FAILED}
# The same in the protocol, which pg8000 keeps.
_PROTOCOL = {b"I": Told.NONE, b"T": Told.OPEN, b"E": Told.FAILED}


def transaction(raw: Any) -> Told | None:
    """Return what a connection says of its transaction, or None if it says nothing."""
    status = getattr(raw, "get_transaction_status", None)
    if callable(status):
        return _LIBPQ.get(status())
    status = getattr(raw, "_transaction_status", None)
    if isinstance(status, bytes):
        return _PROTOCOL.get(status)
    if is_local(raw):
        return Told.OPEN if raw.in_transaction else Told.NONE
    return Told.OPEN if flag(raw) else None


def open_transaction(raw: Any) -> None:
    """Open a transaction as pg8000's cursors do: what its connection runs itself comes in none."""
    is_pg8000 = hasattr(raw, "_transaction_status")  # None before its first statement
    if is_pg8000 and transaction(raw) in (None, Told.NONE):
        raw.execute_simple("begin transaction")


def forget(raw: Any) -> None:
    """Forget the notices of a lease's statements, which psycopg2 and pg8000 keep."""
    notices = getattr(raw, "notices", None)
    if isinstance(notices, list | deque):
        notices.clear()


def catch_up(raw: Any) -> None:
    """Have a module that believes in a transaction which text has ended begin the next one: what
    psycopg2 keeps in mind is what it has sent itself.
    """
    if callable(getattr(raw, "get_transaction_status", None)) and transaction(raw) is Told.NONE:
        raw.rollback()


def is_in_step(raw: Any) -> bool:
    """Return whether libpq says that it waits for nothing, so that an exception which is not the
    module's came before anything was sent, or after all was read.
    """
    return callable(getattr(raw, "get_transaction_status", None)) and transaction(raw) in (
        Told.NONE,
        Told.OPEN,
    )


def keeps_transactions(raw: Any) -> bool:
    """Return whether an error in a statement leaves its transaction as it was before: with MySQL,
    whose functions' names the connection has.
    """
    return hasattr(raw, "get_server_info")


def flag(raw: Any) -> bool | None:
    """Return what mysql.connector says of a transaction, None if this is no connection of its kind.

    It was told with the last statement that succeeded: an error may have opened or ended one.
    """
    value = getattr(raw, "in_transaction", None) if keeps_transactions(raw) else None
    return value if isinstance(value, bool) else None


_UNKNOWN_SAVEPOINT = 1305  # https://mariadb.com/kb/en/mariadb-error-code-reference/


def is_unknown_savepoint(error: BaseException) -> bool:
    """Return whether MySQL says that there is no such savepoint."""
    return _UNKNOWN_SAVEPOINT in (getattr(error, "errno", None), *error.args[:1])


UNKNOWN_STATES = ("08", "25P03", "25P04", "40003", "57P0")
"""SQLSTATEs of PostgreSQL, or what they begin with, that do not say what the server did: the
connection is lost, the transaction took too long, the statement's completion is unknown, the server
ends the connection."""

RETRYABLE_STATES = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available:
https://www.postgresql.org/docs/current/errcodes-appendix.html"""


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a PostgreSQL server's error, or "" if it has none."""
    state = getattr(error, "pgcode", None)  # psycopg2
    if state is None and error.args and isinstance(error.args[0], dict):  # pg8000
        state = error.args[0].get("C")
    return state if isinstance(state, str) else ""


def refused_unread(raw: Any, error: BaseException) -> bool:
    """Return whether the module refused to send a command because of unread rows, as
    mysql.connector does.
    """
    return _has_rows(raw) and getattr(error, "errno", None) == -1


def _has_rows(raw: Any) -> bool:
    return getattr(raw, "unread_result", False) is True


_MORE = ("have_next_result", "more_results")
"""The attributes by which mysql.connector's connections, in Python and in C, tell of a result."""


def has_only_results(raw: Any) -> bool:
    """Return whether the server has further results to send, and no rows, as mysql.connector tells
    it. That takes them for the answer to its next statement.
    """
    return not _has_rows(raw) and any(getattr(raw, name, False) is True for name in _MORE)


def has_unread_rows(raw: Any) -> bool:
    """Return whether the server has rows or results to send, as mysql.connector tells it."""
    return _has_rows(raw) or has_only_results(raw)


_READER = "pooled_db_reader"  # an attribute of a connection: a cursor that reads what others left


def set_up(raw: Any) -> bool:
    """Prepare a connection for `finish_results`. Returns whether it is one that may need it: for
    each new cursor it sends a ping, and takes a result for its answer.
    """
    has_results = any(hasattr(raw, name) for name in _MORE)
    if has_results:
        setattr(raw, _READER, raw.cursor())
    return has_results


def finish_results(raw: Any) -> None:
    """Read further results. Raises what they end with. Rows are for their cursor to read."""
    reader = getattr(raw, _READER, None)
    while reader is not None and has_only_results(raw) and reader.nextset():
        if _has_rows(raw):
            raw.get_rows()


def makes_own_rows(cursor: Any) -> bool:
    """Return whether a cursor has a factory of rows. psycopg's usual one makes tuples, and oracledb
    spells it in one word.
    """
    factory = getattr(cursor, "row_factory", None) or getattr(cursor, "rowfactory", None)
    return factory is not None and getattr(factory, "__name__", "") != "tuple_row"


def is_postgresql(raw: Any) -> bool:
    """Return whether a connection tells its transaction as those to PostgreSQL do."""
    return callable(getattr(raw, "get_transaction_status", None)) or hasattr(
        raw, "_transaction_status"
    )


def server_id(raw: Any) -> int | None:
    """Return what the server calls a connection, if the connection tells without asking: as those
    of mysql.connector, psycopg2 and pg8000 do.
    """
    with contextlib.suppress(Exception):  # it is closed
        found = getattr(raw, "connection_id", None)
        told = getattr(raw, "get_backend_pid", None)
        found = told() if callable(told) else found
        keys = getattr(raw, "_backend_key_data", None)
        found = int.from_bytes(keys[:4], "big") if isinstance(keys, bytes) else found
        return found if type(found) is int else None
    return None
