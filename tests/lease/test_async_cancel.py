"""T6 of asynchronous scopes: a task that is cancelled, or whose loop or coroutine ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from flask_pooled_db import TransactionAborted
from harness.waiting import wait_until
from harness.workloads import connection_id
from tests.support.aio import add, run, until, value
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool
from tests.support.scenarios.base import MOVED, assert_fit, assert_untouched, must_raise
from tests.support.stages import ENDLESS, ServerStage, Stage, on_server

MARK = "pooled_db_cancelled"
# MariaDB's SLEEP() looks every few seconds whether its client is still there; this does not.
SLOW = f"SELECT BENCHMARK(1000000000000, SHA2('x', 224)) /* {MARK} */"


def slow(stage: Stage) -> str:
    """A statement that does not end by itself."""
    return SLOW if isinstance(stage, ServerStage) else ENDLESS


def is_at_work(stage: Stage) -> bool:
    """Whether the server works on such a statement."""
    assert isinstance(stage, ServerStage)
    rows = stage.server.query("SHOW FULL PROCESSLIST")
    return any(row[3] == stage.database and MARK in (row[7] or "") for row in rows)


def assert_ended(stage: Stage) -> None:
    """Nothing is left, here or at the server, and nothing was committed."""
    wait_until(lambda: not stage.db.stats().in_use, "the connection was given back")
    if isinstance(stage, ServerStage):
        wait_until(lambda: not is_at_work(stage), "the statement has ended at the server")
    assert_untouched(stage)
    assert_fit(stage)


async def work(stage: Stage) -> None:
    async with stage.db.async_connection_context() as conn:
        await add(conn, 1, -10)
        await value(conn, slow(stage))


async def has_begun(stage: Stage) -> None:
    """Return when a task is in the middle of such a statement."""
    if isinstance(stage, ServerStage):
        await until(lambda: is_at_work(stage))
    else:
        await until(lambda: stage.db.stats().in_use)
        await asyncio.sleep(0.1)


def test_t6_timeout_ends_statement(any_stage: Stage) -> None:
    """`asyncio.timeout()` ends the statement, here and at the server, and closes the connection."""

    async def main() -> None:
        started = asyncio.get_running_loop().time()
        with must_raise(TimeoutError):
            async with asyncio.timeout(0.3):
                await work(any_stage)
        assert asyncio.get_running_loop().time() - started < 10
        assert any_stage.db.stats().open == 0

    run(main)
    assert_ended(any_stage)


def test_t6_task_group_with_failing_child(any_stage: Stage) -> None:
    """A child that fails ends the statements of its siblings and of the group's own block."""

    async def fail() -> None:
        await has_begun(any_stage)
        raise LookupError

    async def main() -> None:
        with must_raise(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(work(any_stage))
                group.create_task(fail())
                await work(any_stage)
        (group_error,) = caught
        assert isinstance(group_error, ExceptionGroup)
        assert [type(error) for error in group_error.exceptions] == [LookupError]
        assert any_stage.db.stats().in_use == 0

    run(main)
    assert_ended(any_stage)


def test_t1_gather_with_failing_child(any_stage: Stage) -> None:
    """`gather` with a failing child leaves the others alone: their blocks commit."""

    async def save(account: int, amount: int) -> None:
        async with any_stage.db.async_connection_context() as conn:
            await add(conn, account, amount)
            if account == 3:
                raise LookupError

    async def main() -> None:
        results = await asyncio.gather(
            *(save(account, amount) for account, amount in ((1, -10), (3, 5), (2, 10))),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), LookupError, type(None)]

    run(main)
    assert any_stage.committed() == MOVED


def test_t6_swallowed_cancellation(any_stage: Stage) -> None:
    """A task that goes on after its cancellation can't go on with the connection."""

    async def main() -> None:
        with must_raise(TransactionAborted):
            async with any_stage.db.async_connection_context() as conn:
                await add(conn, 1, -10)
                with must_raise(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await value(conn, slow(any_stage))
                with must_raise(TransactionAborted):
                    await add(conn, 2, 10)

    run(main)
    assert_ended(any_stage)


def test_t6_cancelled_before_its_turn(pymysql_stage: Stage) -> None:
    """A call that is cancelled while it waits for another one of its connection costs nothing."""

    async def main() -> None:
        async with pymysql_stage.db.async_connection_context() as conn:
            first = asyncio.create_task(value(conn, "SELECT SLEEP(0.2)"))
            await asyncio.sleep(0)
            second = asyncio.create_task(add(conn, 3, 5))
            await asyncio.sleep(0.05)
            second.cancel()
            with must_raise(asyncio.CancelledError):
                await second
            assert await first == 0
            await add(conn, 1, -10)
            await add(conn, 2, 10)

    run(main)
    assert pymysql_stage.committed() == MOVED


@pytest.fixture(params=["pymysql", "mariadbconnector"])
def small_stage(request: pytest.FixtureRequest, mariadb: Any) -> Iterator[Stage]:
    """A pool of one connection."""
    with on_server("ours", mariadb, request.param, is_direct=True, maxconnections=1) as stage:
        yield stage


@pytest.mark.shared_server
def test_t6_late_kill(small_stage: Stage) -> None:
    """What ends a cancelled statement at the server never hits the connection's next lease."""

    async def main() -> None:
        for round_ in range(12):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001 * round_):
                    async with small_stage.db.async_connection_context() as conn:
                        await value(conn, SLOW)
            async with small_stage.db.async_connection_context() as conn:
                assert await value(conn, "SELECT SLEEP(0.01)") == 0
                await add(conn, 1, 1)

    run(main)
    wait_until(lambda: not is_at_work(small_stage), "the statements have ended")
    assert small_stage.committed()[1] == 112


