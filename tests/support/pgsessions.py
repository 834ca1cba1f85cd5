"""What a PostgreSQL session has that outlives a transaction."""

from __future__ import annotations

from typing import Any

_QUESTIONS = {
    # A pooler tells each session the name of its client; each transaction has its own level.
    "settings": "SELECT name, setting FROM pg_settings WHERE source = 'session'"
    " AND name <> 'application_name' AND name NOT LIKE 'transaction%'",
    "role": "SELECT session_user, current_user",
    "prepared": "SELECT name FROM pg_prepared_statements",
    "cursors": "SELECT name FROM pg_cursors WHERE is_holdable",
    "channels": "SELECT * FROM pg_listening_channels()",
    "locks": "SELECT classid, objid, mode FROM pg_locks"
    " WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "temporary": "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
}


def left_in(connection: Any) -> dict[str, Any]:
    """Return it, asked for by a connection of psycopg's, in a transaction that is committed."""
    connection.prepare_threshold = None
    found = {name: sorted(connection.execute(sql)) for name, sql in _QUESTIONS.items()}
    connection.commit()
    return found
