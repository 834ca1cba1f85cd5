"""What PostgreSQL tells of itself and of its connections."""

from __future__ import annotations

from typing import Any

from flask_pooled_db.drivers.facts import (
    Activity,
    Ask,
    Limit,
    ServerFacts,
    ServerLoad,
    ServerSession,
)

# What this version does not have is not there; an own value of the session, the role or the
# database counts.
_SETTINGS = """
SELECT name, setting::bigint, unit FROM pg_catalog.pg_settings WHERE name IN (
  'max_connections', 'superuser_reserved_connections', 'reserved_connections',
  'idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout',
  'statement_timeout', 'lock_timeout')
"""
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}

# https://www.postgresql.org/docs/current/monitoring-stats.html: what other accounts do is shown to
# superusers and members of pg_read_all_stats, which pg_monitor is. Everybody is told how many
# connections each database has.
_ABOUT = """
SELECT pg_catalog.current_setting('server_version'),
  pg_catalog.pg_postmaster_start_time()::text || ' ' || pg_catalog.current_setting('port'),
  (SELECT pg_catalog.concat_ws(' ', version, cipher) FROM pg_catalog.pg_stat_ssl
    WHERE pid = pg_catalog.pg_backend_pid() AND ssl),
  pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
    WHERE backend_type = 'client backend'),
  (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database),
  (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = session_user AND NOT rolsuper),
  (SELECT datconnlimit FROM pg_catalog.pg_database
    WHERE datname = pg_catalog.current_database()),
  pg_catalog.inet_client_addr() IS NULL
"""

_SESSIONS = """
SELECT a.pid, a.usename, a.datname, a.application_name, pg_catalog.host(a.client_addr),
  a.client_port, a.state, EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.state_change),
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.xact_start), a.query, a.backend_start::text
FROM pg_catalog.pg_stat_activity a
WHERE a.datid IS NOT NULL AND (a.backend_type IS NULL OR a.backend_type = 'client backend')
ORDER BY a.pid
"""
_LOAD = """
SELECT pg_catalog.current_setting('max_connections')::int
    - pg_catalog.current_setting('superuser_reserved_connections')::int
    - COALESCE(pg_catalog.current_setting('reserved_connections', true), '0')::int,
  (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database),
  pg_catalog.count(*) FILTER (WHERE state IN ('active', 'fastpath function call')),
  pg_catalog.count(*) FILTER (WHERE state = 'idle'),
  pg_catalog.count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp()
    - pg_catalog.min(xact_start) FILTER (WHERE state LIKE 'idle in transaction%'))
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'
"""

# The standard's views hide what the role may not use. Names that begin with pg_ are the system's.
_TABLES = """
SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v') AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
"""
_AT_REST = {
    "idle": Activity.IDLE,
    "idle in transaction": Activity.IN_TRANSACTION,
    "idle in transaction (aborted)": Activity.IN_TRANSACTION,
}
_ACTIVE = ("active", "fastpath function call")

# In one statement, so that it can't begin to work between the look and the end.
_END = """
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
WHERE a.pid = %s AND a.backend_start::text = %s AND a.usename = %s AND a.datname = %s
  AND a.state IN ('idle', 'idle in transaction', 'idle in transaction (aborted)')
  AND EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.state_change) >= %s
"""


class PostgreSQLServer:
    """PostgreSQL."""

    has_sessions = True
    tables = _TABLES
    table_suffix = ""

    def id_of(self, ask: Ask) -> int | None:
        """Return what the server itself calls the connection."""
        return int(ask("SELECT pg_catalog.pg_backend_pid()")[0][0])

    def facts(self, ask: Ask) -> ServerFacts:
        """Return what the server tells; the limits are those of this session and account."""
        found = {
            str(name): float(value) * _UNITS.get(unit, 1.0) for name, value, unit in ask(_SETTINGS)
        }
        version, identity, tls, sees_others, clients, backends, of_role, of_database, is_local = (
            ask(_ABOUT)[0]
        )
        limits = (("the role's CONNECTION LIMIT", of_role), ("the database's", of_database))
        return ServerFacts(
            product="PostgreSQL",
            version=str(version),
            identity=str(identity),
            tls=None if is_local else str(tls or ""),
            max_connections=int(found["max_connections"]),
            reserved=int(
                found["superuser_reserved_connections"] + found.get("reserved_connections", 0)
            ),
            connections=int((clients if sees_others else backends) or 0),
            sees_others=bool(sees_others),
            privilege="pg_monitor",
            account_limits=tuple(
                Limit(name, float(value)) for name, value in limits if value and value > 0
            ),
            idle_timeout=_limits(found, "idle_session_timeout")[0]
            if "idle_session_timeout" in found
            else None,
            transaction_timeouts=_limits(
                found, "idle_in_transaction_session_timeout", "transaction_timeout"
            ),
            statement_timeouts=_limits(found, "statement_timeout", "lock_timeout"),
        )

    def load(self, ask: Ask) -> ServerLoad:
        """Return it. Without pg_monitor, what connections do is told of this role's alone."""
        ((most, connections, active, idle, in_transaction, oldest),) = ask(_LOAD)
        return ServerLoad(
            connections=int(connections or 0),
            max_connections=int(most),
            active=int(active),
            idle=int(idle),
            in_transaction=int(in_transaction),
            oldest=None if oldest is None else max(float(oldest), 0.0),
        )

    def sessions(self, ask: Ask) -> list[ServerSession]:
        """Return the connections to databases. Of other accounts' little is told without
        pg_monitor.
        """
        return [_session(row) for row in ask(_SESSIONS)]

    def end(self, ask: Ask, session: ServerSession, least: float) -> bool:
        """Have the server look again and end it, in one step."""
        who = (session.id, session.began, session.user, session.database)
        return any(is_ended for (is_ended,) in ask(_END, (*who, least)))


POSTGRESQL = PostgreSQLServer()


def _limits(found: dict[str, float], *names: str) -> tuple[Limit, ...]:
    return tuple(Limit(name, found[name]) for name in names if name in found)


def _session(row: tuple[Any, ...]) -> ServerSession:
    pid, user, database, label, host, port, state, seconds, transaction, query, began = row
    activity = _AT_REST.get(state, Activity.UNKNOWN)
    activity = Activity.ACTIVE if state in _ACTIVE else activity
    is_told = activity in (Activity.ACTIVE, Activity.IN_TRANSACTION)
    is_in_transaction = is_told and transaction is not None
    return ServerSession(
        id=int(pid),
        user=str(user),
        host=str(host or ""),
        port=None if port is None or port < 0 else int(port),
        database=str(database),
        label=label or None,
        activity=activity,
        seconds=None if seconds is None else max(float(seconds), 0.0),
        transaction_seconds=max(float(transaction), 0.0) if is_in_transaction else None,
        statement=str(query or "") if is_told else "",
        began=str(began),
    )
