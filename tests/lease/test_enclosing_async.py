"""T9 in coroutines: a block in a coroutine encloses what is awaited inside it, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import greenlet
import pytest

from flask_pooled_db import TransactionAborted, UsageError, db_connection_context
from harness.waiting import PATIENCE
from harness.workloads import add, run
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import UNTOUCHED, FileStage, Stage

LOOK = "SELECT balance FROM accounts WHERE id = 4"


class Entered:
    """A class that enters a block, with a helper that is awaited."""

    async def __aenter__(self) -> Any:
        await asyncio.sleep(0)
        self.block = db_connection_context()
        return self.block.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.block.__exit__(*exc)  # type: ignore[arg-type]


@asynccontextmanager
async def managed() -> AsyncIterator[Any]:
    await asyncio.sleep(0)
    with db_connection_context() as conn:
        yield conn


@asynccontextmanager
async def stacked() -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(managed())


@asynccontextmanager
async def stacked_block() -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:
        yield stack.enter_context(db_connection_context())


ENCLOSING: list[Callable[[], AbstractAsyncContextManager[Any]]] = [
    Entered,
    managed,
    stacked,
    stacked_block,
]


async def save(account: int, amount: int) -> Any:
    with db_connection_context() as conn:
        await asyncio.sleep(0)
        add(conn, account, amount)
        return conn


@pytest.mark.parametrize("held", ENCLOSING, ids=lambda held: held.__name__)
def test_t9_async_helpers(
    any_stage: Stage, held: Callable[[], AbstractAsyncContextManager[Any]]
) -> None:
    """What a helper holds encloses the blocks of what is awaited in its block."""

    async def main() -> None:
        async with held() as outer:
            add(outer, 1, -10)
            assert await save(2, 10) is outer
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                assert inner is outer
                assert await save(3, 1) is outer
                raise LookupError
            assert any_stage.committed() == UNTOUCHED
        assert await save(4, 0) is not outer

    asyncio.run(main())
    assert any_stage.committed() == MOVED


def test_t9_nested_statement_in_thread(any_stage: Stage) -> None:
    """A nested block of a coroutine undoes what `to_thread()` ran for it on its connection."""

    is_suspended = threading.Event()

    def add_later(conn: Any) -> None:
        assert is_suspended.wait(PATIENCE)
        add(conn, 3, 1)

    async def main() -> None:
        with db_connection_context() as outer:
            add(outer, 1, -10)
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                asyncio.get_running_loop().call_soon(is_suspended.set)
                await asyncio.to_thread(add_later, inner)
                raise LookupError
            add(outer, 2, 10)

    asyncio.run(main())
    assert any_stage.committed() == MOVED


def test_t9_greenlet_of_task(any_stage: Stage) -> None:
    """A greenlet that a coroutine runs, as libraries do that call blocking code, is inside the
    coroutine's blocks, though its stack does not show them.
    """

    def work(outer: Any) -> None:
        with db_connection_context() as inner:
            assert inner is outer
            add(inner, 2, 10)

    async def main() -> None:
        with db_connection_context() as outer:
            add(outer, 1, -10)
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                greenlet.greenlet(add).switch(inner, 3, 1)
                raise LookupError
            child = greenlet.greenlet(work)
            child.gr_context = contextvars.copy_context()
            child.switch(outer)

    asyncio.run(main())
    assert any_stage.committed() == MOVED


async def rows() -> AsyncIterator[int]:
    with db_connection_context() as conn:
        run(conn, LOOK)
        await asyncio.sleep(0)
        yield 1
        yield 2


async def close(it: Any) -> None:
    await it.aclose()


async def throw(it: Any) -> None:
    with pytest.raises(LookupError):
        await it.athrow(LookupError())


async def exhaust(it: Any) -> None:
    assert [row async for row in it] == [2]


async def leave_to_loop(it: Any) -> None:
    """The loop closes it at its end."""


@pytest.mark.parametrize(
    "end", [close, throw, exhaust, leave_to_loop], ids=lambda end: end.__name__
)
def test_t9_async_generators(
    sqlite_stage: FileStage,
    end: Callable[[Any], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What an asynchronous generator holds does not enclose its consumer's block."""
    kept = []

    async def main() -> None:
        it = rows()
        kept.append(it)
        async for _ in it:
            await save(1, 1)
            break
        await end(it)
        await save(2, 1)

    asyncio.run(main())
    assert sqlite_stage.committed() == {**UNTOUCHED, 1: 101, 2: 101}
    assert sqlite_stage.db.stats().in_use == 0
    assert not [record for record in caplog.records if record.name == "flask_pooled_db"]


@pytest.mark.parametrize("is_awaited", [True, False])
def test_t9_dropped_async_generator(any_stage: Stage, is_awaited: bool) -> None:
    """One that is dropped in an outer block ends in a task of the loop's: the outer block fails."""

    async def main() -> None:
        with db_connection_context() as outer:
            add(outer, 1, 1)
            async for _ in rows():
                break
            if is_awaited:
                await asyncio.sleep(0.01)

    with must_raise(TransactionAborted if is_awaited else UsageError):
        asyncio.run(main())
    assert any_stage.committed() == UNTOUCHED
    assert any_stage.db.stats().in_use == 0


def test_t9_task_of_generator(sqlite_stage: FileStage) -> None:
    """A task that is started inside a block has its own, whatever its parent does."""

    async def main() -> None:
        with db_connection_context() as outer:
            run(outer, LOOK)
            assert await asyncio.create_task(save(1, 1)) is not outer
            assert await save(2, 1) is outer

    asyncio.run(main())
    assert sqlite_stage.committed() == {**UNTOUCHED, 1: 101, 2: 101}
