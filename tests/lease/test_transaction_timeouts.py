"""POOLED_DB_TRANSACTION_TIMEOUT: a transaction that is open for too long is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import TransactionAborted, get_db_connection
from harness.server import MariaDBServer
from harness.waiting import wait_until
from harness.workloads import add
from tests.support.clock import Clock
from tests.support.scenarios.base import must_raise
from tests.support.slow import EVERY_DRIVER, Slow, insert, run, slow_site
from tests.support.stages import ON_SHARED_SERVER, UNTOUCHED, on_server

LIMIT = 60
"""Seconds, by the clock of the test."""


@pytest.fixture(params=EVERY_DRIVER)
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slow]:
    """A site on each driver in turn, whose transactions have little time."""
    with slow_site(request, tmp_path, transaction_timeout=LIMIT) as site:
        yield site


@pytest.fixture
def clock(slow: Slow) -> Clock:
    """The clock by which its transactions age."""
    clock, engine = Clock(), slow.db.pool().engine
    engine.terms = engine.terms._replace(clock=clock)
    return clock


def test_at_the_next_statement(slow: Slow, clock: Clock) -> None:
    """The next statement fails with an error that says why, and nothing of it all is committed."""
    with must_raise(TransactionAborted) as caught:
        with slow.db.connection_context() as conn:
            insert(conn, 1)
            clock.now += LIMIT + 1
            insert(conn, 2)
    assert "longer than its limit of 60 s" in str(caught[0])
    assert "TRANSACTION_TIMEOUT" in str(caught[0])
    assert slow.ids() == []


def test_at_commit(slow: Slow, clock: Clock) -> None:
    """COMMIT fails in the same way."""
    with must_raise(TransactionAborted) as caught:
        with slow.db.connection_context() as conn:
            insert(conn, 1)
            clock.now += LIMIT + 1
    assert "longer than its limit" in str(caught[0])
    assert slow.ids() == []


def test_error_that_is_swallowed(slow: Slow, clock: Clock) -> None:
    """A block that swallows the error fails all the same, and its locks are free by then."""
    with must_raise(TransactionAborted):
        with slow.db.connection_context() as conn:
            insert(conn, 1)
            clock.now += LIMIT + 1
            with suppress(TransactionAborted):
                insert(conn, 2)
            with slow.db.connection_context(independent=True) as other:
                insert(other, 1)
    assert slow.ids() == [1]


def test_transactions_that_are_short(slow: Slow, clock: Clock) -> None:
    """The time begins with each transaction: after a COMMIT, a ROLLBACK, and in another block."""
    with slow.db.connection_context() as conn:
        clock.now += LIMIT + 1
        for number in range(3):
            insert(conn, number)
            conn.commit()
            clock.now += LIMIT / 1.5
        insert(conn, 7)
        conn.rollback()
        clock.now += LIMIT + 1
        insert(conn, 3)
    with slow.db.connection_context(readonly=slow.driver != "psycopg") as conn:
        for _ in range(2):
            run(conn, "SELECT 1")
            conn.rollback()
            clock.now += LIMIT + 1
    assert slow.ids() == [0, 1, 2, 3]


def test_ended_by_text(slow: Slow, clock: Clock) -> None:
    """The time begins anew when the text of a statement has ended the transaction."""
    with closing(get_db_connection()) as conn:
        insert(conn, 0)
        run_only(conn, "COMMIT")
        clock.now += LIMIT / 1.5
        insert(conn, 1)
        clock.now += LIMIT / 1.5
        insert(conn, 2)
        conn.commit()
    assert slow.ids() == [0, 1, 2]


def run_only(conn: Any, sql: str) -> None:
    with conn.cursor() as cur:
        cur.execute(sql)


@pytest.mark.parametrize("slow", ["sqlite", *ON_SHARED_SERVER], indirect=True)
def test_it_goes_on_after_a_rollback(slow: Slow, clock: Clock) -> None:
    """After `rollback()` the connection can be used again, if the server has not closed it."""
    with slow.db.connection_context() as conn:
        insert(conn, 1)
        clock.now += LIMIT + 1
        with pytest.raises(TransactionAborted):
            insert(conn, 2)
        conn.rollback()
        insert(conn, 3)
    assert slow.ids() == [3]


def test_it_is_not_started_over(slow: Slow, clock: Clock) -> None:
    """run_transaction() does not start over: it would take as long again."""
    calls: list[None] = []

    def work(conn: Any) -> None:
        calls.append(None)
        insert(conn, 1)
        clock.now += LIMIT + 1
        insert(conn, 2)

    with pytest.raises(TransactionAborted):
        slow.db.run_transaction(work)
    assert len(calls) == 1


@pytest.mark.mariadb_only
def test_ended_by_the_server(
    mariadb: MariaDBServer, mariadb_driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """MariaDB ends a transaction whose application does nothing at all, and frees its locks. The
    application hears why, nothing is started over, and no warning tells of what is no surprise.
    """
    calls: list[None] = []

    def work(conn: Any) -> None:
        calls.append(None)
        add(conn, 1, -10)
        wait_until(lambda: conn.usable().look() > 0, "the end of the connection")
        add(conn, 2, 10)

    with on_server("ours", mariadb, mariadb_driver, transaction_timeout=0.3) as stage:
        with pytest.raises(TransactionAborted, match=r"longer than its limit of 0\.3 s"):
            stage.db.run_transaction(work)
        assert len(calls) == 1
        assert stage.committed() == UNTOUCHED
    assert caplog.text == ""


def test_asynchronous_scopes(slow: Slow, clock: Clock) -> None:
    """It holds for asynchronous blocks as well."""

    async def main() -> None:
        async with slow.db.async_connection_context() as conn:
            await conn.cursor().execute("INSERT INTO slow VALUES (1)")
            clock.now += LIMIT + 1
            await conn.cursor().execute("INSERT INTO slow VALUES (2)")

    with pytest.raises(TransactionAborted, match="longer than its limit"):
        asyncio.run(main())
    assert slow.ids() == []


def test_shared_connections(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Nobody who shares the connection commits a part of what was to be ended."""
    request.param = "psycopg"
    with slow_site(request, tmp_path, transaction_timeout=LIMIT, maxshared=1) as slow:
        clock, engine = Clock(), slow.db.pool().engine
        engine.terms = engine.terms._replace(clock=clock)
        sharing: Any = slow.db.pool().sharing
        sharing.terms = engine.terms
        with slow.db.pool().connection() as one, slow.db.pool().connection() as other:
            assert one.usable() is other.usable()
            insert(one, 1)
            insert(other, 2)
            clock.now += LIMIT + 1
            for conn in (one, other):
                with pytest.raises(TransactionAborted):
                    insert(conn, 3)
                conn.rollback()
        assert slow.ids() == []


