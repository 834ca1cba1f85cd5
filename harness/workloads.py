"""What is run on the servers: accounts, and transfers between them that leave the sum as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.postgres import PostgreSQLServer
from harness.server import MariaDBServer


def create_accounts(
    server: MariaDBServer | PostgreSQLServer, database: str, n: int, amount: int
) -> None:
    """Make a table `accounts` with the ids 1 to `n`, each with a balance of `amount`."""
    server.execute(
        f"CREATE TABLE `{database}`.accounts"
        " (id INT PRIMARY KEY, balance BIGINT NOT NULL) ENGINE=InnoDB"
    )
    values = ", ".join(f"({id_}, {amount})" for id_ in range(1, n + 1))
    server.execute(f"INSERT INTO `{database}`.accounts (id, balance) VALUES {values}")


def balances(server: MariaDBServer | PostgreSQLServer, database: str) -> dict[int, int]:
    """What was committed: each account's balance by its id."""
    return dict(server.query(f"SELECT id, balance FROM `{database}`.accounts ORDER BY id"))


def total(server: MariaDBServer | PostgreSQLServer, database: str) -> int:
    """The sum of what was committed, which no transfer may change."""
    return sum(balances(server, database).values())


def run(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement on a connection of any driver, and return its rows, if it has any."""
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        cursor.close()


def add(connection: Any, account: int, amount: int) -> None:
    """Add to an account's balance, in the connection's transaction."""
    run(connection, f"UPDATE accounts SET balance = balance + {amount} WHERE id = {account}")


def transfer(
    connection: Any,
    source: int,
    target: int,
    amount: int,
    between: Callable[[], object] = lambda: None,
) -> None:
    """Move an amount in two statements; `between` runs after the first of them."""
    add(connection, source, -amount)
    between()
    add(connection, target, amount)


def connection_id(connection: Any) -> int:
    """The server's number for a connection, as `kill_connection` of the servers takes it."""
    error = getattr(connection, "ProgrammingError", Exception)
    is_psycopg = error.__module__.startswith("psycopg")
    number = "pg_backend_pid()" if is_psycopg else "CONNECTION_ID()"
    return int(run(connection, f"SELECT {number}")[0][0])
