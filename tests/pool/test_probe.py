"""Probes of a pool, which take nothing that a caller needs, on a fake driver."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

from flask_pooled_db import PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Budget
from flask_pooled_db.pool.probe import Answer
from harness.waiting import PATIENCE, wait_until
from tests.pool.helpers import let_rest, use
from tests.support.fake_driver import FakeDriver, OperationalError, WrongPassword
from tests.support.pools import call, check_counts, fail_to_connect, open_pool, queue_up

SHORT = 0.15


def probe(pool: Pool, seconds: float = PATIENCE) -> Answer:
    return pool.engine.probe(seconds).answer


def refuse(fake: FakeDriver, make: Callable[[], BaseException] = OperationalError) -> None:
    """Have the server refuse connects."""
    fake.fail_always("connect", make)


def test_probe_of_idle_connection(fake: FakeDriver) -> None:
    """An idle connection is pinged, also one that was used a moment ago, and is idle again, rested
    and in its order, as if it had not been taken: no number shows it.
    """
    with open_pool(fake) as pool:
        leases = [pool.lease() for _ in range(2)]
        for lease in leases:
            lease.close()
        state = pool.engine.state
        idle = list(state.idle)
        since, before = [entry.since for entry in idle], pool.stats()
        assert probe(pool) is Answer.OK
        assert (fake.count("ping"), fake.count("connect")) == (1, 2)
        assert list(state.idle) == idle
        assert [entry.since for entry in idle] == since
        numbers, known = dataclasses.asdict(pool.stats()), dataclasses.asdict(before)
        assert numbers == known


def test_probe_of_new_pool(fake: FakeDriver) -> None:
    """A pool that has never connected opens one connection, which the next caller has."""
    with open_pool(fake, maxconnections=3) as pool:
        assert probe(pool) is Answer.OK
        assert (fake.count("connect"), check_counts(pool).idle) == (1, 1)
        use(pool)
        assert fake.count("connect") == 1


def test_probe_warms_up(fake: FakeDriver) -> None:
    """What a probe opens is looked after: the pool is brought to `mincached`."""
    with open_pool(fake, mincached=3) as pool:
        assert probe(pool) is Answer.OK
        wait_until(lambda: pool.stats().idle == 3, "the pool to be warm")


def test_probe_of_full_pool(fake: FakeDriver) -> None:
    """A pool whose connections are all in use is busy: nothing is waited for, and the callers in
    line stay the first.
    """
    with open_pool(fake, maxconnections=1) as pool:
        lease = pool.lease()
        assert probe(pool) is Answer.BUSY
        waiter = queue_up(pool, use, pool)
        assert probe(pool) is Answer.BUSY
        assert pool.stats().waiting == 1
        lease.close()
        waiter.result()
        assert (fake.count("ping"), fake.count("connect")) == (0, 1)


def test_probe_of_last_place_of_budget(fake: FakeDriver) -> None:
    """The places that pools have together are taken: the pool without any is busy, and nothing of
    another's is closed for a probe.
    """
    budget = Budget(1)
    with (
        open_pool(fake, budget=budget) as first,
        open_pool(FakeDriver(), budget=budget, bind="second") as second,
    ):
        use(first)
        assert probe(second) is Answer.BUSY
        assert first.stats().idle == 1


def test_caller_during_probe(fake: FakeDriver) -> None:
    """A caller who comes during the ping of the only connection has it when the ping has ended."""
    gate = fake.hold("ping")
    with open_pool(fake, maxconnections=1) as pool:
        use(pool)
        probing = call(probe, pool)
        gate.wait_for_arrivals()
        assert check_counts(pool).in_use == 1
        waiter = queue_up(pool, use, pool)
        gate.open()
        assert probing.result() is Answer.OK
        check_counts(pool)
        assert waiter.result() == 1
        assert fake.count("connect") == 1


def test_p5_probe_of_silent_server(fake: FakeDriver) -> None:
    """A ping without an answer is ended in time: the pool is down, and the place of the connection
    is free for the caller who waits.
    """
    with open_pool(fake, maxconnections=1) as pool:
        use(pool)
        fake.is_deaf = True
        probing = call(probe, pool, SHORT)
        waiter = queue_up(pool, use, pool)
        assert probing.result() is Answer.DOWN
        assert waiter.result() == 2
        assert check_counts(pool).open == 1


def test_probe_after_restart(fake: FakeDriver) -> None:
    """Connections that have died are replaced, and the pool is fine."""
    with open_pool(fake) as pool:
        leases = [pool.lease() for _ in range(3)]
        for lease in leases:
            lease.close()
        for raw in fake.raws.values():
            raw.die()
        assert probe(pool) is Answer.OK
        stats = check_counts(pool)
        assert (stats.idle, stats.in_use, stats.evictions["dead"]) == (1, 0, 3)


def test_probe_of_server_that_is_away(fake: FakeDriver) -> None:
    """A refused connect is told with its reason; the probe after the server's return finds it."""
    with open_pool(fake) as pool:
        refuse(fake)
        found = pool.engine.probe(PATIENCE)
        assert found.answer is Answer.DOWN
        assert found.reason == "connecting failed: OperationalError"
        fake.mend("connect")
        wait_until(lambda: probe(pool) is Answer.OK, "the pause to be over")


