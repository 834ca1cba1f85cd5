"""BINDS_MAXCONNECTIONS: the connections of several pools together, on fake drivers."""

from __future__ import annotations

import functools
import gc
import threading
import warnings
from typing import Any

import pytest

from flask_pooled_db.drivers import servers
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Entry, budget, connector, upkeep
from flask_pooled_db.pool.upkeep import sweep
from harness.waiting import wait_until
from tests.pool.budgets import budget_of, check_together, fill, sharing
from tests.pool.helpers import close_all, number_of, use
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call, queue_up


@pytest.fixture(autouse=True)
def _no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sweeps, so that none of them does what others failed to do."""
    monkeypatch.setattr(upkeep, "sweep", lambda _: None)


def test_p3_idle_of_another_bind(fake: FakeDriver) -> None:
    """An idle connection of one bind is closed for a caller of another."""
    with sharing(2, fake, fake) as (a, b):
        fill(a, 2)
        assert use(b) == 3
        assert (a.stats().open, b.stats().open) == (1, 1)
        assert fake.most_open == 2
        assert a.stats().discarded == 1


def test_p3_longest_idle_goes(fake: FakeDriver) -> None:
    """It is the one that has been idle for longest, of whichever bind."""
    with sharing(6, *[fake] * 4) as (*others, last):
        for pool in others:
            fill(pool, 2)
        leases = []
        for pool in reversed(others):
            pool.engine.state.idle[0].since -= 1000
            longest = pool.engine.state.idle[0].raw
            leases.append(last.lease())
            assert longest.closed
            assert pool.stats().open == 1
        close_all(leases)
        assert check_together(*others, last) == 6


def test_p3_no_more_than_missing(fake: FakeDriver) -> None:
    """No more idle connections are closed than callers lack, closes under way included."""
    with sharing(4, fake, fake) as (a, b):
        fill(a, 4)
        gate = fake.hold("close")
        callers = [queue_up(b, b.lease) for _ in range(2)]
        gate.wait_for_arrivals(2)
        for pool in (a, b):
            sweep(pool.engine)
        assert a.stats().idle == 2
        gate.open()
        close_all([caller.result() for caller in callers])
        assert check_together(a, b) == 4
        assert (a.stats().idle, b.stats().idle, fake.most_open) == (2, 2, 4)


def test_p3_room_is_used_first(fake: FakeDriver) -> None:
    """Nothing is closed while there is a free place."""
    with sharing(3, fake, fake) as (a, b):
        fill(a, 2)
        use(b)
        assert (a.stats().open, b.stats().open, fake.count("close")) == (2, 1, 0)


def test_p5_close_hangs(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A close that hangs for another bind's caller holds up neither that one nor its deadline."""
    monkeypatch.setattr(budget, "CLOSING_GRACE", 0.05)
    slow = FakeDriver()
    with sharing(3, slow, fake, fake) as (a, b, c):
        fill(a, 1)
        fill(b, 2)
        a.engine.state.idle[0].since -= 1000
        gate = slow.hold("close")
        with pytest.raises(PoolTimeout):
            c.lease(timeout=0.1)
        caller = call(c.lease)  # a sweep in the background may serve it as well

        def is_served() -> bool:
            sweep(c.engine)
            return not caller.is_alive()

        wait_until(is_served)
        caller.result().close()
        assert (a.stats().open, b.stats().open, c.stats().open) == (1, 1, 1)
        gate.open()
        wait_until(lambda: a.stats().open == 0)
        check_together(a, b, c)


def test_p1_close_for_another(fake: FakeDriver) -> None:
    """Nothing of it is done under the lock, or by the caller who waits."""
    fake.watch()
    with sharing(1, fake, fake) as (a, b):
        for pool in (a, b, a, b):
            use(pool)
        assert fake.violations == []


def test_p2_order_of_binds(fake: FakeDriver) -> None:
    """A place that becomes free goes to the bind whose caller came first."""
    served: list[Pool] = []

    def use_once(pool: Pool) -> None:
        with pool.lease():
            served.append(pool)

    with sharing(1, *[fake] * 6) as (first, *others):
        lease = first.lease()
        order = [*reversed(others), *others]
        callers = [queue_up(pool, use_once, pool) for pool in order]
        lease.close()
        for caller in callers:
            caller.result()
        assert served == order
        assert fake.count("connect") == 10  # one of them serves two
        assert check_together(first, *others) == fake.most_open == 1


def test_p2_order_after_broken(fake: FakeDriver) -> None:
    """So does the place of a connection that is of no more use."""
    with sharing(1, fake, fake, fake) as (a, b, c):
        entry = a.engine.acquire()
        first = queue_up(b, b.lease)
        second = queue_up(c, c.lease)
        a.engine.evict(entry, "of no use")
        assert number_of(first.result()) == 2
        assert second.is_alive()
        first.result().close()
        second.result().close()


