"""P3: never more than `maxconnections` connections."""

from __future__ import annotations

import threading

import pytest

from flask_pooled_db.errors import PoolTimeout
from harness.waiting import wait_until
from tests.pool.helpers import close_all, use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, check_counts, open_pool


def test_p3_slow_connects_and_closes(fake: FakeDriver) -> None:
    """No more than MAXCONNECTIONS connections exist, including those being opened and closed."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            lease = pool.lease(timeout=60)
            fake.raws[lease.cursor().fetchone()[0]].die()
            lease.close()
            check_counts(pool)

    with open_pool(fake, maxconnections=3, maxcached=2) as pool:
        callers = [call(work) for _ in range(8)]
        wait_until(lambda: fake.count("connect") > 60)
        stop.set()
        for caller in callers:
            caller.result()
        assert fake.most_open == 3


def test_p3_place_until_closed(fake: FakeDriver) -> None:
    """While an old connection is being closed, no new one is opened beyond the limit."""
    with open_pool(fake, maxconnections=1) as pool:
        use(pool)
        gate = fake.hold("close")
        drain = call(pool.drain)
        gate.wait_for_arrivals()
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.1)
        assert (pool.stats().open, fake.count("connect")) == (1, 1)
        gate.open()
        drain.result()
        assert use(pool) == 2
        assert fake.most_open == 1


def test_p3_unlimited(fake: FakeDriver) -> None:
    """MAXCONNECTIONS 0 is no limit, as in DBUtils."""
    with open_pool(fake, maxconnections=0) as pool:
        leases = [pool.connection() for _ in range(25)]
        assert fake.open_now == 25
        close_all(leases)


def test_connection_returned_twice(fake: FakeDriver) -> None:
    """Returning or evicting a connection a second time changes nothing."""
    with open_pool(fake) as pool:
        entry = pool.engine.acquire()
        pool.engine.release(entry)
        pool.engine.release(entry)
        entry.condemn("of no use")
        pool.engine.release(entry)
        entry.condemned = None
        assert (check_counts(pool).open, pool.stats().idle) == (1, 1)
        assert use(pool) == 1
