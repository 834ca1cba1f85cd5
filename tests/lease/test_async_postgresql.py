"""Asynchronous scopes on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psycopg

from flask_pooled_db import PooledDB
from harness.waiting import wait_until
from tests.support.aio import run, value
from tests.support.apps import pooled_app
from tests.support.scenarios.base import must_raise

SLEEP = "SELECT pg_sleep(300)"
RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"


async def count(db: PooledDB) -> Any:
    async with db.async_connection_context() as conn:
        return await value(conn, "SELECT count(*) FROM aio")


async def save(db: PooledDB) -> None:
    async with db.async_connection_context() as conn:
        async with conn.cursor() as cur:
            await cur.execute("CREATE TABLE aio (id INT PRIMARY KEY)")
            await cur.executemany("INSERT INTO aio VALUES (%s)", [(1,), (2,)])
            with contextlib.suppress(conn.IntegrityError):
                async with db.async_connection_context() as inner:
                    await inner.cursor().execute("INSERT INTO aio VALUES (1)")
            async with conn.cursor("named") as named:
                await named.execute("SELECT id FROM aio ORDER BY id")
                assert [row async for row in named] == [(1,), (2,)]
    with must_raise(LookupError):
        async with db.async_connection_context() as conn:
            await conn.cursor().execute("DELETE FROM aio")
            raise LookupError


def test_t1_t6_t9_on_postgresql(postgresql: str) -> None:
    """Blocks commit, roll back and nest; a cancelled statement ends at the server."""
    with pooled_app(postgresql) as (_, db):

        async def main() -> None:
            await save(db)
            assert await count(db) == 2
            with must_raise(TimeoutError):
                async with asyncio.timeout(0.3):
                    async with db.async_connection_context() as conn:
                        await conn.cursor().execute("DELETE FROM aio")
                        await value(conn, SLEEP)
            assert await count(db) == 2
            assert db.stats().in_use == 0

        run(main)
        with psycopg.connect(postgresql.replace("+psycopg", "")) as side:

            def has_ended() -> bool:
                row = side.execute(RUNNING, (SLEEP,)).fetchone()
                side.commit()
                return row == (0,)

            wait_until(has_ended, "the statement ends at the server")
