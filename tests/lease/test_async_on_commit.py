"""T5 of asynchronous scopes: what `on_commit()` has asked for comes after the answer of COMMIT."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flask_pooled_db.lease import hops
from flask_pooled_db.lease.aio import AsyncScope
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from harness.waiting import PATIENCE
from tests.support.aio import run
from tests.support.fake_driver import Error, FakeDriver
from tests.support.pools import check_counts, open_pool
from tests.support.scenarios.base import must_raise

NOTE = "its work is committed"


@pytest.fixture
def fake() -> FakeDriver:
    return FakeDriver()


@pytest.fixture(autouse=True)
def _grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a COMMIT that was cancelled be waited for as long as these tests take it to be."""
    monkeypatch.setattr(hops, "PATIENCE", 0.25)


def scope(pool: Pool) -> AsyncScope:
    return AsyncScope(Scope(pool.engine, Leases()))


@pytest.mark.parametrize("is_refused", [False, True])
def test_t5_slow_on_commit(fake: FakeDriver, is_refused: bool) -> None:
    """Once COMMIT was answered its outcome is known, however long a function of `on_commit()` takes
    that is called after it.
    """
    gate, begun = threading.Event(), threading.Event()

    def take_long() -> None:
        begun.set()
        assert gate.wait(PATIENCE)

    async def work(pool: Pool) -> None:
        async with scope(pool) as conn:
            conn.on_commit(take_long)
            await conn.cursor().execute("INSERT")
            if is_refused:
                await conn.commit()  # so that it is called whatever follows
                fake.fail("commit", Error())
                await conn.cursor().execute("INSERT")

    with open_pool(fake) as pool:

        async def main() -> None:
            task = asyncio.create_task(work(pool))
            await asyncio.to_thread(begun.wait, PATIENCE)
            task.cancel()
            with must_raise(asyncio.CancelledError) as caught:
                await task
            (note,) = caught[0].__notes__
            assert ("was not committed" if is_refused else NOTE) in note
            gate.set()

        run(main)
        assert check_counts(pool).in_use == 0


def test_t5_closed_amid_on_commit(fake: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """So it is for a coroutine that is closed meanwhile."""
    gate, begun = threading.Event(), threading.Event()

    async def work() -> None:
        async with scope(pool) as conn:
            conn.on_commit(lambda: begun.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]
            await conn.cursor().execute("INSERT")

    with open_pool(fake) as pool:
        loop = asyncio.new_event_loop()
        coroutine = work()
        task = loop.create_task(coroutine)
        loop.run_until_complete(asyncio.to_thread(begun.wait, PATIENCE))
        coroutine.close()
        gate.set()
        assert "COMMIT" not in caplog.text
        assert check_counts(pool).in_use == 0
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()


def test_on_commit_without_work(fake: FakeDriver) -> None:
    """What is to be done after a block that did nothing holds up no loop either."""
    with open_pool(fake) as pool:

        async def main() -> None:
            numbers = []
            async with scope(pool) as conn:
                conn.on_commit(lambda: numbers.append(threading.get_ident()))
            assert numbers
            assert numbers != [threading.get_ident()]

        run(main)
