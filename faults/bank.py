"""Accounts on a server, and the books that tell of every transfer whether it is there as a whole.

The server itself keeps the entries, by a trigger: each change of a balance leaves the number of its
transfer, the account and the difference, whatever became of the client in the meantime.
"""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.databases import Server
from harness.postgres import PostgreSQLServer
from harness.server import APP_USER

OPENING_BALANCE = 1_000

_ON_MARIADB = """
CREATE TABLE `{0}`.accounts (
    id INT PRIMARY KEY, balance BIGINT NOT NULL, transfer BIGINT NOT NULL DEFAULT 0
) ENGINE=InnoDB;
CREATE TABLE `{0}`.transfers (
    id BIGINT PRIMARY KEY, source INT NOT NULL, target INT NOT NULL, amount BIGINT NOT NULL
) ENGINE=InnoDB;
CREATE TABLE `{0}`.entries (
    id BIGINT AUTO_INCREMENT PRIMARY KEY,
    transfer BIGINT NOT NULL, account INT NOT NULL, delta BIGINT NOT NULL
) ENGINE=InnoDB;
CREATE TRIGGER `{0}`.keep_books AFTER UPDATE ON `{0}`.accounts FOR EACH ROW
    INSERT INTO `{0}`.entries (transfer, account, delta)
    VALUES (NEW.transfer, NEW.id, NEW.balance - OLD.balance)
"""

_ON_POSTGRESQL = f"""
CREATE TABLE {{0}}.accounts (
    id INT PRIMARY KEY, balance BIGINT NOT NULL, transfer BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE {{0}}.transfers (
    id BIGINT PRIMARY KEY, source INT NOT NULL, target INT NOT NULL, amount BIGINT NOT NULL
);
CREATE TABLE {{0}}.entries (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transfer BIGINT NOT NULL, account INT NOT NULL, delta BIGINT NOT NULL
);
CREATE FUNCTION {{0}}.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO {{0}}.entries (transfer, account, delta)
    VALUES (NEW.transfer, NEW.id, NEW.balance - OLD.balance);
    RETURN NULL;
END $$;
CREATE TRIGGER keep_books AFTER UPDATE ON {{0}}.accounts
    FOR EACH ROW EXECUTE FUNCTION {{0}}.note();
CREATE USER {APP_USER};
GRANT USAGE ON SCHEMA {{0}} TO {APP_USER};
GRANT ALL ON ALL TABLES IN SCHEMA {{0}} TO {APP_USER}
"""


def open_bank(server: Server, accounts: int) -> str:
    """Make a database with so many accounts and return its name; there is one on a server."""
    database = server.create_database()
    if isinstance(server, PostgreSQLServer):
        server.execute(_ON_POSTGRESQL.format(database))
    else:
        for statement in _ON_MARIADB.split(";"):
            server.execute(statement.format(database))
    values = ", ".join(f"({number}, {OPENING_BALANCE})" for number in range(1, accounts + 1))
    server.execute(f"INSERT INTO `{database}`.accounts (id, balance) VALUES {values}")
    return database


@dataclass(frozen=True)
class Transfer:
    """One transfer; its number says which one it is, in the database and in the ledger."""

    number: int
    source: int
    target: int
    amount: int

    def __call__(self, connection: Any, between: Callable[[], object] = lambda: None) -> None:
        """Do it in the connection's transaction; `between` runs when half of it is done."""
        change = "UPDATE accounts SET balance = balance + %s, transfer = %s WHERE id = %s"
        with connection.cursor() as cursor:
            cursor.execute(change, (-self.amount, self.number, self.source))
            between()
            cursor.execute(
                "INSERT INTO transfers (id, source, target, amount) VALUES (%s, %s, %s, %s)",
                (self.number, self.source, self.target, self.amount),
            )
            cursor.execute(change, (self.amount, self.number, self.target))

    @property
    def entries(self) -> Counter[tuple[int, int]]:
        """What it leaves in the books."""
        return Counter([(self.source, -self.amount), (self.target, self.amount)])


def random_transfer(number: int, accounts: int, *, ordered: bool = True) -> Transfer:
    """A transfer between two of the accounts; those that are ordered never meet in a deadlock."""
    first, second = random.sample(range(1, accounts + 1), 2)
    if ordered:
        first, second = min(first, second), max(first, second)
    return Transfer(number, first, second, random.choice((-2, -1, 1, 2)))


class Ledger:
    """What the callers were told of their transfers, kept in a file outside of the database.

    Every line is written before its caller goes on. All methods may be called by any thread, and
    by any process that opened the same file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def write(self, word: str, number: int) -> None:
        """A caller is about to try ("begun"), or was told that it is done ("acknowledged"), that
        nothing was done ("failed"), or that nobody knows ("unknown").
        """
        os.write(self._file, f"{word} {number}\n".encode())

    def read(self, word: str) -> list[int]:
        """The transfers of which it says so."""
        text = os.pread(self._file, os.fstat(self._file).st_size, 0).decode()
        lines = (line.split() for line in text.splitlines())
        return [int(number) for said, number in lines if said == word]

    def audit(self, server: Server, database: str) -> Audit:
        """Compare it with what a server has."""
        rows = server.query(f"SELECT id, source, target, amount FROM `{database}`.transfers")
        transfers = {row[0]: Transfer(*map(int, row)) for row in rows}
        entries: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, account, delta in server.query(
            f"SELECT transfer, account, delta FROM `{database}`.entries"
        ):
            entries[number].append((account, int(delta)))
        total, accounts = server.query(f"SELECT SUM(balance), COUNT(*) FROM `{database}`.accounts")[
            0
        ]
        there = transfers.keys() | entries.keys()
        whole = {
            number
            for number, transfer in transfers.items()
            if Counter(entries[number]) == transfer.entries
        }
        doubled = {number for number in there if len(entries[number]) > 2}
        acknowledged = self.read("acknowledged")
        return Audit(
            attempts=len(self.read("begun")),
            acknowledged=len(acknowledged),
            unknown=len(self.read("unknown")),
            lost=len(set(acknowledged) - there),
            doubled=len(doubled) + _repeated(acknowledged),
            half=len(there - whole - doubled),
            denied=len(set(self.read("failed")) & there),
            imbalance=int(total) - OPENING_BALANCE * int(accounts),
        )


def _repeated(numbers: Iterable[int]) -> int:
    return sum(count - 1 for count in Counter(numbers).values())


@dataclass(frozen=True)
class Audit:
    """What became of the transfers: `lost`, of those that were acknowledged; `half` and `doubled`,
    of all; `denied`: there, though their callers were told that they failed.
    """

    attempts: int
    acknowledged: int
    unknown: int
    lost: int
    doubled: int
    half: int
    denied: int
    imbalance: int