def test_return_without_own_waiters(fake: FakeDriver) -> None:
    """A connection that comes back is closed for another bind if its own has no callers."""
    with sharing(3, fake, fake) as (a, b):
        leases = [a.lease(), a.lease(), b.lease()]
        caller = queue_up(b, b.lease)
        leases[0].close()
        close_all([caller.result(), *leases[1:]])
        assert (a.stats().idle, b.stats().idle) == (1, 2)
        assert check_together(a, b) == 3


def test_return_makes_shares_equal(fake: FakeDriver) -> None:
    """Of two binds with callers, the one with two connections more gives some away, until shares
    are equal; then they stay.
    """
    with sharing(4, fake, fake) as (a, b):
        leases = [a.lease() for _ in range(4)]
        others = [queue_up(b, b.lease) for _ in range(4)]
        own = [queue_up(a, a.lease) for _ in range(4)]
        for lease in leases:
            lease.close()
        wait_until(lambda: (a.stats().in_use, b.stats().in_use) == (2, 2))
        connects = fake.count("connect")
        while any(caller.is_alive() for caller in (*own, *others)):
            for caller in (*own, *others):
                if not caller.is_alive():
                    caller.result().close()
            assert (a.stats().open, b.stats().open) == (2, 2) or not (
                a.stats().waiting and b.stats().waiting
            )
        close_all([caller.result() for caller in (*own, *others)])
        assert connects == 6
        assert fake.count("connect") <= connects + 2
        assert fake.most_open == 4


def test_return_to_who_has_none(fake: FakeDriver) -> None:
    """A bind that has no connection gets one in its turn, though the other has callers and just
    one more.
    """
    with sharing(1, fake, fake) as (a, b):
        lease = a.lease()
        other = queue_up(b, b.lease)
        own = queue_up(a, a.lease)
        lease.close()
        other.result().close()
        own.result().close()
    with sharing(1, fake, fake) as (a, b):
        lease = a.lease()
        own = queue_up(a, a.lease)
        other = queue_up(b, b.lease)
        number = number_of(lease)
        lease.close()
        assert number_of(own.result()) == number
        own.result().close()
        other.result().close()


def test_place_goes_to_whom_it_was_meant_for(fake: FakeDriver) -> None:
    """A connection that is closed for the bind with the smaller share is not taken back by the one
    whose callers came earlier.
    """
    with sharing(3, fake, fake) as (a, b):
        leases = [a.lease() for _ in range(3)]
        own = [queue_up(a, a.lease) for _ in range(2)]
        other = queue_up(b, b.lease)
        leases[0].close()
        lent = other.result()
        assert all(caller.is_alive() for caller in own)
        close_all([lent, *leases[1:]])
        close_all([caller.result() for caller in own])


def test_mincached_takes_nothing_away(fake: FakeDriver) -> None:
    """MINCACHED closes nothing of other binds, and waits while somebody else's caller does."""
    with sharing(2, fake, fake, mincached=0) as (a, b):
        fill(a, 2)
        b.resize(2, 2, 2)
        b.engine.state.is_tended = True
        sweep(b.engine)
        assert (a.stats().idle, b.stats().open) == (2, 0)
        leases = [a.lease(), a.lease()]
        caller = queue_up(b, b.lease)
        a.resize(2, 2, 2)
        leases[0].close()
        caller.result().close()
        leases[1].close()
        wait_until(lambda: (a.stats().idle, b.stats().idle) == (1, 1))
        sweep(a.engine)
        sweep(b.engine)
        assert fake.count("connect") == 3


def test_mincached_uses_what_is_free(fake: FakeDriver) -> None:
    """It uses places that nobody needs."""
    with sharing(3, fake, fake) as (a, b):
        use(a)
        b.resize(3, 3, 3)
        use(b)
        wait_until(lambda: b.stats().idle == 2)
        assert (a.stats().idle, fake.most_open) == (1, 3)


@pytest.mark.parametrize("what", ["drain", "close", "resize", "evict_idle"])
def test_whole_pool_frees_places(fake: FakeDriver, what: str) -> None:
    """What is done with a whole pool gives its places to those who wait, at once."""
    with sharing(2, fake, fake) as (a, b):
        leases = [a.lease(), a.lease()]
        caller = queue_up(b, b.lease)
        if what == "drain":
            a.drain()
            leases[0].close()
        elif what == "close":
            a.close()
            leases[0].close()
        elif what == "resize":
            a.resize(0, 1, 1)
            leases[0].close()
        else:
            a.engine.evict(a.engine.state.in_use_locked()[0], "interrupted")
        caller.result().close()
        close_all(leases)
        wait_until(lambda: a.stats().in_use == 0)
        check_together(a, b)


