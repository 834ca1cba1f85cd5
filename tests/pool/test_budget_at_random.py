"""P3 and P13 of pools with a common limit: any operations in any order, by many threads at once."""

from __future__ import annotations

import gc
import random
import threading
import time
import warnings

import pytest

from flask_pooled_db.drivers import servers
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.upkeep import sweep
from harness.waiting import wait_until
from tests.pool.budgets import budget_of, check_together, sharing
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call

LIMIT = 5


class Work:
    """What one thread does with all pools."""

    def __init__(self, pools: tuple[Pool, ...], seed: int, stop: threading.Event) -> None:
        self._pools = pools
        self._random = random.Random(seed)
        self._stop = stop
        self.served = 0

    def run(self) -> None:
        while not self._stop.is_set():
            pool = self._random.choice(self._pools)
            timeout = self._random.choice([0.0, 0.001, 20.0, 20.0])
            try:
                self._use(pool, timeout)
            except PoolTimeout:
                assert timeout < 1, "a caller waited in vain"

    def _use(self, pool: Pool, timeout: float) -> None:
        fake = pool.driver
        assert isinstance(fake, FakeDriver)
        entry = pool.engine.acquire(timeout)
        self.served += 1
        if self._random.random() < 0.3:
            time.sleep(0.001)
        what = self._random.choice(["return"] * 12 + ["lose", "kill", "drain", "resize", "break"])
        if what == "lose":
            return
        if what == "kill":
            entry.raw.die()
        elif what == "drain":
            pool.drain()
        elif what == "resize":
            pool.resize(0, *self._random.choice([(1, 1), (2, 3), (5, 6)]))
        elif what == "break":
            fake.fail("connect", OperationalError())
            entry.condemn("of no use")
        pool.engine.release(entry)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
def test_p3_together_at_random(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The common limit holds at every instant, whatever is done; no caller waits in vain, and every
    place comes back.
    """
    monkeypatch.setattr(servers, "BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(servers, "BACKOFF_MAX", 0.002)
    warnings.simplefilter("ignore", ResourceWarning)
    fake, stop = FakeDriver(), threading.Event()
    with sharing(LIMIT, *[fake] * 6, mincached=1, maxconnections=6, acquire_timeout=20) as pools:
        work = [Work(pools, seed * 100 + number, stop) for number in range(12)]
        threads = [call(each.run) for each in work]
        until = time.monotonic() + 3
        while time.monotonic() < until:
            check_counts_now(pools)
            for pool in pools:
                sweep(pool.engine)
        stop.set()
        for thread in threads:
            thread.result()
        fake.mend("connect")
        assert fake.most_open <= LIMIT
        assert min(each.served for each in work) > 20

        def is_quiet() -> bool:
            gc.collect()
            for pool in pools:
                sweep(pool.engine)
            counts = [pool.stats() for pool in pools]
            return all(now.open == now.idle and not now.waiting for now in counts)

        wait_until(is_quiet, "every place comes back")
        check_together(*pools)


def check_counts_now(pools: tuple[Pool, ...]) -> None:
    """What holds at every instant."""
    budget = budget_of(pools[0])
    with pools[0].engine.state.lock:
        taken = sum(pool.engine.state.places.taken for pool in pools)
        assert taken <= LIMIT
        assert budget.places.taken <= LIMIT


@pytest.mark.timeout(120)
def test_p2_many_binds_few_places(fake: FakeDriver) -> None:
    """With more binds in use than connections, every caller of each is served in time."""
    with sharing(3, *[fake] * 8, acquire_timeout=20) as pools:

        def work(pool: Pool) -> None:
            for _ in range(40):
                with pool.lease() as lease:
                    lease.cursor().execute("INSERT")

        for caller in [call(work, pool) for pool in pools for _ in range(2)]:
            caller.result()
        assert fake.most_open <= 3
        check_together(*pools)


def test_no_thrashing(fake: FakeDriver) -> None:
    """Binds that share the limit evenly keep their connections, however busy they are."""
    with sharing(4, fake, fake, acquire_timeout=20) as (a, b):
        stop = threading.Event()

        def work(pool: Pool) -> None:
            while not stop.is_set():
                with pool.lease() as lease:
                    time.sleep(0.0005)
                    lease.cursor().execute("INSERT")

        callers = [call(work, pool) for pool in (a, b) for _ in range(8)]
        wait_until(lambda: min(a.stats().checkouts, b.stats().checkouts) > 200)
        connects, checkouts = fake.count("connect"), a.stats().checkouts + b.stats().checkouts
        wait_until(lambda: a.stats().checkouts + b.stats().checkouts > checkouts + 1000)
        assert fake.count("connect") - connects < 20
        stop.set()
        for caller in callers:
            caller.result()
