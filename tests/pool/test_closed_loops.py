"""P2, P13 of tasks in line whose event loop is closed, or run by nobody any more."""

from __future__ import annotations

import asyncio
import gc
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.aio import AsyncScope
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from harness.waiting import PATIENCE, wait_until
from tests.pool.helpers import use
from tests.support.aio import until
from tests.support.fake_driver import FakeDriver
from tests.support.pools import check_counts, open_pool, queue_up

SWEPT_SOON = 0.2
"""The `idle_timeout` of a pool that is swept every 50 ms."""


@pytest.fixture
def pool(fake: FakeDriver) -> Iterator[Pool]:
    """A pool of one connection."""
    with open_pool(fake, maxconnections=1) as pool:
        yield pool


async def work(pool: Pool) -> None:
    async with AsyncScope(Scope(pool.engine, Leases())):
        await asyncio.Event().wait()


def wait_in_line(pool: Pool, count: int) -> tuple[asyncio.AbstractEventLoop, list[Any]]:
    """A loop, and its tasks that wait for a connection. It stands still."""
    loop = asyncio.new_event_loop()

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(work(pool)) for _ in range(count)]
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        await until(lambda: pool.stats().waiting == count)
        return tasks

    return loop, loop.run_until_complete(main())


def hand_over(pool: Pool, count: int = 1) -> tuple[asyncio.AbstractEventLoop, list[Any]]:
    """The same; the first of them was handed the only connection, and does not know it yet."""
    lease = pool.lease()
    loop, tasks = wait_in_line(pool, count)
    lease.close()
    stats = pool.stats()
    assert (stats.in_use, stats.waiting) == (1, count - 1)
    return loop, tasks


def test_p13_handed_before_loop_closes(pool: Pool) -> None:
    """What a task was handed that never came to take it is free for the next caller, also while
    somebody keeps the task; so is what that would be handed next.
    """
    loop, tasks = hand_over(pool, 3)
    loop.close()
    assert use(pool) == 1
    stats = check_counts(pool)
    assert (stats.in_use, stats.idle, stats.waiting) == (0, 1, 0)
    assert len(tasks) == 3
    for task in tasks:
        task.get_coro().close()  # which has nothing to give back
    stats = check_counts(pool)
    assert (stats.in_use, stats.idle, stats.waiting) == (0, 1, 0)
    assert use(pool) == 1


@pytest.mark.parametrize("is_drained", [False, True])
def test_p13_caller_waits_for_what_was_handed(fake: FakeDriver, is_drained: bool) -> None:
    """It comes to a caller that waits already, in a sweep; what is to be closed is closed first."""
    with open_pool(
        fake, maxconnections=1, acquire_timeout=PATIENCE, idle_timeout=SWEPT_SOON
    ) as pool:
        loop, tasks = hand_over(pool)
        caller = queue_up(pool, use, pool)
        if is_drained:
            pool.drain()
        loop.close()
        assert caller.result() == (2 if is_drained else 1)
        assert tasks


@pytest.mark.parametrize("is_closed", [True, False])
def test_p13_handed_to_garbage(pool: Pool, is_closed: bool) -> None:
    """If nobody keeps the task, or its loop, it is garbage, with or without a closed loop."""
    loop, tasks = hand_over(pool, 2)
    if is_closed:
        loop.close()
    reference = weakref.ref(loop)
    del loop, tasks
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # of the loop
        wait_until(lambda: gc.collect() >= 0 and reference() is None, "the loop is garbage")
    use(pool)
    stats = check_counts(pool)
    assert (stats.in_use, stats.waiting) == (0, 0)


def test_p2_closed_loops_do_not_count(fake: FakeDriver) -> None:
    """Tasks of a closed loop count neither as waiting nor against `max_waiting`, and nothing is
    opened for them.
    """
    with open_pool(fake, maxconnections=1, max_waiting=2) as pool:
        lease = pool.lease()
        loop, tasks = wait_in_line(pool, 2)
        with pytest.raises(PoolTimeout):
            pool.lease()
        loop.close()
        caller = queue_up(pool, use, pool)
        assert pool.stats().waiting == 1
        lease.close()
        assert caller.result() == 1
        assert (pool.stats().waiting, fake.count("connect"), len(tasks)) == (0, 1, 2)


def test_p2_line_of_many_closed_loops(pool: Pool) -> None:
    """A connection that comes back passes hundreds of such tasks by."""
    lease = pool.lease()
    loop, tasks = wait_in_line(pool, 600)
    caller = queue_up(pool, use, pool)
    loop.close()
    lease.close()
    assert caller.result() == 1
    assert (check_counts(pool).waiting, len(tasks)) == (0, 600)
