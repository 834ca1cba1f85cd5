"""db.deadline(): what is left of it bounds the waits and the statements of a block."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import DeadlineExceeded, PooledDB, PoolTimeout, UsageError, get_db_connection
from harness.waiting import PATIENCE
from tests.support.apps import pooled_app
from tests.support.clock import Clock
from tests.support.scenarios.base import assert_fit, must_raise
from tests.support.slow import EVERY_DRIVER, Slow, insert, run, slow_site
from tests.support.stages import ENDLESS, ServerStage, join

LONG, SHORT = 100, 0.2
"""Seconds of a deadline, and those that are left of it before it comes."""

HURRY = LONG - SHORT


@pytest.fixture(params=EVERY_DRIVER)
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slow]:
    """A site on each driver in turn."""
    with slow_site(request, tmp_path) as site:
        yield site


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[PooledDB]:
    """An app on SQLite: for what no server has a part in."""
    with pooled_app(f"sqlite:///{tmp_path / 'file.db'}") as (_, db):
        db.execute("CREATE TABLE slow (id INT PRIMARY KEY)")
        yield db


@contextlib.contextmanager
def passed(db: PooledDB) -> Iterator[None]:
    """A block whose deadline has passed."""
    with db.deadline(0):
        yield


def test_statement_is_ended(slow: Slow, clock: Clock) -> None:
    """A statement that goes on is ended, its error tells why, and its work is rolled back."""
    with must_raise(DeadlineExceeded) as caught:
        with slow.db.deadline(LONG), slow.db.connection_context() as conn:
            insert(conn, 1)
            clock.now += HURRY
            run(conn, slow.statement)
    (error,) = caught
    assert isinstance(error, DeadlineExceeded)
    assert isinstance(error, conn.Error)
    assert isinstance(error.__cause__, conn.Error)
    assert error.seconds == LONG
    assert "db.deadline(100)" in str(error)
    assert slow.ids() == []


@pytest.mark.mariadb_only
def test_next_lease_has_no_limit(slow: Slow) -> None:
    """What a deadline has set does not reach a lease after it."""
    with contextlib.suppress(DeadlineExceeded):
        with slow.db.deadline(SHORT), slow.db.connection_context() as conn:
            run(conn, slow.statement)
    with slow.db.connection_context() as conn:
        if slow.driver == "sqlite":
            count = "SELECT COUNT(*) FROM (SELECT i FROM n LIMIT 300000)"
            assert run(conn, ENDLESS.replace("SELECT COUNT(*) FROM n", count)) == [(300000,)]
        elif slow.driver == "psycopg":
            run(conn, f"SELECT pg_sleep({2 * SHORT})")
        else:
            assert list(run(conn, "SELECT @@max_statement_time + 0")) == [(0.0,)]


def test_work_in_time_is_committed(slow: Slow, clock: Clock) -> None:
    """A transaction whose statements were done in time commits, also after the deadline."""
    with slow.db.deadline(LONG), slow.db.connection_context() as conn:
        insert(conn, 1)
        clock.now += LONG
    assert slow.ids() == [1]


def test_nothing_begins_after_it(slow: Slow) -> None:
    """After the deadline no statement is sent, and no connection is taken."""
    with slow.db.connection_context() as conn:
        insert(conn, 1)
        with passed(slow.db):
            with pytest.raises(DeadlineExceeded, match="nothing was sent") as caught:
                insert(conn, 2)
            assert caught.value.__cause__ is None
            for take in (
                lambda: slow.db.connection_context(independent=True).__enter__(),
                lambda: slow.db.connection_context().__enter__(),
                get_db_connection,
                lambda: slow.db.fetch_all("SELECT 1"),
                lambda: slow.db.run_transaction(lambda _: None),
                lambda: slow.db.connection,
            ):
                with pytest.raises(DeadlineExceeded):
                    take()
        assert slow.db.stats().in_use == 1
        insert(conn, 3)
    assert slow.ids() == [1, 3]


@pytest.mark.mariadb_only
def test_entered_inside_a_block(slow: Slow, clock: Clock) -> None:
    """A deadline inside an open block bounds its statements, and those alone that come inside."""
    with slow.db.connection_context() as conn:
        insert(conn, 1)
        with must_raise(DeadlineExceeded):
            with slow.db.connection_context() as inner, slow.db.deadline(LONG):
                clock.now += HURRY
                run(inner, slow.statement)
        insert(conn, 2)
        clock.now += LONG
        insert(conn, 3)
    assert slow.ids() == [1, 2, 3]


def test_borrowed_connections(on_sqlite: PooledDB) -> None:
    """A connection that was taken before is bound as well, and so is the app context's own."""
    with contextlib.closing(get_db_connection()) as conn:
        for each in (conn, on_sqlite.connection):
            with on_sqlite.deadline(SHORT):
                with pytest.raises(DeadlineExceeded):
                    run(each, ENDLESS)
            each.rollback()


