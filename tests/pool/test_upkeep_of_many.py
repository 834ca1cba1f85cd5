"""The upkeep of many pools: it looks at those that have something to be looked after."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Engine, upkeep
from flask_pooled_db.pool.queue import Queue, Waiter
from flask_pooled_db.pool.upkeep import Upkeep, sweep
from flask_pooled_db.pool.upkeep import upkeep as the_upkeep
from flask_pooled_db.runtime.housekeeper import housekeeper
from harness.waiting import wait_until
from tests.pool.helpers import use
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call, open_pool

QUICK: dict[str, Any] = {"idle_timeout": 0.05, "mincached": 0}


def is_tended(pool: Pool) -> bool:
    return pool.engine.state.is_tended


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """The pools that are swept."""
    pools: list[Engine] = []

    def note(engine: Engine) -> None:
        pools.append(engine)
        sweep(engine)

    monkeypatch.setattr(upkeep, "sweep", note)
    return pools


def test_rest(fake: FakeDriver, swept: list[Engine]) -> None:
    """A pool without connections is not swept any more, until it is used again."""
    with open_pool(fake, **QUICK) as pool:
        for _ in range(2):
            use(pool)
            assert is_tended(pool)
            wait_until(lambda: not is_tended(pool))
            assert pool.stats().open == 0
            swept.clear()
            time.sleep(0.1)  # five of its intervals
            assert pool.engine not in swept


def test_rest_is_none_with_mincached(fake: FakeDriver) -> None:
    """A pool with MINCACHED is looked after for good."""
    with open_pool(fake, **{**QUICK, "mincached": 1}) as pool:
        use(pool)
        fake.raws[1].die()
        pool.drain()
        wait_until(lambda: fake.count("connect") == 2 and pool.stats().idle == 1)
        assert is_tended(pool)


def test_rest_is_none_while_down(fake: FakeDriver) -> None:
    """A pool whose server is down goes on with looking whether it is back, and rests then."""
    with open_pool(fake, **QUICK) as pool:
        fake.fail_always("connect", OperationalError)
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.1)
        failed = pool.stats().connect_errors
        wait_until(lambda: pool.stats().connect_errors > failed + 1)
        assert is_tended(pool)
        fake.mend("connect")
        wait_until(lambda: not pool.engine.is_down)
        wait_until(lambda: not is_tended(pool))


def test_rest_of_database_in_memory() -> None:
    """A database in memory, which its pool keeps, is looked after for as long as it is there."""
    with open_pool(url="sqlite://", **QUICK) as pool:
        with pool.connection() as conn:
            conn.cursor().execute("CREATE TABLE t (a)")
        wait_until(lambda: pool.stats().open == 0)
        sweep(pool.engine)
        assert is_tended(pool)


def test_rest_races_checkout(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who begins to wait just as the pool goes to rest is looked after."""
    add = Queue.add_locked

    def rest_first(queue: Queue, waiter: Waiter, *, at_head: bool = False) -> None:
        pool.engine.state.is_tended = False
        add(queue, waiter, at_head=at_head)

    with open_pool(fake, **QUICK) as pool:
        monkeypatch.setattr(Queue, "add_locked", rest_first)
        use(pool)
        assert is_tended(pool)
        monkeypatch.undo()
        wait_until(lambda: pool.stats().open == 0)


def test_last_rest_races_first_use(fake: FakeDriver) -> None:
    """A pool that is used just as the last of the others goes to rest is swept."""
    mine, swept = Upkeep(), threading.Event()

    def use_it_then() -> float:
        found = Upkeep._due(mine)
        patch.undo()
        call(mine.tend, pool.engine).wait()
        return found

    def note(engine: Engine) -> None:
        if engine is pool.engine:
            swept.set()

    with open_pool(fake, **QUICK) as pool, pytest.MonkeyPatch.context() as patch:
        with _sweeping_by(note):
            patch.setattr(mine, "_due", use_it_then)
            mine._schedule()
            assert swept.wait(20)


def test_pools_are_swept_together(fake: FakeDriver, swept: list[Engine]) -> None:
    """Pools with the same times are swept one after the other, however far apart they began."""
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(open_pool(fake, idle_timeout=2.0)) for _ in range(3)]
        for pool in pools:
            use(pool)
            time.sleep(0.05)
        wait_until(lambda: {pool.engine for pool in pools} <= set(swept))
        swept.clear()
        wait_until(lambda: pools[0].engine in swept)
        wait_until(lambda: len(swept) >= 3)
        assert {pool.engine for pool in pools} == set(swept[:3])


def test_many_pools_share_the_housekeeping(fake: FakeDriver) -> None:
    """A sweep of many pools lets other jobs come in between."""
    ran: list[str] = []
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(open_pool(fake, idle_timeout=0.4)) for _ in range(250)]
        done = threading.Event()

        def note(engine: Engine) -> None:
            if not ran:
                housekeeper.call_later(0.0, lambda: ran.append("another"))
            ran.append("sweep")
            if ran.count("sweep") == len(pools):
                done.set()

        stack.enter_context(_sweeping_by(note))
        for pool in pools:
            the_upkeep.tend(pool.engine)
        assert done.wait(20)
        assert ran.index("another") < len(pools)


@contextlib.contextmanager
def _sweeping_by(function: Callable[[Engine], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "sweep", function)
        yield


@pytest.mark.slow
@pytest.mark.alone
def test_ten_thousand_pools(fake: FakeDriver) -> None:
    """10,000 pools that were all used once take no time when they are idle, and no thread each."""
    threads = threading.active_count()
    config = PoolConfig(creator=fake, mincached=0, idle_timeout=0.2)
    pools = [Pool(config, fake, bind=str(number)) for number in range(10_000)]
    began = time.process_time()
    for pool in pools:
        with pool.lease():
            pass
        pool.drain()
    assert time.process_time() - began < 60
    wait_until(lambda: not any(map(is_tended, pools)))
    assert threading.active_count() <= threads + 3
    gc.collect()  # what earlier tests have left takes time to be found as well
    began = time.process_time()
    time.sleep(1)
    assert time.process_time() - began < 0.05
