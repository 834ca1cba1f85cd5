"""What a task does in an asynchronous scope: nesting, sharing, cursors, options."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest

from flask_pooled_db import PooledDB, TransactionAborted, UsageError, db_connection_context
from flask_pooled_db.runtime import crew
from harness import workloads
from harness.waiting import wait_until
from tests.support.aio import add, run, until, value
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import UNTOUCHED, FileStage, Stage

FAILS_LATE = "SELECT abs(column1) FROM (VALUES (1), (2), (3), (-9223372036854775808))"
SLOW_ROW = (
    "SELECT 1 UNION ALL SELECT count(*) FROM (WITH RECURSIVE n(i) AS"
    " (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT i FROM n)"
)
BALANCES = "SELECT id, balance FROM accounts ORDER BY id"


def test_t9_nested_blocks(any_stage: Stage) -> None:
    """A block in a block is a part of its transaction, under a savepoint, on one connection."""
    db = any_stage.db

    async def helper(account: int, amount: int) -> Any:
        async with db.async_connection_context() as conn:
            await add(conn, account, amount)
            return conn

    async def main() -> None:
        async with db.async_connection_context() as outer:
            assert await helper(1, -10) is outer
            with contextlib.suppress(LookupError):
                async with db.async_connection_context() as inner:
                    assert await helper(3, 7) is inner
                    with must_raise(UsageError):
                        await inner.commit()
                    raise LookupError
            assert await helper(2, 10) is outer
            async with db.async_connection_context(independent=True, readonly=True) as other:
                assert other is not outer
                assert any_stage.committed() == UNTOUCHED
        assert db.stats().in_use == 0

    run(main)
    assert any_stage.committed() == MOVED


@asynccontextmanager
async def managed(stage: Stage) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(stage.db.async_connection_context())


def test_t9_helpers_that_enter(any_stage: Stage) -> None:
    """What a helper enters for its caller encloses the blocks in the caller's."""

    async def main() -> None:
        async with managed(any_stage) as outer:
            await add(outer, 1, -10)
            async with managed(any_stage) as inner:
                assert inner is outer
                await add(inner, 2, 10)
            assert any_stage.committed() == UNTOUCHED

    run(main)
    assert any_stage.committed() == MOVED


async def rows(stage: Stage) -> AsyncIterator[int]:
    with contextlib.suppress(LookupError):
        async with stage.db.async_connection_context() as conn:
            await add(conn, 3, 5)
            yield 1
            await add(conn, 3, 5)
            raise LookupError


def test_t9_statements_beside_a_generator(any_stage: Stage) -> None:
    """A statement that a consumer runs while an asynchronous generator holds a nested block is no
    part of that: to undo the generator's block alone is refused.
    """

    async def main() -> None:
        async with any_stage.db.async_connection_context() as outer:
            await add(outer, 1, -10)
            async for _ in rows(any_stage):
                await add(outer, 2, 10)

    with must_raise(TransactionAborted):
        run(main)
    assert any_stage.committed() == UNTOUCHED


def test_t9_tasks_have_their_own(any_stage: Stage) -> None:
    """A child task's block is a transaction of its own, on a connection of its own."""

    async def child() -> Any:
        async with any_stage.db.async_connection_context(readonly=True) as conn:
            assert await value(conn, "SELECT balance FROM accounts WHERE id = 1") == 100
            return conn

    async def main() -> None:
        async with any_stage.db.async_connection_context() as outer:
            await add(outer, 1, -10)
            assert outer not in await asyncio.gather(child(), child())
            await add(outer, 2, 10)

    run(main)
    assert any_stage.committed() == MOVED