def test_probe_of_silent_connect(fake: FakeDriver) -> None:
    """A connect without an answer is down in time; the next probe waits for the same connect."""
    gate = fake.hold("connect")
    with open_pool(fake) as pool:
        began = time.monotonic()
        assert probe(pool, SHORT) is Answer.DOWN
        assert time.monotonic() - began >= SHORT
        assert probe(pool, SHORT) is Answer.DOWN
        probing = call(probe, pool)
        wait_until(lambda: len(pool.engine.state.onlookers) == 1)
        gate.open()
        assert probing.result() is Answer.OK
        assert fake.count("connect") == 1


def test_probe_of_failure_for_good(fake: FakeDriver) -> None:
    """What fails for good is told at once, without another connect during the pause."""
    with open_pool(fake) as pool:
        refuse(fake, WrongPassword)
        assert probe(pool) is Answer.DOWN
        backoff = pool.engine.state.connector.backoff
        backoff.next_try += PATIENCE
        assert probe(pool) is Answer.DOWN
        assert fake.count("connect") == 1
        backoff.next_try = 0.0  # its pause is over: nobody else would look
        fake.mend("connect")
        assert probe(pool) is Answer.OK


def test_probe_of_long_outage(fake: FakeDriver) -> None:
    """While callers are refused at once, so is a probe; it has a connect tried, which the next one
    profits from.
    """
    with open_pool(fake, acquire_timeout=0.05) as pool:
        refuse(fake)
        fail_to_connect(pool)
        state, config = pool.engine.state, pool.config
        wait_until(lambda: state.is_cut_off_locked(time.monotonic(), config), "callers refused")
        gate = fake.hold("connect")
        wait_until(lambda: probe(pool) is Answer.DOWN and state.connector.opening)
        assert probe(pool) is Answer.DOWN  # though a connect is under way
        fake.mend("connect")
        gate.open()
        wait_until(lambda: probe(pool) is Answer.OK, "the pool to be up")


def test_probe_beside_limit_of_server(fake: FakeDriver) -> None:
    """The server has reached its own limit of connections, and those that it has go round: busy.
    Once they have been out for long, it is down.
    """
    with open_pool(fake, acquire_timeout=5.0) as pool, pool.lease():
        refuse(fake)
        assert probe(pool) is Answer.BUSY
        (entry,) = pool.engine.state.in_use_locked()
        entry.since -= 10.0
        assert probe(pool) is Answer.DOWN


def test_probe_beside_slow_connects(fake: FakeDriver) -> None:
    """Connects take their time, and leases are returned meanwhile: busy."""
    with open_pool(fake) as pool:
        lease = pool.lease()
        (entry,) = pool.engine.state.in_use_locked()
        gate = fake.hold("connect")
        probing = call(probe, pool, SHORT)
        gate.wait_for_arrivals()
        entry.condemn("it is closed when it is returned")
        lease.close()
        assert probing.result() is Answer.BUSY
        gate.open()


def test_probe_of_closed_pool(fake: FakeDriver) -> None:
    """A closed pool is told as such, also to a probe that waits for a connect then."""
    gate = fake.hold("connect")
    with open_pool(fake, connect_timeout=2 * PATIENCE) as pool:
        probing = call(probe, pool)
        gate.wait_for_arrivals()
        pool.close()
        assert probing.result() is Answer.CLOSED
        assert probe(pool) is Answer.CLOSED
        gate.open()


def test_return_during_probe(fake: FakeDriver) -> None:
    """A connection that is used and returned during a probe counts as the last use of the pool."""
    gate = fake.hold("ping")
    with open_pool(fake) as pool:
        leases = [pool.lease() for _ in range(2)]
        for lease in leases:
            lease.close()
        probing = call(probe, pool)
        gate.wait_for_arrivals()
        began = time.monotonic()
        use(pool)
        gate.open()
        assert probing.result() is Answer.OK
        assert pool.engine.last_used >= began


def test_drain_during_probe(fake: FakeDriver) -> None:
    """A connection that is to be replaced while it is pinged is closed afterwards."""
    gate = fake.hold("ping")
    with open_pool(fake) as pool:
        use(pool)
        probing = call(probe, pool)
        gate.wait_for_arrivals()
        pool.drain()
        gate.open()
        assert probing.result() is Answer.OK
        stats = check_counts(pool)
        assert (stats.open, stats.evictions["drained"]) == (0, 1)


def test_p8_probed_connection_rests(fake: FakeDriver) -> None:
    """A connection that only probes use is closed after `idle_timeout` all the same."""
    with open_pool(fake, idle_timeout=0.1) as pool:
        use(pool)
        wait_until(lambda: probe(pool) and fake.count("close"), "the end of the connection")


