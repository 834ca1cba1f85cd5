"""The tables that `flask pooled-db stress` plays on: they are its own, and removed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from flask_pooled_db.drivers.facts import Server
from flask_pooled_db.errors import UsageError

PREFIX = "pooled_db_stress"

ACCOUNTS, START = 100, 1000

_OF_ACCOUNTS = "id INTEGER NOT NULL PRIMARY KEY, amount INTEGER NOT NULL"
_OF_MOVES = (
    "client INTEGER NOT NULL, number INTEGER NOT NULL, source INTEGER NOT NULL,"
    " target INTEGER NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (client, number)"
)
_FILL = "INSERT INTO {accounts} (id, amount) VALUES {rows}"
_AMOUNTS = "SELECT id, amount FROM {accounts}"
_SUMS = "SELECT {column}, SUM(amount) FROM {moves} GROUP BY {column}"
_COUNTS = "SELECT client, COUNT(*) FROM {moves} GROUP BY client"
_STORED = "SELECT COUNT(*) FROM {moves} WHERE client = {client} AND number IN ({numbers})"

_END_LIMIT = 10.0
"""Seconds for the removal of a table: a transaction that was left open may hold it."""

_AT_ONCE = 500  # numbers in one statement


class Moves(Protocol):
    """The moves of one client between accounts, by their numbers from 0 on."""

    client: int
    moves: int  # how many it has begun
    failed: set[int]  # those that are known not to be committed
    unknown: set[int]  # those of which nobody knows


EXPECTED = ACCOUNTS * START
"""What the sum of all accounts has to be."""


class Verdict(NamedTuple):
    """What is wrong with the rows in the end."""

    total: int
    """The sum of all accounts."""
    accounts: int
    """Accounts that do not hold what the moves that are stored say."""
    lost: int
    """Moves whose COMMIT was answered, and that are not stored."""
    stayed: int
    """Moves that were rolled back, and that are stored."""

    @property
    def wrong(self) -> int:
        """Return how many rows are wrong."""
        return self.accounts + self.lost + self.stayed


class Ground:
    """Two tables of a bind: accounts, and the moves of amounts between them."""

    def __init__(self, db: Any, bind: str) -> None:
        self._db = db
        self._bind = bind
        token = secrets.token_hex(6)
        self.accounts = f"{PREFIX}_{token}_accounts"
        self.moves = f"{PREFIX}_{token}_moves"
        self.left: list[str] = []  # the tables that may exist

    def count_tables(self) -> int | None:
        """Return how many tables the database has; None if that is not known."""
        with self._cursor() as (conn, cur):
            server = _server_of(conn)
            if server is None:
                return None
            cur.execute(server.tables)
            return int(cur.fetchone()[0])

    def make(self) -> None:
        """Make the tables."""
        with self._db.connection_context(self._bind) as conn:
            server = _server_of(conn)
            suffix = "" if server is None else server.table_suffix
        for table, columns in ((self.accounts, _OF_ACCOUNTS), (self.moves, _OF_MOVES)):
            self.left.append(table)  # first: the answer may be lost
            self._run(f"CREATE TABLE {table} ({columns}){suffix}")
        rows = ", ".join(f"({id_}, {START})" for id_ in range(ACCOUNTS))
        self._run(self.sql(_FILL, rows=rows))

    def sql(self, text: str, **values: object) -> str:
        """Return a statement with the names of the tables, and with values that are no texts of
        others'. Each driver writes parameters in its own way, so there are none.
        """
        return text.format(accounts=self.accounts, moves=self.moves, **values)

    def remove(self) -> None:
        """Remove the tables. `left` has those that could not be removed, if this raises."""
        for table in list(self.left):
            try:
                self._run(f"DROP TABLE IF EXISTS {table}", statement_timeout=_END_LIMIT)
            except UsageError:  # its driver keeps no time limits
                self._run(f"DROP TABLE IF EXISTS {table}")
            self.left.remove(table)

    def check(self, clients: Iterable[Moves]) -> Verdict:
        """Return what is wrong, now that nobody writes any more."""
        with self._cursor() as (_, cur):
            amounts = dict(_rows(cur, self.sql(_AMOUNTS)))
            wanted = dict.fromkeys(range(ACCOUNTS), START)
            for column, sign in (("source", -1), ("target", 1)):
                for id_, amount in _rows(cur, self.sql(_SUMS, column=column)):
                    wanted[id_] += sign * int(amount)
            lost = stayed = 0
            stored = dict(_rows(cur, self.sql(_COUNTS)))
            for one in clients:
                unknown = self._stored(cur, one, one.unknown)
                failed = self._stored(cur, one, one.failed)
                answered = one.moves - len(one.unknown) - len(one.failed)
                lost += max(answered - (stored.get(one.client, 0) - unknown - failed), 0)
                stayed += failed
        wrong = sum(amounts.get(id_) != amount for id_, amount in wanted.items())
        return Verdict(sum(amounts.values()), wrong + len(amounts.keys() - wanted), lost, stayed)

    def _stored(self, cur: Any, one: Moves, numbers: set[int]) -> int:
        """Return how many of these moves of a client are stored."""
        ordered, count = sorted(numbers), 0
        for start in range(0, len(ordered), _AT_ONCE):
            listed = ", ".join(map(str, ordered[start : start + _AT_ONCE]))
            statement = self.sql(_STORED, client=one.client, numbers=listed)
            ((found,),) = _rows(cur, statement)
            count += found
        return count

    @contextmanager
    def _cursor(self, **options: Any) -> Iterator[tuple[Any, Any]]:
        with self._db.connection_context(self._bind, rows="tuple", **options) as conn:
            cur = conn.cursor()
            yield conn, cur
            cur.close()

    def _run(self, statement: str, **options: Any) -> None:
        with self._cursor(**options) as (_, cur):
            cur.execute(statement)


def _rows(cur: Any, statement: str) -> list[tuple[Any, ...]]:
    cur.execute(statement)
    return [tuple(row) for row in cur.fetchall()]


def _server_of(conn: Any) -> Server | None:
    """Return how the server of a lease is asked; None if nobody knows."""
    server: Server | None = conn.driver.server_of(conn.usable().raw)
    return server
