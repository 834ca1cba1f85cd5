"""P9 of asynchronous scopes: tenants that share the connections of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from flask_pooled_db import PoolClosed
from tests.support.aio import run, until
from tests.support.scenarios.base import must_raise
from tests.support.tenancy import BINDS, DRIVERS, Tenancy, opener


@pytest.fixture(params=DRIVERS)
def tenancy(request: pytest.FixtureRequest) -> Iterator[Tenancy]:
    """Tenants whose server has a single connection, with each driver in turn."""
    with opener(request, request.param)(maxconnections=1, acquire_timeout=20.0) as tenancy:
        yield tenancy


def test_p9_tasks_of_tenants(tenancy: Tenancy) -> None:
    """Tasks that wait for the one connection work each in the schema of its tenant; who waits for a
    tenant that is closed is told.
    """
    db = tenancy.db

    async def work(bind: str) -> None:
        async with db.async_connection_context(bind) as conn, conn.cursor() as cur:
            await cur.execute("INSERT INTO t VALUES (%s)", (bind,))

    async def main() -> None:
        await asyncio.gather(*map(work, BINDS), *map(work, BINDS))
        lease = db.pool("red").lease()
        task = asyncio.create_task(work("blue"))
        await until(lambda: db.stats("red").waiting == 1)
        db.pool("blue").close()
        with must_raise(PoolClosed):
            await task
        lease.close()

    run(main)
    assert tenancy.committed() == {bind: [bind] * 2 for bind in BINDS}