def leave_tasks_behind(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a loop that is closed with what it has started."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
    finally:
        loop.close()


async def idle(stage: Stage, kept: list[Any]) -> None:
    async with stage.db.async_connection_context() as conn:
        await value(conn, "SELECT balance FROM accounts WHERE id = 1")
        kept.append(conn)
        await asyncio.Event().wait()


def test_a1_loop_ends_with_leases_out(any_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """What a closed loop has left in blocks, between two statements and in one, is taken back at
    the end of the app context.
    """
    kept: list[Any] = []

    async def main() -> None:
        asyncio.create_task(idle(any_stage, kept))  # noqa: RUF006
        asyncio.create_task(work(any_stage))  # noqa: RUF006
        await until(lambda: kept)
        await has_begun(any_stage)

    with any_stage.app.app_context():
        leave_tasks_behind(main)
    assert_ended(any_stage)
    assert len([record for record in caplog.records if "was not given back" in record.msg]) > 0


def test_t6_loop_ends_without_context(any_stage: Stage) -> None:
    """Without an app context, it is given back as garbage."""
    kept: list[Any] = []

    async def main() -> None:
        asyncio.create_task(idle(any_stage, kept))  # noqa: RUF006
        await until(lambda: kept)

    contextvars.Context().run(leave_tasks_behind, main)
    kept.clear()
    wait_until(lambda: gc.collect() >= 0 and not any_stage.db.stats().in_use)
    assert_ended(any_stage)


def test_t6_closed_coroutine(any_stage: Stage) -> None:
    """A coroutine that is closed in its block rolls it back, without a loop."""

    async def hold() -> None:
        async with any_stage.db.async_connection_context() as conn:
            await add(conn, 1, -10)
            await asyncio.Event().wait()

    async def main() -> Any:
        coroutine = hold()

        async def drive() -> None:
            await coroutine

        task = asyncio.create_task(drive())
        await until(lambda: any_stage.db.stats().in_use)
        await asyncio.sleep(0.1)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(main())
    task._log_destroy_pending = False
    loop.stop()
    task.get_coro().close()
    assert_ended(any_stage)
    del task
    loop.close()


async def rows(stage: Stage) -> AsyncIterator[int]:
    async with stage.db.async_connection_context() as conn, conn.cursor() as cur:
        await add(conn, 1, 1)
        await cur.execute("SELECT id FROM accounts ORDER BY id")
        async for (id_,) in cur:
            yield id_


@pytest.mark.parametrize("is_closed", [True, False])
def test_t6_async_generator(any_stage: Stage, is_closed: bool) -> None:
    """A generator that is closed, or dropped, in the middle of its rows rolls its block back; one
    that is exhausted commits.
    """

    async def main() -> None:
        it: Any = rows(any_stage)
        assert await anext(it) == 1
        if is_closed:
            await it.aclose()
        del it
        await until(lambda: not any_stage.db.stats().in_use)
        assert_untouched(any_stage)
        assert [id_ async for id_ in rows(any_stage)] == [1, 2, 3, 4]

    run(main)
    assert any_stage.committed()[1] == 101
    assert_fit(any_stage)


def test_t6_cancelled_wait(pymysql_stage: Stage) -> None:
    """A task that is cancelled while it waits for a connection, and one that is not begun."""

    async def main() -> None:
        async with asyncio.timeout(5):
            pool = pymysql_stage.db.pool()
            leases = [pool.lease() for _ in range(pool.config.maxconnections)]
            tasks = [asyncio.create_task(work(pymysql_stage)) for _ in range(3)]
            await until(lambda: pymysql_stage.db.stats().waiting == 3)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert pymysql_stage.db.stats().waiting == 0
            for lease in leases:
                lease.close()

    run(main)
    assert_ended(pymysql_stage)


def test_t6_numbers_of_connections(pymysql_stage: Stage) -> None:
    """The connection of a cancelled statement is gone from the server."""
    assert isinstance(pymysql_stage, ServerStage)
    numbers = []

    async def main() -> None:
        with must_raise(TimeoutError):
            async with asyncio.timeout(0.2):
                async with pymysql_stage.db.async_connection_context() as conn:
                    numbers.append(await value(conn, "SELECT CONNECTION_ID()"))
                    await value(conn, SLOW)

    run(main)
    with pymysql_stage.db.connection_context() as conn:
        assert connection_id(conn) not in numbers
    wait_until(lambda: numbers[0] not in pymysql_stage.server.connections(), "it is closed")


def test_t6_given_up_between_calls() -> None:
    """A connection that is given up just as its lease ends is closed, and not lent again."""
    with open_pool(FakeDriver()) as pool:
        lease = pool.lease()
        entry = lease.give_up("its task was cancelled")
        assert entry is not None
        lease.close()
        assert pool.stats().open == 0
        assert lease.give_up("once more") is None
        entry.link.stop()  # which is closed
