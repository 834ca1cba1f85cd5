"""MariaDB's databases, which are its schemas: one of them is a connection's current one."""

from __future__ import annotations

from typing import Any

from flask_pooled_db.drivers.base import Driver
from flask_pooled_db.errors import UsageError


class WithDatabases(Driver):
    """The part of MariaDB's two drivers that asks for the current database, and changes it."""

    # The server tells of each USE, and no function or trigger can send one.
    why_no_schemas = ""

    def own_schema(self, raw: Any) -> str:
        database = self.value(raw, "SELECT DATABASE()", 0)
        if database is None:
            raise UsageError(
                "the bind that SERVER names has to name a database, for no SQL leads its "
                "connections back to none: add one to its URL"
            )
        return str(database)

    def enter_schema(self, raw: Any, schema: str | None, own: str) -> None:
        self.use(raw, own if schema is None else schema)

    def use(self, raw: Any, database: str) -> None:
        """Make a database the current one. The connector's `select_db` puts no quotes round it."""
        quoted = database.replace("`", "``")
        self.execute(raw, f"USE `{quoted}`")

    def value(self, raw: Any, sql: str, column: int) -> Any:
        """Return one value of the first row of a query, or None if there is no row."""
        row = self.row(raw, sql)
        return None if row is None else row[column]

    def row(self, raw: Any, sql: str) -> Any:
        """Return the first row of a query, or None if there is no row."""
        cursor = self.plain_cursor(raw)
        try:
            cursor.execute(sql)
            return cursor.fetchone()
        finally:
            cursor.close()
