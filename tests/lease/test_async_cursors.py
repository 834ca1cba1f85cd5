"""Cursors of tasks: those that are made while another task's call is under way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.aio import run
from tests.support.stages import ServerStage, Stage

ONE = "SELECT 1 AS one"
COUNTING = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
    "SELECT max(i) FROM n"
)


def slow(stage: Stage) -> str:
    """A statement that takes a while."""
    return stage.sleep(0.05) if isinstance(stage, ServerStage) else COUNTING


async def row_of(cursor: Any) -> Any:
    await cursor.execute(ONE)
    return await cursor.fetchone()


@pytest.mark.parametrize("is_nested", [False, True])
def test_rows_are_of_the_block_that_made_the_cursor(any_stage: Stage, is_nested: bool) -> None:
    """A cursor's rows have the shape of the block that it was made in, also if that had to wait for
    another call of the connection, and whatever block it is first used in.
    """
    in_block = any_stage.db.async_connection_context

    async def main() -> None:
        async with in_block() as conn, conn.cursor() as other:
            if is_nested:
                async with in_block(rows="dict"):
                    call = asyncio.create_task(other.execute(slow(any_stage)))
                    await asyncio.sleep(0)
                    assert not conn.line.is_idle
                    late = conn.cursor()
                await call
                assert await row_of(late) == {"one": 1}
                assert await row_of(conn.cursor()) == (1,)
            else:
                call = asyncio.create_task(other.execute(slow(any_stage)))
                await asyncio.sleep(0)
                assert not conn.line.is_idle
                late = conn.cursor()
                async with in_block(rows="dict"):
                    await call
                    assert await row_of(late) == (1,)
                    assert await row_of(conn.cursor()) == {"one": 1}

    run(main)
