"""What a server tells of its connections, their transactions and its tables, by the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Listing(NamedTuple):
    """How a server of one kind is asked. What it does not tell is an empty text, or None."""

    tables: str = ""
    """The statement that counts the tables of the connection's schema."""
    connections: str = ""
    """The statement that lists the connections which its user may see, by what it calls them."""
    transactions: str = ""
    """The statement that lists those of them that have a transaction open."""
    name: Callable[[Any], int] | None = None
    """Returns what the server calls a connection, without asking it."""
    table_suffix: str = ""
    """What CREATE TABLE ends in, so that the table has transactions."""


_OF_SCHEMA = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = {}"

# Others may have been given the number of a process that has ended, but hardly its name as well.
_OURS = (
    "SELECT pid FROM pg_stat_activity WHERE usename = current_user"
    " AND application_name = current_setting('application_name')"
)

PYMYSQL = Listing(
    tables=_OF_SCHEMA.format("DATABASE()"),
    connections="SELECT id FROM information_schema.processlist",
    transactions="SELECT trx_mysql_thread_id FROM information_schema.innodb_trx",
    name=lambda connection: int(connection.thread_id()),
    table_suffix=" ENGINE=InnoDB",
)
MARIADB = PYMYSQL._replace(name=lambda connection: int(connection.connection_id))

POSTGRESQL = Listing(
    tables=_OF_SCHEMA.format("current_schema()"),
    connections=_OURS,
    transactions=f"{_OURS} AND xact_start IS NOT NULL",
    name=lambda connection: int(connection.info.backend_pid),
)

SQLITE = Listing(
    tables="SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
)

LISTINGS = {
    "pymysql": PYMYSQL,
    "mariadb": MARIADB,
    "psycopg": POSTGRESQL,
    "sqlite3": SQLITE,
    "sqlcipher3": SQLITE,
}

NOTHING_TOLD = Listing()


def listing_of(driver: Any) -> Listing:
    """Return how the server of a driver is asked."""
    return LISTINGS.get(driver.name, NOTHING_TOLD)