def test_a_statement_timeout_that_is_shorter(slow: Slow) -> None:
    """The error of a statement that has exceeded its own limit is the driver's, as ever."""
    with slow.db.deadline(PATIENCE), slow.db.connection_context(statement_timeout=SHORT) as conn:
        with pytest.raises(conn.Error) as caught:
            run(conn, slow.statement)
        conn.rollback()
    assert not isinstance(caught.value, DeadlineExceeded)


def test_waits_for_connections(tmp_path: Path) -> None:
    """A wait is no longer than what is left, and its error names the deadline."""
    url = f"sqlite:///{tmp_path / 'file.db'}"
    with pooled_app(url, maxconnections=1, acquire_timeout=PATIENCE) as (_, db):
        for options in ({}, {"timeout": PATIENCE}, {"readonly": True}):
            with db.connection_context(), db.deadline(0.05):
                with pytest.raises(PoolTimeout, match=r"db.deadline\(0.05\) left no more time"):
                    db.connection_context(independent=True, **options).__enter__()
        with db.connection_context(), db.deadline(PATIENCE):
            with pytest.raises(PoolTimeout) as caught:
                db.connection_context(independent=True, timeout=0.05).__enter__()
        assert "deadline" not in str(caught.value)
        with db.connection_context(), db.deadline(0.05):
            with pytest.raises(PoolTimeout, match="left no more time"):
                get_db_connection()


def test_nested(on_sqlite: PooledDB, clock: Clock) -> None:
    """Of nested deadlines the one that ends first counts, and the outer one again after it."""
    with on_sqlite.deadline(LONG):
        with on_sqlite.deadline(2 * LONG), on_sqlite.connection_context() as conn:
            clock.now += HURRY
            with pytest.raises(DeadlineExceeded, match=r"deadline\(100\)"):
                run(conn, ENDLESS)
    with on_sqlite.deadline(PATIENCE):
        with passed(on_sqlite):
            with pytest.raises(DeadlineExceeded):
                on_sqlite.fetch_all("SELECT 1")
        assert on_sqlite.fetch_all("SELECT 1") == [(1,)]


def test_entered_twice(on_sqlite: PooledDB) -> None:
    """A deadline is entered once, and takes seconds."""
    deadline = on_sqlite.deadline(PATIENCE)
    with deadline:
        pass
    with pytest.raises(UsageError, match="once"):
        deadline.__enter__()
    with pytest.raises(UsageError, match="seconds"):
        on_sqlite.deadline(-1)


def test_locks_of_sqlite(tmp_path: Path, clock: Clock) -> None:
    """On SQLite the wait for another's lock is no longer than what is left."""
    url = f"sqlite:///{tmp_path / 'file.db'}?timeout={PATIENCE}"
    with pooled_app(url) as (_, db):
        db.execute("CREATE TABLE slow (id INT PRIMARY KEY)")
        with db.connection_context() as conn:
            insert(conn, 1)
            with db.deadline(LONG), db.connection_context(independent=True) as other:
                clock.now += HURRY
                started = time.monotonic()
                with pytest.raises(DeadlineExceeded):
                    insert(other, 2)
                assert time.monotonic() - started < PATIENCE / 2
        with db.connection_context() as conn:
            assert run(conn, "PRAGMA busy_timeout") == [(PATIENCE * 1000,)]


