"""What a server did, against what the text of the statement said that it may do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pymysql
import pytest
from pymysql.constants import CLIENT

from flask_pooled_db.drivers.effects import Effect, of_mariadb
from harness.server import MariaDBServer
from tests.drivers.cases import BEGINS, CHANGES, COMMITS, LOCKS, NONE, UNDOES, UNKNOWN, Case
from tests.drivers.statements import LOCKED, ON_MARIADB, SCHEMA

pytestmark = [pytest.mark.slow, pytest.mark.mariadb_only]

SESSION_TRACK = 1 << 23
LOCK_WAIT_TIMEOUT = 1205
READ_ONLY_TRANSACTION = 1792
# What any statement may change, and what is not the session's own.
VOLATILE = (
    "timestamp|rand_seed.|last_insert_id|identity|in_transaction|warning_count|error_count"
    "|last_gtid|gtid_.*|max_connections|.*_pos"
)


class Seen(NamedTuple):
    """What a statement did."""

    done: Effect
    open: bool
    """Whether a transaction is open after it."""


class Ground:
    """A server on which statements may do whatever they do."""

    def __init__(self, server: MariaDBServer) -> None:
        self.server = server
        self.is_intact = False
        """Whether `shop` is as it was made: that takes most of a test's time."""
        for sql in (
            "CREATE USER boss",
            "GRANT ALL ON *.* TO boss WITH GRANT OPTION",
            "CREATE ROLE clerk",
            "GRANT clerk TO boss",
            "CREATE DATABASE kept",
            "CREATE TABLE kept.witness (id VARCHAR(9))",
        ):
            server.execute(sql)

    def prepare(self) -> None:
        self.server.execute("DELETE FROM kept.witness")
        if self.is_intact:
            return
        for sql in ("DROP DATABASE IF EXISTS shop", "CREATE DATABASE shop", "USE shop", *SCHEMA):
            self.server.execute(sql)
        self.server.execute("USE kept")
        self.is_intact = True


class Bench:
    """A session with an open transaction that has written."""

    def __init__(self, server: MariaDBServer, *, autocommit: bool) -> None:
        self.server = server
        self.session = pymysql.connect(
            host=server.host,
            port=server.port,
            user="boss",
            database="shop",
            autocommit=autocommit,
            client_flag=SESSION_TRACK | CLIENT.MULTI_STATEMENTS,
        )
        self.run("SET session_track_state_change = ON")
        self.autocommit = autocommit

    def run(self, text: str) -> list[tuple[Any, ...]]:
        """Run a text to its end and return the rows of its first result."""
        with self.session.cursor() as cursor:
            cursor.execute(text)
            rows = list(cursor.fetchall())
            while cursor.nextset():
                pass
            return rows

    def try_to_run(self, text: str) -> Exception | None:
        """Run a text to its end, or to its error."""
        try:
            self.run(text)
        except pymysql.err.Error as error:
            return error
        return None

    def observe(self, case: Case) -> Seen:
        """Run a statement inside the transaction, and see what it does."""
        self.write("before")
        for text in case.before:
            self.run(text)
        self.write("last")
        had_table, state = self.has_temporary_table(), self.state()
        self.try_to_run(case.text)
        done = COMMITS if "last" in self.committed() else NONE
        if self.is_lost():
            return Seen(done or UNDOES, open=False)
        is_open = self.run("SELECT @@in_transaction") == [(1,)]
        if done is NONE and self.has_nothing_uncommitted():
            done = UNDOES
        if self.state() != state or (self.has_temporary_table() and not had_table):
            done |= CHANGES
        locked_before = any(LOCKS in of_mariadb(text) for text in case.before)
        if self.holds_locks_for_longer() and not locked_before:
            done |= LOCKS
        if self.is_read_only():
            done |= CHANGES
        return Seen(done, is_open)

    def write(self, row: str) -> None:
        """Write what others see when it is committed, in a transaction."""
        if self.autocommit and self.run("SELECT @@in_transaction") == [(0,)]:
            self.run("BEGIN")
        self.run(f"INSERT INTO kept.witness VALUES ('{row}')")

    def committed(self) -> set[str]:
        """Return the rows that others see."""
        return {row for (row,) in self.server.query("SELECT id FROM kept.witness")}

    def has_nothing_uncommitted(self) -> bool:
        query = "SELECT id FROM kept.witness"
        if self.try_to_run(query):  # under LOCK TABLES it may not look
            return False
        return {row for (row,) in self.run(query)} <= self.committed()

    def is_lost(self) -> bool:
        return not self.session.open or self.try_to_run("DO 1") is not None

    def has_temporary_table(self) -> bool:
        return self.try_to_run("SELECT * FROM shop.mine") is None

    def state(self) -> list[Any]:
        """Return what a session has of its own and shows."""
        return [
            self.run(f"SHOW SESSION VARIABLES WHERE variable_name NOT RLIKE '^({VOLATILE})$'"),
            self.run("SELECT DATABASE(), CURRENT_ROLE(), @@timestamp < 100"),
            self.run("SELECT * FROM information_schema.user_variables ORDER BY 1"),
        ]

    def holds_locks_for_longer(self) -> bool:
        """Whether, after the end of the transaction, others wait for this session."""
        self.session.rollback()
        if self.server.query("SELECT IS_USED_LOCK('lease')") != [(None,)]:
            return True
        for sql in ("ALTER TABLE shop.t COMMENT = 'x'", "INSERT INTO kept.witness VALUES ('')"):
            try:
                # The server's own threads lock a table too, for a moment.
                self.server.execute(f"SET STATEMENT lock_wait_timeout = 1 FOR {sql}")
            except pymysql.err.Error as error:
                if error.args[0] == LOCK_WAIT_TIMEOUT:
                    return True
        return False

    def is_read_only(self) -> bool:
        """Whether the session's next transaction can't write."""
        error = self.try_to_run("INSERT INTO kept.witness VALUES ('')")
        return error is not None and error.args[0] == READ_ONLY_TRANSACTION


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """The server of this module."""
    with MariaDBServer(["--innodb-flush-log-at-trx-commit=0", "--sync-frm=0"]) as server:
        yield Ground(server)


@pytest.fixture
def bench(request: pytest.FixtureRequest, ground: Ground) -> Iterator[Bench]:
    """A session whose transactions begin by themselves, then one whose begin by BEGIN."""
    ground.prepare()
    bench = Bench(ground.server, autocommit=request.param)
    yield bench
    with contextlib.suppress(pymysql.err.Error):
        bench.session.close()


@pytest.mark.parametrize(
    ("bench", "case"),
    [
        pytest.param(
            autocommit, case, id=f"{'BEGIN' if autocommit else 'autocommit off'}-{case.text}"
        )
        for case in ON_MARIADB
        for autocommit in ([False] if case.before == LOCKED else [False, True])  # BEGIN unlocks
    ],
    indirect=["bench"],
)
def test_t10_text_against_deed(ground: Ground, bench: Bench, case: Case) -> None:
    """Whatever a statement did is among what its text said that it may do.

    A transaction that is open after one that committed was begun by the statement, as the text
    said: otherwise one that is still open was not committed.
    """
    said = of_mariadb(case.text)
    ground.is_intact = not (COMMITS | UNKNOWN) & said
    seen = bench.observe(case)
    assert seen.done in said or UNKNOWN in said
    if seen.open and seen.done & (COMMITS | UNDOES):
        assert BEGINS in said or UNKNOWN in said