def test_t3_calls_of_several_tasks(any_stage: Stage) -> None:
    """Calls that several tasks make of one connection come one after the other, in their order."""

    async def main() -> None:
        async with any_stage.db.async_connection_context() as conn:
            await asyncio.gather(*(add(conn, 1, -1) for _ in range(10)))
            cursors = [conn.cursor() for _ in range(3)]
            await asyncio.gather(*(cursor.execute(BALANCES) for cursor in cursors))
            for cursor in cursors:
                assert (await cursor.fetchone())[0] == 1
                await cursor.close()
            await add(conn, 2, 10)

    run(main)
    assert any_stage.committed() == MOVED


def test_t9_blocking_in_asynchronous(any_stage: Stage) -> None:
    """A blocking block that a task enters inside its asynchronous one is a part of that, and the
    other way round; it is refused while another task's call is under way.
    """
    db = any_stage.db

    def helper(account: int, amount: int) -> None:
        with db_connection_context() as conn:
            workloads.add(conn, account, amount)

    async def main() -> None:
        async with db.async_connection_context() as conn:
            helper(1, -10)
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                workloads.add(inner, 3, 1)
                raise LookupError
            await add(conn, 2, 5)
            assert any_stage.committed() == UNTOUCHED
        with db_connection_context() as outer:
            workloads.add(outer, 2, 2)
            with contextlib.suppress(LookupError):
                async with db.async_connection_context() as inner:
                    await add(inner, 3, 1)
                    raise LookupError
            async with db.async_connection_context() as inner:
                await add(inner, 2, 3)

    run(main)
    assert any_stage.committed() == MOVED


def test_t9_blocking_while_another_task_works(pymysql_stage: Stage) -> None:
    """A blocking block can't be entered while a call of another task is under way."""

    async def main() -> None:
        async with pymysql_stage.db.async_connection_context() as conn:
            other = asyncio.create_task(value(conn, "SELECT SLEEP(0.2)"))
            await asyncio.sleep(0.05)
            with must_raise(UsageError) as caught, db_connection_context():
                pass
            assert "in use by another" in str(caught[0])
            assert await other == 0
            await add(conn, 1, -10)
            with db_connection_context() as inner:
                workloads.add(inner, 2, 10)

    run(main)
    assert pymysql_stage.committed() == MOVED


def test_cursor_reads(any_stage: Stage) -> None:
    """Rows come by each way to read them, in order, also by several ways on one cursor."""

    async def main() -> None:
        expected = list(UNTOUCHED.items())
        async with any_stage.db.async_connection_context(readonly=True) as conn:
            async with conn.cursor() as cur:
                assert (cur.rowcount, cur.description, cur.arraysize) == (-1, None, 1)
                assert await cur.execute(BALANCES) is not None or any_stage.driver != "sqlite"
                assert [column[0] for column in cur.description] == ["id", "balance"]
                assert [tuple(row) async for row in cur] == expected
                assert await cur.fetchone() is None
                await cur.execute(BALANCES)
                async for row in cur:
                    assert tuple(row) == expected[0]
                    break
                assert tuple(await cur.fetchone()) == expected[1]
                assert [tuple(row) for row in await cur.fetchmany(1)] == expected[2:3]
                assert [tuple(row) for row in await cur.fetchall()] == expected[3:]
                await cur.execute(BALANCES)
                async for _ in cur:
                    break
                assert [tuple(row) for row in await cur.fetchmany(9)] == expected[1:]
                assert cur.connection is conn
            with must_raise(conn.Error):
                await cur.execute("SELECT nothing FROM nowhere")
        async with any_stage.db.async_connection_context(rows="dict") as conn:
            assert conn.IntegrityError is not conn.Error
            cur = conn.cursor()
            with must_raise(conn.IntegrityError):
                await cur.execute("INSERT INTO accounts VALUES (1, 1)")
            await conn.rollback()  # which PostgreSQL asks for
            await cur.executemany("INSERT INTO accounts VALUES (%s, %s)", [(8, 1), (9, 2)])
            assert cur.rowcount in (2, -1)
            await cur.execute("SELECT balance AS b FROM accounts WHERE id > %s ORDER BY id", (7,))
            assert [row async for row in cur] == [{"b": 1}, {"b": 2}]
            await conn.rollback()

    run(main)
    assert any_stage.committed() == UNTOUCHED


