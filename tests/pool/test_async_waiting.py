"""P2, P4, P13 for tasks: they wait in the same line as threads, and hold up no loop."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from flask_pooled_db.config import ScopeOptions
from flask_pooled_db.errors import ConnectFailed, PoolClosed, PoolTimeout
from flask_pooled_db.lease.aio import AsyncScope
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from harness.waiting import PATIENCE, wait_until
from tests.pool.helpers import let_rest, use
from tests.support.aio import run, until
from tests.support.fake_driver import FakeDriver, OperationalError, WrongPassword
from tests.support.pools import Caller, call, check_counts, open_pool, queue_up
from tests.support.scenarios.base import must_raise


def scope(pool: Pool, **options: Any) -> AsyncScope:
    return AsyncScope(Scope(pool.engine, Leases(), ScopeOptions(**options)))


async def work(pool: Pool, **options: Any) -> int:
    async with scope(pool, **options) as conn, conn.cursor() as cur:
        await cur.execute("SELECT")
        number: int = (await cur.fetchone())[0]
    return number


def test_p2_tasks_and_threads_in_line(fake: FakeDriver) -> None:
    """Tasks and threads that wait are served in the order of their arrival."""
    served: list[int] = []
    with open_pool(fake, maxconnections=1) as pool:

        def by_thread(number: int) -> None:
            with Scope(pool.engine, Leases()):
                served.append(number)

        async def by_task(number: int) -> None:
            async with scope(pool):
                served.append(number)

        async def main() -> None:
            lease = pool.lease()
            waiting: list[asyncio.Task[None] | Caller[None]] = []
            for number in range(8):
                if number % 2:
                    waiting.append(queue_up(pool, by_thread, number))
                else:
                    waiting.append(asyncio.create_task(by_task(number)))
                    await until(lambda: pool.stats().waiting == len(waiting))
            lease.close()
            for one in waiting:
                await asyncio.to_thread(one.wait) if isinstance(one, Caller) else await one

        run(main)
    assert served == list(range(8))


def test_p2_wait_of_task_holds_up_no_loop(fake: FakeDriver) -> None:
    """While a task waits for a connection, and while one is opened for it, its loop goes on."""
    gate = fake.hold("connect")
    turns = 0
    with open_pool(fake, maxconnections=1) as pool:

        async def main() -> None:
            nonlocal turns
            tasks = [asyncio.create_task(work(pool)) for _ in range(3)]
            while turns < 20:
                turns += 1
                await asyncio.sleep(0.001)
            gate.open()
            assert await asyncio.gather(*tasks) == [1, 1, 1]

        run(main)
    assert turns == 20


def test_p2_timeout_of_task(fake: FakeDriver) -> None:
    """A task gets PoolTimeout at its deadline, and swallows no connection."""
    with open_pool(fake, maxconnections=1) as pool:

        async def main() -> None:
            lease = pool.lease()
            started = time.monotonic()
            with must_raise(PoolTimeout) as caught:
                await work(pool, timeout=0.1)
            assert 0.1 <= time.monotonic() - started < 10
            assert "of 1, 1 are in use" in str(caught[0])
            lease.close()
            assert await work(pool) == 1

        run(main)
        assert check_counts(pool).timeouts == 1


def test_p2_cancelled_task_in_line(fake: FakeDriver) -> None:
    """A task that is cancelled as it is handed a connection gives it to the next one in line."""
    with open_pool(fake, maxconnections=1) as pool:

        async def main() -> None:
            for is_first in (True, False):
                lease = pool.lease()
                gives_up = asyncio.create_task(work(pool))
                await until(lambda: pool.stats().waiting == 1)
                waits = asyncio.create_task(work(pool))
                await until(lambda: pool.stats().waiting == 2)
                if is_first:
                    gives_up.cancel()
                lease.close()  # it is settled, and its loop not yet told
                gives_up.cancel()
                assert await waits == 1
                with must_raise(asyncio.CancelledError):
                    await gives_up

        run(main)
        stats = check_counts(pool)
        assert (stats.open, stats.idle, stats.waiting) == (1, 1, 0)


def test_p2_closed_loop(fake: FakeDriver) -> None:
    """A connection that is handed to a task of a closed loop is free again, for others in line."""
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.lease()

        async def main() -> None:
            kept.append(asyncio.create_task(work(pool)))
            await until(lambda: pool.stats().waiting == 1)

        kept: list[Any] = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        other = queue_up(pool, use, pool)
        lease.close()
        assert other.result() == 1
        kept[0]._log_destroy_pending = False
        kept.clear()
        gc.collect()
        wait_until(lambda: check_counts(pool).in_use == 0)


def test_p4_ping_for_task(fake: FakeDriver) -> None:
    """A connection that has rested is pinged by a worker, and a dead one replaced; a task that is
    cancelled meanwhile leaves nothing behind.
    """
    with open_pool(fake, maxconnections=1) as pool:

        async def main() -> None:
            assert await work(pool) == 1
            let_rest(pool.engine.state.idle[-1])
            fake.fail("ping", OperationalError())
            assert await work(pool) == 2
            let_rest(pool.engine.state.idle[-1])
            gate = fake.hold("ping")
            task = asyncio.create_task(work(pool))
            await asyncio.to_thread(gate.wait_for_arrivals)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
            assert not fake.raws[2].closed, "it was closed while a worker was at work with it"
            gate.open()
            with must_raise(asyncio.CancelledError):
                await task
            assert await work(pool) == 3

        run(main)
        assert check_counts(pool).in_use == 0
        assert fake.raws[2].closed


def test_p13_coroutine_closed_in_ping(fake: FakeDriver) -> None:
    """A coroutine that is closed while a worker pings for it leaves the connection to that."""
    with open_pool(fake, maxconnections=1) as pool:
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(work(pool)) == 1
        let_rest(pool.engine.state.idle[-1])
        gate = fake.hold("ping")
        coroutine = work(pool)

        async def main() -> None:
            kept.append(asyncio.create_task(coroutine))
            await asyncio.to_thread(gate.wait_for_arrivals)

        kept: list[Any] = []
        loop.run_until_complete(main())
        coroutine.close()
        assert not fake.raws[1].closed
        gate.open()
        wait_until(lambda: fake.raws[1].closed)
        wait_until(lambda: check_counts(pool).in_use == 0)
        assert use(pool) == 2
        kept[0]._log_destroy_pending = False
        loop.close()


@pytest.mark.parametrize(("is_refused", "kind"), [(False, PoolClosed), (True, ConnectFailed)])
def test_p2_task_is_told(fake: FakeDriver, is_refused: bool, kind: type[Exception]) -> None:
    """A task in line is told at once when the pool is closed, or its server refuses for good."""
    gate = fake.hold("connect")
    if is_refused:
        fake.fail("connect", WrongPassword())
    with open_pool(fake, maxconnections=1, acquire_timeout=PATIENCE) as pool:

        async def main() -> None:
            task = asyncio.create_task(work(pool))
            await until(lambda: pool.stats().waiting == 1)
            await asyncio.to_thread(gate.wait_for_arrivals)
            if not is_refused:
                pool.close()
            gate.open()
            with must_raise(kind):
                await task

        run(main)


def test_p13_many_cancelled_tasks(fake: FakeDriver) -> None:
    """Tasks cancelled at any point cost no place."""
    with open_pool(fake, maxconnections=3) as pool:

        async def main() -> None:
            for turns in range(40):
                tasks = [asyncio.create_task(work(pool)) for _ in range(6)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert not any(task.exception() for task in tasks if not task.cancelled())
            await until(lambda: check_counts(pool).in_use == 0)
            await asyncio.gather(*(work(pool) for _ in range(6)))

        run(main)
        wait_until(lambda: check_counts(pool).in_use == 0)
        call(use, pool).result()
