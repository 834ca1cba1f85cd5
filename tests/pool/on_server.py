"""Statements on a pool of a real server, and what passes on the wire."""

from __future__ import annotations

from typing import Any

from flask_pooled_db.lease.dbutils import Pool
from harness.proxy import Proxy
from harness.workloads import connection_id

COM_PING = 0x0E
COM_RESET_CONNECTION = 0x1F


def value(conn: Any, sql: str) -> Any:
    """The first value of a query's first row."""
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def run(conn: Any, sql: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(sql)


def use(pool: Pool) -> int:
    """The server's number of the connection that one statement ran on."""
    with pool.connection() as conn:
        return connection_id(conn)


def fill(pool: Pool, count: int) -> list[int]:
    """Have so many connections idle in the pool; the server's numbers of them."""
    leases = [pool.connection() for _ in range(count)]
    numbers = [connection_id(lease) for lease in leases]
    for lease in leases:
        lease.close()
    return numbers


def pings(proxy: Proxy) -> int:
    return sum(command.code == COM_PING for command in proxy.commands)