def test_closed_pool_counts_no_more(fake: FakeDriver) -> None:
    """A pool that was closed leaves all places to the others."""
    with sharing(2, fake, fake) as (a, b):
        fill(a, 2)
        a.close()
        fill(b, 2)
        assert check_together(a, b) == 2


def test_lost_lease_frees_place(fake: FakeDriver) -> None:
    """A lease that is garbage costs the other binds no place."""
    with sharing(1, fake, fake) as (a, b):
        keep = [a.connection()]
        caller = queue_up(b, b.lease)
        keep.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        sweep(a.engine)
        caller.result().close()
        assert check_together(a, b) == 1


def test_garbage_pool_frees_places(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that is garbage leaves its places to the others once its connections are closed."""
    monkeypatch.undo()
    with sharing(1, fake, fake) as (a, b):
        use(a)
        pool = Pool(a.config, fake, budget=budget_of(a))
        use(pool)
        del pool
        gc.collect()
        wait_until(lambda: gc.collect() is not None and budget_of(b).places.taken == 0)
        use(b)
        assert fake.most_open == 1


def test_place_of_pause_is_lent(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind whose server is down holds no place during the pauses between its connects."""
    monkeypatch.setattr(servers, "BACKOFF_FIRST", 1000.0)
    monkeypatch.setattr(servers, "BACKOFF_MAX", 1000.0)
    down = FakeDriver()
    down.fail("connect", OperationalError())
    with sharing(1, down, fake, acquire_timeout=60) as (a, b):
        caller = queue_up(a, a.lease)
        wait_until(lambda: a.stats().connect_errors == 1 and a.stats().open == 1)
        b.lease().close()
        a.engine.state.connector.backoff.next_try = 0.0
        sweep(a.engine)
        caller.result().close()
        assert check_together(a, b) == 1


@pytest.fixture
def outages_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have callers be turned away until a connect succeeds, for however long none is tried."""
    monkeypatch.setattr(connector, "BACKOFF_MAX", 1e6)


@pytest.mark.usefixtures("outages_are_remembered")
def test_p10_probe_beside_idle(fake: FakeDriver) -> None:
    """A bind whose callers are turned away finds out that its server is back, though the others use
    all places with idle connections.
    """
    down = FakeDriver()
    down.fail_always("connect", OperationalError)
    with sharing(2, down, fake, acquire_timeout=0.3) as (a, b):
        wait_until(lambda: is_turned_away(a))
        fill(b, 2)
        down.mend("connect")

        wait_until(lambda: is_served(a))
        check_together(a, b)


@pytest.mark.usefixtures("outages_are_remembered")
def test_p10_probe_beside_waiters(fake: FakeDriver) -> None:
    """Nor do the others keep it from that who have callers waiting all the time."""
    down, stop = FakeDriver(), threading.Event()
    down.fail_always("connect", OperationalError)

    def work() -> None:
        while not stop.is_set():
            use(b)

    with sharing(1, down, fake, acquire_timeout=0.3) as (a, b):
        wait_until(lambda: is_turned_away(a))
        callers = [call(work) for _ in range(3)]
        down.mend("connect")
        wait_until(lambda: is_served(a))
        stop.set()
        for caller in callers:
            caller.wait()


@pytest.mark.usefixtures("outages_are_remembered")
def test_p5_probes_leave_places(fake: FakeDriver) -> None:
    """Binds whose server does not answer, and for whom nobody waits, take one place of four at
    most: a bind that works has the others.
    """
    downs = [FakeDriver() for _ in range(6)]
    for down in downs:
        down.fail_always("connect", OperationalError)
    with sharing(4, *downs, fake, acquire_timeout=0.2) as (*away, works):
        for pool in away:
            wait_until(functools.partial(is_turned_away, pool))
        gates = []
        for down in downs:
            down.mend("connect")
            gates.append(down.hold("connect"))  # from now on it does not answer
        for _ in range(20):
            for pool in away:
                assert not is_served(pool)
            with works.lease(timeout=5), works.lease(timeout=5), works.lease(timeout=5):
                assert sum(pool.stats().open for pool in away) <= 1
        for gate in gates:
            gate.open()


def is_served(pool: Pool) -> bool:
    """Whether a caller gets a connection, or is refused."""
    try:
        pool.lease(timeout=0.1).close()
    except PoolTimeout:
        return False
    return True


def is_turned_away(pool: Pool) -> bool:
    """Whether callers of a pool whose server is down are told so at once."""
    return not is_served(pool) and pool.engine.state.connector.backoff.outage > 0


def test_hung_connect_gives_place_back(fake: FakeDriver) -> None:
    """A connect that hangs for good costs the other binds no place."""
    stuck = FakeDriver(connect_timeout=0.1)
    gate = stuck.hold("connect")
    with sharing(1, stuck, fake, connect_timeout=0.1) as (a, b):
        with pytest.raises(PoolTimeout):
            a.lease(timeout=0)
        gate.wait_for_arrivals()
        b.lease(timeout=20).close()
        assert check_together(a, b) == 1
        gate.open()
        wait_until(lambda: not a.engine.state.connector.hanging)


def test_p2_blocking_false(fake: FakeDriver) -> None:
    """With BLOCKING False a caller is turned away at once when all binds together have no
    connection left for it, and served when another's is idle.
    """
    with sharing(2, fake, fake, blocking=False) as (a, b):
        first, second = a.lease(), a.lease()
        with pytest.raises(PoolTimeout, match="without waiting"):
            b.lease(timeout=60)
        second.close()
        b.lease().close()
        first.close()


def test_p2_max_waiting(fake: FakeDriver) -> None:
    """MAX_WAITING counts who waits beyond what the other binds leave."""
    with sharing(2, fake, fake, max_waiting=1) as (a, b):
        lease, other = a.lease(), b.lease()
        caller = queue_up(b, b.lease)
        with pytest.raises(PoolTimeout, match="without waiting"):
            b.lease(timeout=60)
        lease.close()
        caller.result().close()
        other.close()


def test_p2_max_waiting_is_of_each(fake: FakeDriver) -> None:
    """Callers of other binds who wait are none of those that MAX_WAITING counts."""
    with sharing(1, fake, fake, max_waiting=1) as (a, b):
        lease = a.lease()
        callers = [queue_up(pool, pool.lease) for pool in (a, b)]
        lease.close()
        for caller in callers:
            caller.result().close()


def test_p2_timeout_names_common_limit(fake: FakeDriver) -> None:
    """`PoolTimeout` says that the common limit was in the way, and who holds most."""
    with sharing(3, fake, fake, fake) as (a, b, c):
        leases = [a.lease(), b.lease(), b.lease()]
        with pytest.raises(PoolTimeout) as caught:
            c.lease(timeout=0.01)
        assert (
            "all binds together have 3 of 3 connections open (POOLED_DB_BINDS_MAXCONNECTIONS), "
            "bind 'b' the most with 2"
        ) in str(caught.value)
        assert caught.value.binds_maxconnections == 3
        close_all(leases)


def test_p2_timeout_at_own_limit(fake: FakeDriver) -> None:
    """It says nothing of it if the bind's own limit was in the way."""
    with sharing(1, fake, fake, maxconnections=1) as (a, _):
        with a.lease(), pytest.raises(PoolTimeout) as caught:
            a.lease(timeout=0.01)
        assert "together" not in str(caught.value)
        assert caught.value.binds_maxconnections == 0


def test_shared_connections() -> None:
    """MAXSHARED: where other binds have the rest, a connection is shared earlier."""
    able = FakeDriver(threadsafety=2)
    with sharing(2, able, able, maxshared=2) as (a, b):
        lease = b.lease()
        shares: list[Any] = [a.lease(shareable=True, timeout=1) for _ in range(2)]
        assert a.stats().open == 1
        close_all([lease, *shares])


def test_events_of_close_for_another(fake: FakeDriver) -> None:
    """Who watches a pool is told why its connection was closed."""
    reasons: list[str] = []
    with sharing(1, fake, fake) as (a, b):
        use(a)
        a.counters.evicted = reasons.append  # type: ignore[method-assign, assignment]
        use(b)
        assert reasons == ["another bind needs its place"]


def test_idle_are_left_alone_by_own(fake: FakeDriver) -> None:
    """A pool at its own limit has nothing closed for it."""
    with sharing(3, fake, fake, maxconnections=1) as (a, b):
        use(b)
        entry: Entry = a.engine.acquire()
        caller = queue_up(a, a.lease)
        assert b.stats().idle == 1
        a.engine.release(entry)
        caller.result().close()


def test_many_pools_are_not_looked_at(fake: FakeDriver) -> None:
    """Pools without connections are not kept in mind by their budget."""
    with sharing(2, fake, fake) as (a, b):
        for _ in range(50):
            use(a)
            a.drain()
            use(b)
            b.drain()
        wait_until(lambda: not a.stats().open and not b.stats().open)
        assert budget_of(a)._holders == set()
        assert call(use, a).result()
