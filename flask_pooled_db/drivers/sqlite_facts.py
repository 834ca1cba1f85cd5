"""What SQLite tells of itself: there is a file, and no server."""

from __future__ import annotations

from flask_pooled_db.drivers.facts import Ask, Limit, ServerFacts, ServerSession

# Names that begin with sqlite_, in small letters or capitals, are the library's own.
_TABLES = (
    "SELECT COUNT(*) FROM sqlite_master WHERE type IN ('table', 'view')"
    " AND lower(substr(name, 1, 7)) <> 'sqlite_'"
)


class SQLiteFile:
    """An SQLite database."""

    has_sessions = False
    tables = _TABLES
    table_suffix = ""

    def id_of(self, ask: Ask) -> int | None:
        """Return None: nobody numbers its connections."""
        return None

    def facts(self, ask: Ask) -> ServerFacts:
        """Return the library's version, the file, and how it is written."""
        file = next((str(row[2] or "") for row in ask("PRAGMA database_list")), "")
        return ServerFacts(
            product="SQLite",
            version=str(ask("SELECT sqlite_version()")[0][0]),
            identity=f"file {file}",
            statement_timeouts=(
                Limit("busy_timeout", float(ask("PRAGMA busy_timeout")[0][0]) / 1000),
            ),
            file=file,
            journal_mode=str(ask("PRAGMA journal_mode")[0][0]),
        )

    def load(self, ask: Ask) -> None:
        """Return None: there is no server."""

    def sessions(self, ask: Ask) -> list[ServerSession]:
        """Return nothing."""
        return []

    def end(self, ask: Ask, session: ServerSession, least: float) -> bool:
        """Return False."""
        return False


SQLITE_FILE = SQLiteFile()