def test_rows_at_hand(pymysql_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the driver has already are fetched without a worker, whatever their shape."""

    def fail(*_: object) -> None:
        raise AssertionError("a worker was called")

    async def main() -> None:
        async with pymysql_stage.db.async_connection_context(rows="dict") as conn:
            cursors = [conn.cursor()]
            async with pymysql_stage.db.async_connection_context(rows="tuple"):
                cursors.append(conn.cursor())
            for cur in cursors:
                await cur.execute("SELECT id FROM accounts ORDER BY id")
            with monkeypatch.context() as patch:
                patch.setattr(crew, "call", fail)
                assert await cursors[0].fetchone() == {"id": 1}
                assert await cursors[1].fetchmany(2) == ((1,), (2,))
                assert [row async for row in cursors[0]] == [{"id": 2}, {"id": 3}, {"id": 4}]
                for cur in cursors:
                    await cur.close()

    run(main)


def test_t6_stream_of_rows(sqlite_stage: Stage) -> None:
    """Many rows come in order, and an error among them comes after the rows before it."""

    async def main() -> None:
        async with sqlite_stage.db.async_connection_context() as conn, conn.cursor() as cur:
            await cur.execute(sqlite_stage.many_rows)
            count = 0
            async for (number,) in cur:
                count += 1
                assert number == count
            assert count == 200_000
            await cur.execute(FAILS_LATE)
            seen = []
            with must_raise(conn.Error):
                async for (number,) in cur:
                    seen.append(number)
            assert seen == expected

    with db_connection_context() as conn, conn.cursor() as cur:  # the driver reads ahead too
        cur.execute(FAILS_LATE)
        expected = []
        with must_raise(conn.Error):
            for (number,) in cur:
                expected.append(number)
        assert expected
    run(main)


def test_what_would_block(any_stage: Stage) -> None:
    """What is not awaited here raises, and says what to do."""

    async def main() -> None:
        async with any_stage.db.async_connection_context() as conn:
            cur = conn.cursor()
            await cur.execute("SELECT 1")
            await cur.fetchall()
            for thing, name in ((conn, "execute"), (conn, "close"), (cur, "setinputsizes")):
                with must_raise(AttributeError) as caught:
                    getattr(thing, name)
                assert "asyncio.to_thread" in str(caught[0])
            with must_raise(TypeError):
                with conn.cursor():
                    pass
        with must_raise(UsageError) as caught:
            await cur.execute("SELECT 1")
        assert "closed to its caller" in str(caught[0])
        with must_raise(UsageError):
            conn.cursor()

    run(main)


def test_misuse(any_app: PooledDB) -> None:
    """Blocks that are entered twice, left twice, or outside of a loop."""
    db = any_app

    async def main() -> None:
        block = db.async_connection_context()
        async with block:
            pass
        with must_raise(UsageError):
            await block.__aenter__()
        with must_raise(UsageError):
            await block.__aexit__(None, None, None)
        with must_raise(TypeError) as caught:
            db.async_connection_context(read_only=True)  # type: ignore[call-arg]
        assert "async_connection_context() got" in str(caught[0])
        with must_raise(UsageError):
            db.async_connection_context(timeout=-1)

    run(main)
    coroutine: Any = db.async_connection_context().__aenter__()
    with must_raise(UsageError) as caught:
        coroutine.send(None)
    assert "event loop" in str(caught[0])
    assert db.stats().in_use == 0


def test_on_commit_of_tasks(any_stage: Stage) -> None:
    """Functions are called after COMMIT, in a worker thread, with the task's context; coroutine
    functions are refused.
    """
    calls: list[Any] = []

    async def coroutine() -> None: ...

    async def main() -> None:
        async with any_stage.db.async_connection_context() as conn:
            under_way = asyncio.create_task(add(conn, 4, 0))
            await asyncio.sleep(0)
            conn.on_commit(lambda: calls.append(any_stage.db.stats().in_use))
            await under_way
            any_stage.db.on_commit(lambda: calls.append(any_stage.committed()))
            with must_raise(UsageError) as caught:
                conn.on_commit(coroutine)
            assert "run_coroutine_threadsafe" in str(caught[0])
            await add(conn, 1, -10)
            await add(conn, 2, 10)
            assert calls == []
        assert calls == [0, MOVED]
        with contextlib.suppress(LookupError):
            async with any_stage.db.async_connection_context() as conn:
                conn.on_commit(lambda: calls.append("undone"))
                raise LookupError

    run(main)
    assert calls == [0, MOVED]


def test_transactions_started_over(any_stage: Stage) -> None:
    """`run_transaction_async()` starts over what can be, and returns what the last attempt does."""
    attempts = []

    async def work(conn: Any, account: int, *, amount: int) -> str:
        attempts.append(conn)
        await add(conn, account, amount)
        if len(attempts) < 3:
            raise retryable(conn)
        return "done"

    def retryable(conn: Any) -> Exception:
        if any_stage.driver == "psycopg":
            return psycopg.errors.DeadlockDetected("deadlock detected")
        error: Exception = conn.OperationalError(1213, "Deadlock found")
        if any_stage.driver == "mariadbconnector":
            error.errno = 1213  # type: ignore[attr-defined]
        if isinstance(any_stage, FileStage):
            error.sqlite_errorcode = 5  # type: ignore[attr-defined]
        return error

    async def main() -> None:
        db = any_stage.db
        assert await db.run_transaction_async(work, 1, amount=-10) == "done"
        attempts.clear()
        with must_raise(Exception):
            await db.run_transaction_async(work, 3, amount=1, attempts=2)
        assert len(attempts) == 2
        with must_raise(UsageError):
            await db.run_transaction_async(work, 3, amount=1, attempts=0)

    run(main)
    assert any_stage.committed() == {**UNTOUCHED, 1: 90}


def test_p5_slow_statement_holds_up_no_loop(pymysql_stage: Stage) -> None:
    """While the server works for one task, the others of the loop go on."""
    turns = 0

    async def main() -> None:
        nonlocal turns
        async with pymysql_stage.db.async_connection_context() as conn:
            task = asyncio.create_task(value(conn, "SELECT SLEEP(0.3)"))
            while not task.done():
                turns += 1
                await asyncio.sleep(0.005)
        await until(lambda: not pymysql_stage.db.stats().in_use)

    run(main)
    assert turns > 10


def test_p5_slow_row_holds_up_no_loop(sqlite_stage: Stage) -> None:
    """While SQLite works on the next row for one task, the others of the loop go on."""
    turns = 0

    async def main() -> None:
        nonlocal turns
        async with sqlite_stage.db.async_connection_context() as conn, conn.cursor() as cur:
            await cur.execute(SLOW_ROW)
            task = asyncio.create_task(cur.fetchall())
            while not task.done():
                turns += 1
                await asyncio.sleep(0.001)
            assert await task == [(1,), (1_000_000,)]

    run(main)
    assert turns > 3


def test_t10_blocks_in_threads_of_tasks(any_stage: Stage) -> None:
    """`asyncio.to_thread()` in an asynchronous block takes a connection of its own."""

    def work() -> None:
        with db_connection_context() as conn:
            workloads.run(conn, "SELECT 1")

    async def main() -> None:
        async with any_stage.db.async_connection_context() as conn:
            await value(conn, "SELECT 1")
            before = any_stage.db.stats().checkouts
            await asyncio.to_thread(work)
            assert any_stage.db.stats().checkouts == before + 1

    run(main)
    wait_until(lambda: not any_stage.db.stats().in_use)