def test_attempts(on_sqlite: PooledDB, clock: Clock) -> None:
    """run_transaction() neither starts over after a deadline, nor pauses beyond one."""
    calls: list[None] = []

    def work(conn: Any) -> None:
        calls.append(None)
        clock.now += HURRY
        run(conn, ENDLESS)

    with on_sqlite.deadline(LONG), pytest.raises(DeadlineExceeded):
        on_sqlite.run_transaction(work)
    assert len(calls) == 1

    def collide(conn: Any) -> None:
        calls.append(None)
        clock.now += LONG
        raise error

    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    with on_sqlite.deadline(LONG), pytest.raises(sqlite3.OperationalError):
        on_sqlite.run_transaction(collide)
    assert len(calls) == 2


def test_threads(on_sqlite: PooledDB) -> None:
    """Another thread is bound if it began with a copy of the context, and until the block ends."""
    told: list[Any] = []

    def work() -> None:
        try:
            told.append(on_sqlite.fetch_value("SELECT 1"))
        except DeadlineExceeded as error:
            told.append(error)

    context = copy_context()
    with passed(on_sqlite):
        inside = copy_context()
        for thread in (
            threading.Thread(target=work),
            threading.Thread(target=context.copy().run, args=(work,)),
            threading.Thread(target=inside.copy().run, args=(work,)),
        ):
            thread.start()
            join(thread)
    assert told[:2] == [1, 1]
    assert isinstance(told[2], DeadlineExceeded)
    inside.run(work)
    assert told[3] == 1


def test_generators(on_sqlite: PooledDB) -> None:
    """A generator that is suspended in its deadline, or was dropped there, binds nobody else."""

    def rows() -> Iterator[Any]:
        with passed(on_sqlite):
            yield None
            yield on_sqlite.fetch_value("SELECT 1")

    suspended = rows()
    next(suspended)
    assert on_sqlite.fetch_value("SELECT 1") == 1
    with pytest.raises(DeadlineExceeded):
        next(suspended)
    dropped = rows()
    next(dropped)
    del dropped
    assert on_sqlite.fetch_value("SELECT 1") == 1


def test_asynchronous_scopes(slow: Slow, clock: Clock) -> None:
    """Asynchronous blocks keep the same promises, and so do the tasks that are begun inside."""
    db = slow.db

    async def endless() -> None:
        async with db.async_connection_context(independent=True) as conn:
            await conn.cursor().execute(slow.statement)

    async def main() -> None:
        with db.deadline(LONG):
            clock.now += HURRY
            results = await asyncio.gather(endless(), endless(), return_exceptions=True)
        assert [type(each).__name__ for each in results] == ["DeadlineExceeded"] * 2
        with passed(db), pytest.raises(DeadlineExceeded):
            await endless()
        async with db.async_connection_context() as conn:
            with passed(db), pytest.raises(DeadlineExceeded):
                await conn.cursor().execute("INSERT INTO slow VALUES (1)")
            with db.deadline(LONG):
                clock.now += HURRY
                with pytest.raises(DeadlineExceeded):
                    await conn.cursor().execute(slow.statement)
            await conn.rollback()
            await conn.cursor().execute("INSERT INTO slow VALUES (2)")

    asyncio.run(main())
    assert slow.ids() == [2]


@pytest.mark.mariadb_only
def test_rows_that_are_sent_one_by_one(pymysql_stage: ServerStage) -> None:
    """A statement whose rows are fetched as the server sends them is ended in the same time."""
    endless = "SELECT REPEAT('x', 9999), SLEEP(0.01) FROM seq_1_to_99999"
    with must_raise(DeadlineExceeded):
        with pymysql_stage.db.deadline(SHORT), pymysql_stage.db.connection_context() as conn:
            cursor = pymysql_stage.streaming_cursor(conn)
            cursor.execute(endless)
            assert len(list(cursor)) < 99999
    assert_fit(pymysql_stage)


def test_asked_for_by_name(tmp_path: Path) -> None:
    """Opening a bind by its name, too, takes no longer than what is left."""
    with pooled_app(f"sqlite:///{tmp_path / 'a.db'}", max_binds=1) as (_, db):
        db.bind_loader(lambda name: f"sqlite:///{tmp_path / name}.db")
        with db.connection_context("one"), db.deadline(0.05):
            with pytest.raises(PoolTimeout, match="left no more time"):
                db.connection_context("two").__enter__()
            with pytest.raises(DeadlineExceeded):
                get_db_connection("two")