def test_p13_interrupted_probe(fake: FakeDriver) -> None:
    """A probe that is interrupted in its ping gives the place back."""
    with open_pool(fake, maxconnections=1) as pool:
        use(pool)
        fake.fail("ping", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            probe(pool)
        stats = check_counts(pool)
        assert (stats.open, stats.in_use, stats.checkouts) == (0, 0, 1)
        use(pool)


def test_p1_probe_without_lock(fake: FakeDriver) -> None:
    """A probe asks the driver for nothing while it holds the lock."""
    fake.watch()
    with open_pool(fake) as pool:
        probe(pool)
        let_rest(pool.engine.state.idle[-1])
        probe(pool)
        fake.fail("ping", OperationalError())
        probe(pool)
        assert fake.violations == []


def test_probe_with_check_of_its_own(fake: FakeDriver) -> None:
    """The configured check is what a probe asks."""
    asked: list[Any] = []

    def check(raw: Any) -> bool:
        asked.append(raw)
        return True

    with open_pool(fake, ping=check) as pool:
        use(pool)
        before = len(asked)
        assert probe(pool) is Answer.OK
        assert len(asked) == before + 1


def test_probe_where_nobody_waits(fake: FakeDriver) -> None:
    """Who comes during a probe waits for the end of its ping also where callers never wait: the
    connection was idle.
    """
    with open_pool(fake, maxconnections=1, blocking=False) as pool:
        pool.lease().close()
        gate = fake.hold("ping")
        probing = call(probe, pool)
        gate.wait_for_arrivals()
        caller = queue_up(pool, pool.lease)
        gate.open()
        assert probing.result() is Answer.OK
        lease = caller.result()
        with pytest.raises(PoolTimeout):
            pool.lease()
        lease.close()
        assert check_counts(pool).timeouts == 1


# Behind a proxy, where a ping waits for a session, and a connect does not

PROXY = "transaction"
LONGER = 1.0
"""Half of it suffices for a connect, however busy the machine is."""


def test_probe_of_full_proxy(fake: FakeDriver) -> None:
    """A ping without an answer from a proxy that takes connections means busy. It costs the one
    connection, in whose place there is a new one, and no other one.
    """
    with open_pool(fake, proxy=PROXY) as pool:
        leases = [pool.lease() for _ in range(2)]
        for lease in leases:
            lease.close()
        fake.is_deaf = True
        for connects in (3, 4):
            assert probe(pool, LONGER) is Answer.BUSY
            assert (fake.count("connect"), check_counts(pool).idle) == (connects, 2)
        fake.is_deaf = False
        assert probe(pool) is Answer.OK
        assert fake.count("connect") == 4


def test_probe_of_full_proxy_of_full_pool(fake: FakeDriver) -> None:
    """So it is without a place for the connect, and without a connection before."""
    with open_pool(fake, proxy=PROXY, maxconnections=2) as pool:
        fake.is_deaf = True
        assert probe(pool, LONGER) is Answer.BUSY
        leases = [pool.lease() for _ in range(2)]
        assert probe(pool, LONGER) is Answer.BUSY
        for lease in leases:
            lease.close()


def test_probe_of_proxy_without_sessions(fake: FakeDriver) -> None:
    """Once callers would have waited in vain, the database is down, until a lease comes back or a
    ping is answered.
    """
    with open_pool(fake, proxy=PROXY, acquire_timeout=2.5) as pool:
        fake.is_deaf = True
        assert probe(pool, LONGER) is Answer.BUSY
        wait_until(lambda: probe(pool, LONGER) is Answer.DOWN, "callers would be turned away")
        pool.lease().close()
        assert probe(pool, LONGER) is Answer.BUSY
        fake.is_deaf = False
        assert probe(pool) is Answer.OK
        fake.is_deaf = True
        assert probe(pool, LONGER) is Answer.BUSY


def test_probe_of_silent_proxy(fake: FakeDriver) -> None:
    """A proxy that takes no connection either is down at once, and what is idle is closed."""
    with open_pool(fake, proxy=PROXY, connect_timeout=PATIENCE) as pool:
        leases = [pool.lease() for _ in range(3)]
        for lease in leases:
            lease.close()
        fake.is_deaf = True
        gate = fake.hold("connect")
        assert probe(pool, SHORT) is Answer.DOWN
        assert pool.stats().idle == 0
        gate.open()


def test_probe_of_proxy_that_refuses(fake: FakeDriver) -> None:
    """So is one that refuses connects."""
    with open_pool(fake, proxy=PROXY) as pool:
        use(pool)
        fake.is_deaf = True
        refuse(fake)
        assert probe(pool, SHORT) is Answer.DOWN


def test_probe_of_proxy_whose_server_is_away(fake: FakeDriver) -> None:
    """A connect that the proxy answers by itself proves nothing: a ping on it has to succeed."""
    with open_pool(fake, proxy=PROXY) as pool:
        use(pool)
        fake.fail_always("ping", OperationalError)
        for _ in range(2):
            assert probe(pool) is Answer.DOWN
        fake.mend("ping")
        assert probe(pool) is Answer.OK
        check_counts(pool)
