"""What the tests of the pool do with a pool and its leases."""

from __future__ import annotations

import contextlib
from typing import Any

from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Entry


def use(pool: Pool) -> int:
    """The number of the connection that one statement ran on."""
    with contextlib.closing(pool.connection()) as conn:
        cursor = conn.cursor()
        cursor.execute("SELECT")
        number: int = cursor.fetchone()[0]
    return number


def let_rest(con: Entry) -> None:
    """Make an idle connection one that was not used for long."""
    con.valid_until = con.since = 0.0


def close_all(leases: list[Any]) -> None:
    for lease in leases:
        lease.close()


class Interruption(BaseException):
    """What a signal handler raises."""


def number_of(lease: Any) -> int:
    number: int = lease.cursor().fetchone()[0]
    return number


def has_lent(pool: Pool, more_than: int) -> bool:
    return pool.engine.state.checkouts > more_than
