"""Leases of a shared connection that do things in any order, on a server with a table."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flask_pooled_db.errors import TransactionAborted, UsageError
from tests.lease.shares import Deadlock, SharingDriver, run, sharing
from tests.support.fake_driver import Error, FakeConnection


class Table(SharingDriver):
    """A server that keeps the rows that were committed."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: set[str] = set()
        self.pending: dict[int, set[str]] = {}

    def note(self, what: str, raw: FakeConnection | None) -> None:
        pending = self.pending.setdefault(raw.number if raw else 0, set())
        try:
            super().note(what.partition(" ")[0], raw)
        except Deadlock:
            pending.clear()
            raise
        if what.startswith("INSERT"):
            pending.add(what)
        elif what == "commit":
            self.committed |= pending
        if what in ("commit", "rollback", "close"):
            pending.clear()


class Writer:
    """What one lease inserts, and what it is told of that."""

    def __init__(self, table: Table, lease: Any) -> None:
        self.table, self.lease = table, lease
        self.rows: set[str] = set()  # inserted since the last commit() or rollback() that succeeded

    def act(self, action: str, row: str) -> None:
        """Do one thing. After a commit() that succeeds, all rows have to be there."""
        if action in ("INSERT", "commit", "rollback"):
            failure = Deadlock() if action == "INSERT" else Error()
            self.table.mend(action)
            if row.endswith("0"):
                self.table.fail(action, failure)
        try:
            if action == "INSERT":
                run(self.lease, f"INSERT {row}")
                self.rows.add(f"INSERT {row}")
            else:
                getattr(self.lease, action)()
        except (Error, TransactionAborted, UsageError):
            return
        finally:
            self.table.mend(action)
        if action == "commit":
            assert self.rows <= self.table.committed
        if action in ("commit", "rollback"):
            self.rows.clear()


@pytest.mark.parametrize("seed", range(50))
def test_t4_random_shares(seed: int) -> None:
    """Whatever the leases of a connection do, a commit() that succeeds has committed all that its
    lease inserted.
    """
    choose, table = random.Random(seed), Table()
    with sharing(table, 3) as (_pool, shares):
        writers = [Writer(table, lease) for lease in shares]
        for step in range(60):
            action = choose.choice(["INSERT", "INSERT", "INSERT", "commit", "rollback", "begin"])
            choose.choice(writers).act(action, str(choose.randrange(100) + 100 * step))
