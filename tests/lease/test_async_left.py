"""P13, T6 of what a task has left: nobody is at work with its connection, and nothing keeps it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from flask_pooled_db.flask.context import take_back
from flask_pooled_db.lease.aio import AsyncScope
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.runtime.workers import THREADS
from harness.waiting import wait_until
from tests.pool.helpers import use
from tests.support.aio import run, value
from tests.support.fake_driver import FakeDriver, Gate
from tests.support.pools import check_counts, open_pool
from tests.support.scenarios.base import must_raise
from tests.support.stages import ON_SHARED_SERVER, ServerStage, on_server


class AskedDriver(FakeDriver):
    """Its servers are asked who they are."""

    def identity(self, raw: Any) -> str:
        self.note("identity", raw)
        return "the only one"


@pytest.fixture
def asked() -> AskedDriver:
    return AskedDriver()


def leave(pool: Pool, gate: Gate, held: Leases) -> asyncio.AbstractEventLoop:
    """A loop that stands still with a task whose statement has come to a gate."""
    loop = asyncio.new_event_loop()

    async def work() -> None:
        async with AsyncScope(Scope(pool.engine, held)) as conn:
            await conn.cursor().execute("INSERT")

    async def main() -> None:
        task = asyncio.create_task(work())
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        await asyncio.to_thread(gate.wait_for_arrivals)
        tasks.append(task)

    tasks: list[Any] = []
    loop.run_until_complete(main())
    return loop


def leave_undelivered(pool: Pool, gate: Gate) -> weakref.ref[asyncio.AbstractEventLoop]:
    """The same, but for the statement, which has ended meanwhile; the loop is closed."""
    held = Leases()
    loop = leave(pool, gate, held)
    gate.open()
    wait_until(lambda: all(lease.line.is_idle for lease in held))
    time.sleep(0.05)  # the answer is on its way
    loop.close()
    return weakref.ref(loop)


@pytest.mark.parametrize("where", ["identity", "INSERT"])
def test_p13_taken_back_amid_call(asked: AskedDriver, where: str) -> None:
    """What is taken back from a task goes to nobody else before the worker has left it alone,
    whatever that is at work with.
    """
    gate, held = asked.hold(where), Leases()
    with open_pool(asked, maxconnections=1) as pool:
        loop = leave(pool, gate, held)
        loop.close()
        (lease,) = held
        take_back(lease, "was taken back", is_leak=True)
        stats = pool.stats()
        assert (stats.in_use, stats.idle) == (1, 0)
        gate.open()
        wait_until(lambda: not held)
        assert use(pool) == 2
        assert (asked.raws[1].closed, check_counts(pool).leaked) == (True, 1)


def test_p13_closed_loop_is_garbage(asked: AskedDriver) -> None:
    """An answer that came when its loop stood still does not keep the loop, once that is closed."""
    with open_pool(asked, maxconnections=1) as pool:
        reference = leave_undelivered(pool, asked.hold("INSERT"))
        wait_until(lambda: gc.collect() >= 0 and reference() is None, "the loop is garbage")
        wait_until(lambda: use(pool) and not pool.stats().in_use)


def leave_in_cycle(pool: Pool) -> None:
    """Close a loop with a task that is in a block, and that only itself keeps."""
    loop = asyncio.new_event_loop()
    kept: list[Any] = []

    async def work() -> None:
        async with AsyncScope(Scope(pool.engine, Leases())) as conn:
            await conn.cursor().execute("INSERT")
            kept.append(conn)
            await asyncio.Event().wait()

    task: Any = loop.create_task(work())
    task._log_destroy_pending = False
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
    assert kept
    kept.append(task)


def generate(pool: Pool, kept: list[Any]) -> Iterator[None]:
    with Scope(pool.engine, Leases()) as conn:
        conn.cursor().execute("INSERT")
        kept.append(kept)
        yield


@pytest.mark.parametrize("is_task", [True, False])
def test_p13_nothing_is_sent_for_garbage(asked: AskedDriver, is_task: bool) -> None:
    """A connection whose holders are garbage is left to who closes it: whoever waits for one may do
    so at the very moment that a finalizer leaves the block.
    """
    with open_pool(asked, maxconnections=1) as pool:
        gc.collect()
        gc.disable()
        try:
            if is_task:
                leave_in_cycle(pool)
            else:
                kept: list[Any] = []
                kept.append(generate(pool, kept))
                next(kept[0])
                del kept
            assert pool.stats().in_use == 1
        finally:
            gc.enable()
        gc.collect()
        assert use(pool) == 2
        wait_until(lambda: asked.raws[1].closed)
        assert ("rollback", 1) not in asked.record


@pytest.fixture(params=ON_SHARED_SERVER)
def slow_stage(request: pytest.FixtureRequest) -> Iterator[ServerStage]:
    """Each of MariaDB's drivers in turn, 40 ms away from the server."""
    with on_server("ours", request.getfixturevalue("mariadb"), request.param) as stage:
        stage.proxy.delay = 0.02
        yield stage


def test_t6_cancelled_before_its_statement_is_sent(
    slow_stage: ServerStage, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that is cancelled in its first statement on a connection, whose server is asked first
    who it is, either has its statement ended or has sent none: there is nothing to warn of.
    """

    async def main() -> None:
        for delay in (0.0, 0.02, 0.038, 0.042, 0.06):
            async with slow_stage.db.async_connection_context():
                pass
            with must_raise(TimeoutError):
                async with asyncio.timeout(5), slow_stage.db.async_connection_context() as conn:
                    async with asyncio.timeout(delay):
                        await value(conn, "SELECT SLEEP(2)")

    run(main)
    names = {THREADS + "interrupter", THREADS + "reporter"}
    wait_until(lambda: not names & {thread.name for thread in threading.enumerate()})
    assert not [record for record in caplog.records if "goes on at its server" in record.msg]
