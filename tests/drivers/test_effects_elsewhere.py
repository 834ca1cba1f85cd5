"""What SQLite and PostgreSQL did, against what the text of the statement said that it may do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from flask_pooled_db.drivers.effects import Effect, of_postgresql, of_sqlite
from harness.postgres import postgres
from tests.drivers.cases import BEGINS, CHANGES, COMMITS, LOCKS, NONE, UNDOES, UNKNOWN, Case
from tests.drivers.more_statements import ON_POSTGRESQL, ON_SQLITE

SESSION_OF_POSTGRESQL = (
    "SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'transaction_%' ORDER BY 1",
    "SELECT session_user, current_user",
    "SELECT pg_listening_channels()",
    "SELECT name FROM pg_prepared_statements WHERE from_sql",
    "SELECT name FROM pg_cursors WHERE is_holdable",
    "SELECT relname FROM pg_class WHERE relpersistence = 't' OR relname = 'mine'",
)
SESSION_OF_SQLITE = (
    "SELECT name FROM pragma_database_list WHERE name <> 'temp'",
    "PRAGMA cache_size",
    "PRAGMA recursive_triggers",
    "SELECT name FROM sqlite_temp_schema",
)


def ends(transaction_ended: bool, committed: bool) -> Effect:
    """What became of a transaction."""
    if committed:
        return COMMITS
    return UNDOES if transaction_ended else NONE


@pytest.mark.parametrize("case", ON_SQLITE, ids=lambda case: case.text)
def test_t10_text_against_deed_on_sqlite(file: Path, case: Case) -> None:
    """Whatever a statement did in a transaction is among what its text said that it may do."""

    def state() -> list[Any]:
        return [session.execute(query).fetchall() for query in SESSION_OF_SQLITE]

    with (
        contextlib.closing(sqlite3.connect(file, isolation_level=None)) as session,
        contextlib.closing(sqlite3.connect(file)) as other,
    ):
        session.execute("CREATE TABLE witness (id)")
        # A savepoint that begins the transaction is the one whose release commits.
        for text in case.before or ("BEGIN",):
            session.execute(text)
        session.execute("INSERT INTO witness VALUES (1)")
        before = state()
        with contextlib.suppress(sqlite3.Error, sqlite3.Warning):
            session.execute(case.text.replace("%s", "1")).fetchall()
        ended = not session.in_transaction
        committed = ended and other.execute("SELECT * FROM witness").fetchall() != []
        if not ended:
            session.execute("ROLLBACK")
        done = ends(ended, committed) | (CHANGES if state() != before else NONE)
        said = of_sqlite(case.text)
        assert done in said or UNKNOWN in said


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a database on a server of this module's own."""
    with postgres() as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLE witness (id int)")
            connection.execute("CREATE TABLE t (id int, a text)")
            connection.execute("CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1'")
            connection.execute("CREATE ROLE clerk")
        yield url.replace("+psycopg", "")


@pytest.mark.parametrize("case", ON_POSTGRESQL, ids=lambda case: case.text)
def test_t10_text_against_deed_on_postgresql(url: str, case: Case) -> None:
    """Whatever a statement did in a transaction is among what its text said that it may do."""

    def state() -> list[Any]:
        return [session.execute(query).fetchall() for query in SESSION_OF_POSTGRESQL]

    with (
        psycopg.connect(url, autocommit=True) as session,
        psycopg.connect(url, autocommit=True) as other,
    ):
        other.execute("DELETE FROM witness")
        before = state()
        session.execute("BEGIN")
        session.execute("INSERT INTO witness VALUES (1)")
        for text in case.before:
            session.execute(text)
        with contextlib.suppress(psycopg.Error):
            session.execute(case.text.encode().replace(b"%s", b"1"))
        is_open = session.info.transaction_status is not TransactionStatus.IDLE
        committed = other.execute("SELECT * FROM witness").fetchall() != []
        undone = not committed and (not is_open or "witness" not in held_tables(session))
        # What is undone with the transaction reaches nobody, so look at what is left by a commit.
        if session.info.transaction_status is TransactionStatus.INTRANS:
            session.execute("COMMIT")
        else:
            session.execute("ROLLBACK")
        done = ends(undone, committed)
        if state() != before and not case.before:
            done |= CHANGES
        if other.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'").fetchall():
            done |= LOCKS
        said = of_postgresql(case.text)
        assert done in said or UNKNOWN in said
        if is_open and (committed or undone):
            assert BEGINS in said or UNKNOWN in said


def held_tables(session: psycopg.Connection[Any]) -> set[str]:
    """Return the tables a transaction has locked; in one that failed nobody may ask."""
    if session.info.transaction_status is TransactionStatus.INERROR:
        return {"witness"}
    query = (
        "SELECT relname FROM pg_locks JOIN pg_class ON relation = pg_class.oid"
        " WHERE pid = pg_backend_pid()"
    )
    return {name for (name,) in session.execute(query).fetchall()}
