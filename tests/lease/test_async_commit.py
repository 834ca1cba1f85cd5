"""T1, T5, P13 of asynchronous scopes: cancellations that come while a block is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from flask_pooled_db import CommitOutcomeUnknown, TransactionAborted
from flask_pooled_db.lease import hops
from flask_pooled_db.lease.aio import AsyncScope
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.runtime import crew
from harness.waiting import wait_until
from tests.pool.helpers import use
from tests.support.aio import add, run, until
from tests.support.fake_driver import FakeDriver, Gate
from tests.support.pools import check_counts, open_pool
from tests.support.scenarios.base import MOVED, assert_fit, must_raise
from tests.support.stages import ON_SHARED_SERVER, UNTOUCHED, ServerStage, on_server

GRACE = 0.25
NOTE = "its work is committed"


@pytest.fixture(params=ON_SHARED_SERVER)
def proxied(request: pytest.FixtureRequest) -> Iterator[ServerStage]:
    """Each of MariaDB's drivers in turn, behind a proxy."""
    with on_server("ours", request.getfixturevalue("mariadb"), request.param) as stage:
        yield stage


@pytest.fixture
def fake() -> FakeDriver:
    return FakeDriver()


@pytest.fixture(autouse=True)
def _grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a COMMIT that was cancelled be waited for as long as these tests take it to be."""
    monkeypatch.setattr(hops, "PATIENCE", GRACE)


def scope(pool: Pool) -> AsyncScope:
    return AsyncScope(Scope(pool.engine, Leases()))


async def save(pool: Pool) -> None:
    async with scope(pool) as conn:
        await conn.cursor().execute("INSERT")


async def saving(pool: Pool, gate: Gate) -> asyncio.Task[None]:
    """Return a task that has come to a gate before the answer of its COMMIT."""
    task = asyncio.create_task(save(pool))
    await asyncio.to_thread(gate.wait_for_arrivals)
    return task


async def move(stage: ServerStage) -> None:
    async with stage.db.async_connection_context() as conn:
        await add(conn, 1, -10)
        await add(conn, 2, 10)
        stage.proxy.deaf()  # from here on nothing arrives


def test_t5_cancelled_commit(proxied: ServerStage) -> None:
    """A COMMIT that is cancelled, and not answered in a while, is a `CommitOutcomeUnknown`: also by
    `asyncio.timeout()`, whose caller might start over.
    """

    async def main() -> None:
        with must_raise(CommitOutcomeUnknown) as caught:
            async with asyncio.timeout(0.2):
                await move(proxied)
        assert isinstance(caught[0].__cause__, proxied.db.pool().driver.Error)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling(), "the timeout has not taken its cancellation back"
        assert proxied.db.stats().in_use == 0

    run(main)
    proxied.proxy.hear()
    assert proxied.committed() in (UNTOUCHED, MOVED)
    assert_fit(proxied)


def test_t5_cancelled_commit_of_a_group(fake: FakeDriver) -> None:
    """So it is where another child of its group has failed: the group raises both errors."""
    gate = fake.hold("commit")

    async def fail() -> None:
        await asyncio.to_thread(gate.wait_for_arrivals)
        raise LookupError

    with open_pool(fake) as pool:

        async def main() -> None:
            with must_raise(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(save(pool))
                    group.create_task(fail())
            (error,) = caught
            assert isinstance(error, ExceptionGroup)
            assert {type(one) for one in error.exceptions} == {LookupError, CommitOutcomeUnknown}
            gate.open()
            await until(lambda: not check_counts(pool).open)

        run(main)


def test_t5_commit_answered_in_time(fake: FakeDriver) -> None:
    """A COMMIT whose answer comes soon after its cancellation is done: the cancellation says so."""
    gate = fake.hold("commit")
    with open_pool(fake) as pool:

        async def main() -> None:
            task = await saving(pool, gate)
            task.cancel()
            await asyncio.sleep(0.02)
            assert not task.done()
            gate.open()
            with must_raise(asyncio.CancelledError) as caught:
                await task
            assert NOTE in caught[0].__notes__[0]

        run(main)
        assert use(pool) == 1
        assert fake.count("rollback") == 1, "that of `use`"


def test_t5_commit_answered_before(fake: FakeDriver) -> None:
    """A cancellation that comes when the answer is there, and its task does not know it yet."""
    gate = fake.hold("commit")
    with open_pool(fake) as pool:

        async def main() -> None:
            task = await saving(pool, gate)
            gate.open()
            wait_until(lambda: check_counts(pool).idle)  # the loop is held up meanwhile
            time.sleep(0.05)  # noqa: ASYNC251
            task.cancel()
            with must_raise(asyncio.CancelledError) as caught:
                await task
            assert NOTE in caught[0].__notes__[0]

        run(main)


def test_t5_impatient_cancellation(fake: FakeDriver) -> None:
    """One more cancellation ends the wait for the answer; the connection is closed later on."""
    gate = fake.hold("commit")
    with open_pool(fake) as pool:

        async def main() -> None:
            task = await saving(pool, gate)
            task.cancel()
            await asyncio.sleep(0.05)
            task.cancel()
            started = time.monotonic()
            with must_raise(CommitOutcomeUnknown):
                await task
            assert time.monotonic() - started < GRACE + 5
            assert pool.stats().in_use == 1
            gate.open()
            await until(lambda: not check_counts(pool).open)

        run(main)
        assert use(pool) == 2


def test_t5_commit_by_hand(fake: FakeDriver) -> None:
    """`await conn.commit()` is the same; after it, the connection refuses to work."""
    gate = fake.hold("commit")
    with open_pool(fake) as pool:

        async def main() -> None:
            with must_raise(CommitOutcomeUnknown):
                async with scope(pool) as conn:
                    await conn.cursor().execute("INSERT")
                    asyncio.get_running_loop().call_later(3 * GRACE, gate.open)
                    with must_raise(CommitOutcomeUnknown):
                        async with asyncio.timeout(0.05):
                            await conn.commit()
                    raise CommitOutcomeUnknown
            await until(lambda: not check_counts(pool).open)

        run(main)


def test_t1_cancelled_before_commit(fake: FakeDriver) -> None:
    """A cancellation that comes before COMMIT is under way rolls the block back. If a worker has
    begun with it already, the cancellation says that the work is committed.
    """
    with open_pool(fake) as pool:

        async def main() -> None:
            async def work() -> None:
                async with scope(pool) as conn:
                    await conn.cursor().execute("INSERT")
                    task.cancel()

            task = asyncio.create_task(work())
            with must_raise(asyncio.CancelledError) as caught:
                await task
            notes = getattr(caught[0], "__notes__", [])
            assert any(NOTE in note for note in notes) is bool(fake.count("commit"))

        run(main)
        assert check_counts(pool).in_use == 0
        assert fake.count("commit") in (0, 1)
        assert fake.count("commit") + min(fake.count("rollback") + fake.count("close"), 1) == 1
        assert fake.count("commit") + fake.count("rollback") + fake.count("close") > 0


def test_p13_cancelled_rollback(fake: FakeDriver) -> None:
    """A cancellation amid the ROLLBACK of a block does not lose its connection."""
    with open_pool(fake) as pool:

        async def work() -> None:
            async with scope(pool) as conn:
                await conn.cursor().execute("INSERT")
                raise LookupError

        async def main() -> None:
            gate = fake.hold("rollback")
            task = asyncio.create_task(work())
            await asyncio.to_thread(gate.wait_for_arrivals)
            task.cancel()
            asyncio.get_running_loop().call_later(0.1, gate.open)
            with must_raise(asyncio.CancelledError):
                await task
            await until(lambda: not check_counts(pool).in_use)

        run(main)
        assert check_counts(pool).idle == 1


def test_p13_no_more_threads(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no more threads, a call says so, and the connection is given back."""
    with open_pool(fake) as pool:

        def start(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        async def main() -> None:
            with must_raise(RuntimeError):
                async with scope(pool) as conn:
                    cursor = conn.cursor()
                    monkeypatch.setattr(crew, "call", start)
                    await cursor.execute("INSERT")
            monkeypatch.undo()

        use(pool)
        run(main)
        assert check_counts(pool).in_use == 0
        assert "INSERT" not in [what for what, _ in fake.record]


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_t6_call_that_nothing_ends(fake: FakeDriver, is_swallowed: bool) -> None:
    """A task whose call can't be ended does not wait for it; the connection is closed later."""
    gate = fake.hold("INSERT")
    with open_pool(fake) as pool:

        async def work() -> None:
            async with scope(pool) as conn:
                try:
                    await conn.cursor().execute("INSERT")
                except asyncio.CancelledError:
                    if not is_swallowed:
                        raise
                    with must_raise(TransactionAborted):
                        await conn.cursor().execute("UPDATE")

        async def main() -> None:
            task = asyncio.create_task(work())
            await asyncio.to_thread(gate.wait_for_arrivals)
            task.cancel()
            with must_raise(TransactionAborted if is_swallowed else asyncio.CancelledError):
                await task
            assert pool.stats().in_use == 1

        run(main)
        gate.open()
        wait_until(lambda: not check_counts(pool).open)
        assert use(pool) == 2


def test_t5_closed_amid_commit(fake: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine that is closed amid its COMMIT can't wait for the answer: the log says so."""
    gate = fake.hold("commit")
    with open_pool(fake) as pool:
        loop = asyncio.new_event_loop()
        coroutine = save(pool)

        async def main() -> None:
            kept.append(asyncio.create_task(coroutine))
            await asyncio.to_thread(gate.wait_for_arrivals)

        kept: list[asyncio.Task[None]] = []
        loop.run_until_complete(main())
        coroutine.close()
        gate.open()
        wait_until(lambda: not check_counts(pool).in_use)
        assert "amid its COMMIT" in caplog.text
        kept[0]._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
