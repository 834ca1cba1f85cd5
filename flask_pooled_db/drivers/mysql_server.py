"""What MariaDB and MySQL tell of themselves and of their connections."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from flask_pooled_db.drivers.facts import (
    Activity,
    Ask,
    Limit,
    ServerFacts,
    ServerLoad,
    ServerSession,
    numbers,
)

_VARIABLES = (
    *("version", "version_comment", "max_connections", "max_user_connections", "wait_timeout"),
    *("idle_transaction_timeout", "idle_write_transaction_timeout", "max_statement_time"),
    *("max_execution_time", "lock_wait_timeout", "innodb_lock_wait_timeout"),
    *("hostname", "port", "server_id", "server_uuid", "datadir", "pid_file"),
)
_IDENTITY = ("hostname", "port", "server_id", "server_uuid", "datadir", "pid_file")
_MILLISECONDS = "max_execution_time"  # MySQL's; all others are seconds

# https://mariadb.com/kb/en/information-schema-innodb_trx-table/: it takes PROCESS, as does to see
# other accounts in the list of processes. Its times are those of the server's own zone.
_TRANSACTIONS = (
    "SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND,"
    " CONVERT_TZ(trx_started, 'SYSTEM', @@session.time_zone), NOW())"
    " FROM information_schema.innodb_trx"
)
# The attributes of this account's connections. Nothing is in it without the performance schema.
_LABELS = (
    "SELECT processlist_id, attr_value FROM performance_schema.session_account_connect_attrs"
    " WHERE attr_name = 'program_name'"
)
_IDLE = "Sleep"

# An account is told of what it may use in any way: one that may make tables, of all.
_TABLES = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()"

_LOAD = """
SELECT @@max_connections, COUNT(*), COALESCE(SUM(command = 'Sleep'), 0)
FROM information_schema.processlist WHERE user <> 'system user'
"""
_AT_REST_IN_TRANSACTION = """
SELECT COUNT(*), MAX(TIMESTAMPDIFF(SECOND,
  CONVERT_TZ(t.trx_started, 'SYSTEM', @@session.time_zone), NOW()))
FROM information_schema.innodb_trx t
JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id AND p.command = 'Sleep'
"""


class MySQLServer:
    """MariaDB and MySQL."""

    has_sessions = True
    tables = _TABLES
    table_suffix = " ENGINE=InnoDB"

    def id_of(self, ask: Ask) -> int | None:
        """Return what the server itself calls the connection."""
        return int(ask("SELECT CONNECTION_ID()")[0][0])

    def facts(self, ask: Ask) -> ServerFacts:
        """Return what the server tells; the limits are those of this session and account."""
        variables = numbers(ask(f"SHOW VARIABLES WHERE Variable_name IN ({_quoted(_VARIABLES)})"))
        status = numbers(
            ask(
                "SHOW STATUS WHERE Variable_name IN"
                " ('Threads_connected', 'Ssl_version', 'Ssl_cipher')"
            )
        )
        version = variables["version"]
        is_mariadb = "mariadb" in f"{version}{variables.get('version_comment')}".lower()
        tls = f"{status.get('ssl_version', '')} {status.get('ssl_cipher', '')}".strip()
        return ServerFacts(
            product="MariaDB" if is_mariadb else "MySQL",
            version=version,
            identity=repr([variables.get(name) for name in _IDENTITY]),
            tls=tls,
            max_connections=int(variables["max_connections"]),
            connections=int(status["threads_connected"]),
            sees_others=_transactions(ask) is not None,
            privilege="PROCESS",
            account_limits=tuple(
                limit for limit in _limits(variables, "max_user_connections") if limit.value
            ),
            idle_timeout=Limit("wait_timeout", float(variables["wait_timeout"])),
            transaction_timeouts=_limits(
                variables, "idle_transaction_timeout", "idle_write_transaction_timeout"
            ),
            statement_timeouts=_limits(
                variables,
                "max_statement_time",
                "max_execution_time",
                "lock_wait_timeout",
                "innodb_lock_wait_timeout",
            ),
        )

    def load(self, ask: Ask) -> ServerLoad:
        """Return it. Without PROCESS, what connections do is told of this account's alone."""
        ((most, seen, idle),) = ask(_LOAD)
        status = numbers(ask("SHOW STATUS WHERE Variable_name = 'Threads_connected'"))
        waiting, oldest = None, None
        with contextlib.suppress(Exception):  # it takes PROCESS
            ((waiting, oldest),) = ask(_AT_REST_IN_TRANSACTION)
        in_transaction = None if waiting is None else int(waiting)
        return ServerLoad(
            connections=int(status["threads_connected"]),
            max_connections=int(most),
            active=int(seen) - int(idle),
            idle=int(idle) - (in_transaction or 0),
            in_transaction=in_transaction,
            oldest=None if oldest is None else max(float(oldest), 0.0),
        )

    def sessions(self, ask: Ask) -> list[ServerSession]:
        """Return the connections of this account, or of all if it has PROCESS."""
        transactions, labels = _transactions(ask), {}
        with contextlib.suppress(Exception):  # there is no such table, or it may not be read
            labels = {int(number): str(label) for number, label in ask(_LABELS)}
        rows = ask("SHOW FULL PROCESSLIST")
        return [_session(row, labels, transactions or {}) for row in rows if row[1] != _SYSTEM]

    def end(self, ask: Ask, session: ServerSession, least: float) -> bool:
        """Look at it again, and send KILL."""
        for now in self.sessions(ask):
            if now.is_still(session) and now.is_at_rest and (now.seconds or 0.0) >= least:
                try:
                    ask(f"KILL {now.id:d}")
                except Exception as error:
                    if "Unknown thread" in str(error):  # 1094: it has ended by itself
                        return False
                    raise
                return True
        return False


MYSQL = MySQLServer()

_SYSTEM = "system user"


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _limits(variables: Mapping[str, str], *names: str) -> tuple[Limit, ...]:
    found = [(name, float(variables[name])) for name in names if name in variables]
    return tuple(
        Limit(name, value / 1000 if name == _MILLISECONDS else value) for name, value in found
    )


def _transactions(ask: Ask) -> dict[int, float] | None:
    """Return the age of each open transaction by its connection; None without PROCESS."""
    try:
        return {int(number): float(seconds or 0) for number, seconds in ask(_TRANSACTIONS)}
    except Exception:  # noqa: BLE001  each driver has errors of its own for "access denied"
        return None


def _session(
    row: tuple[Any, ...], labels: Mapping[int, str], transactions: Mapping[int, float]
) -> ServerSession:
    number, user, place, database, command, seconds, _, statement, *_ = row
    host, port = _place(str(place or ""))
    transaction = transactions.get(int(number))
    activity = Activity.ACTIVE
    if command == _IDLE:
        activity = Activity.IDLE if transaction is None else Activity.IN_TRANSACTION
    return ServerSession(
        id=int(number),
        user=str(user),
        host=host,
        port=port,
        database=None if database is None else str(database),
        label=labels.get(int(number)),
        activity=activity,
        seconds=None if seconds is None else max(float(seconds), 0.0),
        transaction_seconds=transaction,
        statement="" if statement is None else _as_text(statement),
    )


def _place(text: str) -> tuple[str, int | None]:
    """Return the host and the port of a client; on a local socket it is "localhost" without one."""
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal():
        return host, int(port)
    return ("", None) if text == "localhost" else (text, None)


def _as_text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