@pytest.mark.parametrize("reset", ["changed", "session"])
@pytest.mark.mariadb_only
def test_limit_of_the_session(mariadb: MariaDBServer, mariadb_driver: str, reset: str) -> None:
    """The server's limit is that of all sessions, after a reset as well, at no round trip."""
    settings: dict[str, Any] = {"transaction_timeout": 6.5, "reset": reset}
    with on_server("ours", mariadb, mariadb_driver, **settings) as stage:
        for _ in range(2):
            with stage.db.connection_context() as conn:
                run_only(conn, "SET @x = 1")
                assert list(run(conn, "SELECT @@idle_transaction_timeout")) == [(7,)]
        if reset == "changed":
            with stage.db.connection_context() as conn:
                add(conn, 1, -10)
            stage.proxy.reset_counts()
            with stage.db.connection_context() as conn:
                add(conn, 1, -10)
            assert stage.proxy.round_trips == 2


def test_limit_of_the_session_on_postgresql(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """PostgreSQL ends a transaction whose application does nothing, and the application hears why.
    From version 17 on it also ends one that is at work.
    """
    request.param = "psycopg"
    with slow_site(request, tmp_path, transaction_timeout=1) as slow:
        with slow.db.connection_context() as conn:
            limit = run(conn, "SHOW idle_in_transaction_session_timeout")
            assert limit == [("1s",)]
            is_at_work = conn.info.server_version >= 170000
            conn.rollback()
        with must_raise(TransactionAborted) as caught:
            with slow.db.connection_context() as conn:
                insert(conn, 1)
                if is_at_work:
                    run(conn, slow.statement)
                wait_until(lambda: conn.usable().look() > 0, "the end of the connection")
                insert(conn, 2)
        assert "longer than its limit of 1 s" in str(caught[0])
        assert slow.ids() == []
