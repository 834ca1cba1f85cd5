"""Any order of operations on a pool, and what holds after each of them (P2, P3, what was lent).

The driver is a fake one and the clock is the test's, so that hours pass in no time. The threads
are real: the pool opens and closes in the background while the operations go on.
"""

from __future__ import annotations

import gc
import threading
import time
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flask_pooled_db.drivers import servers
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.pool import upkeep as upkeep_module
from flask_pooled_db.pool.queue import Waiter
from flask_pooled_db.pool.upkeep import sweep
from harness.waiting import wait_until
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import Caller, call, check_counts, open_pool

MAX_WAITERS = 4

choices = st.integers(0, 1000)
sizes = st.sampled_from([(0, 1, 1), (1, 1, 1), (0, 1, 2), (1, 2, 2), (2, 2, 3), (1, 3, 4)])


class Patience(threading.local):
    """Whether the caller's thread is in the queue, and whether it is to give up its wait."""

    begun = threading.Event()
    lost = threading.Event()


patience = Patience()


def wait_while_patient(self: Waiter, seconds: float) -> bool:
    """In place of `Waiter.wait`: the end of the time is for the test to say."""
    patience.begun.set()
    while seconds > 0 and not patience.lost.is_set():
        if self._settled.acquire(timeout=0.002):
            return True
    return self._settled.acquire(blocking=False)


class Waiting:
    """A caller in the queue."""

    def __init__(self, pool: Any) -> None:
        self._gives_up, self._waits = threading.Event(), threading.Event()
        self.caller: Caller[Any] = call(self._lease, pool)
        wait_until(lambda: self._waits.is_set() or not self.caller.is_alive())

    def _lease(self, pool: Any) -> Any:
        patience.begun, patience.lost = self._waits, self._gives_up
        return pool.lease(timeout=1e6)

    def give_up(self) -> Any:
        """The lease, if it was handed one first."""
        self._gives_up.set()
        self.caller.wait()
        if isinstance(self.caller.error, PoolTimeout):
            return None
        return self.caller.result()


class PoolMachine(RuleBasedStateMachine):
    """A pool, and what its callers know of it.

    Which rules there are depends on nothing: what the background does in its own time would make
    for other runs of the same steps. A rule that finds nothing to do does nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(servers, "BACKOFF_FIRST", 0.001)
        self.patch.setattr(servers, "BACKOFF_MAX", 0.002)
        # No sweep but the test's own: it would mend what must not need it.
        self.patch.setattr(upkeep_module, "LONGEST_INTERVAL", 1e6)
        self.patch.setattr(Waiter, "wait", wait_while_patient)
        self.fake = FakeDriver()
        self.pools = open_pool(
            self.fake,
            clock=self.clock,
            mincached=1,
            maxcached=2,
            maxconnections=2,
            ping_after=5,
            maxusage=50,
        )
        self.pool = self.pools.__enter__()
        self.leases: list[Any] = []
        self.queue: list[Waiting] = []
        self.highest = 2  # so many may have been open since the last look

    def clock(self) -> float:
        return time.monotonic() + self.offset

    # What callers do

    @property
    def maximum(self) -> int:
        return int(self.pool.stats().maxconnections)

    def number(self, lease: Any) -> int:
        number: int = lease.cursor().fetchone()[0]
        return number

    @rule()
    def acquire(self) -> None:
        """Whoever finds a free place has a connection; others are refused at their deadline."""
        if self.queue:
            return  # it would be the last in it
        if len(self.leases) < self.maximum:
            self.leases.append(self.pool.lease(timeout=1e6))
        else:
            try:
                self.leases.append(self.pool.lease(timeout=0))
            except PoolTimeout:
                return
            assert len(self.leases) <= self.maximum

    @rule()
    def acquire_all(self) -> None:
        """Have no place left, so that whoever comes next waits."""
        while not self.queue and len(self.leases) < self.maximum:
            self.acquire()

    @rule(count=st.integers(1, MAX_WAITERS))
    def wait(self, count: int) -> None:
        for _ in range(min(count, MAX_WAITERS - len(self.queue))):
            self.queue.append(Waiting(self.pool))

    @rule(choice=choices)
    def give_up(self, choice: int) -> None:
        if self.queue:
            lease = self.queue.pop(choice % len(self.queue)).give_up()
            self.leases += [lease] if lease is not None else []

    @rule(choice=choices, statements=st.integers(0, 3))
    def release(self, choice: int, statements: int) -> None:
        if not self.leases:
            return
        lease = self.leases.pop(choice % len(self.leases))
        for _ in range(statements):
            lease.cursor().execute("INSERT")
        lease.close()

    @rule(choice=choices)
    def release_broken(self, choice: int) -> None:
        """A lease whose statement found the connection lost."""
        if not self.leases:
            return
        lease = self.leases.pop(choice % len(self.leases))
        self.fake.fail("INSERT", OperationalError())
        with pytest.raises(OperationalError):
            lease.cursor().execute("INSERT")
        lease.close()

    @rule(choice=choices)
    def lose(self, choice: int) -> None:
        """A lease that nobody gives back."""
        if self.leases:
            self.leases.pop(choice % len(self.leases))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        sweep(self.pool.engine)

    # What happens to the server

    @rule(choice=choices)
    def kill(self, choice: int) -> None:
        alive = [raw for raw in self.fake.raws.values() if not raw.closed]
        if alive:
            alive[choice % len(alive)].die()

    @rule()
    def pings_fail_once(self) -> None:
        self.fake.fail("ping", OperationalError())

    @rule(times=st.integers(1, 4))
    def connects_fail(self, times: int) -> None:
        self.fake.fail("connect", *(OperationalError() for _ in range(times)))

    # What the operator does

    @rule(sizes=sizes)
    def resize(self, sizes: tuple[int, int, int]) -> None:
        self.pool.resize(*sizes)
        self.highest = max(self.highest, sizes[2])

    @rule()
    def drain(self) -> None:
        self.pool.drain()

    @rule(seconds=st.sampled_from([1.0, 10.0, 700.0, 2000.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.offset += seconds
        sweep(self.pool.engine)

    # What holds

    def settle(self) -> None:
        """Wait until the background has done what it can do."""

        def quiet() -> bool:
            stats = check_counts(self.pool)
            waiting = sum(waiting.caller.is_alive() for waiting in self.queue)
            if stats.waiting != waiting:  # one is waking up
                return False
            if stats.in_use != len(self.leases) + len(self.queue) - waiting:
                # A lost one: its opener may have held it until after the sweep.
                self.pool.engine.leaks.reclaim()
                return False
            busy = stats.open != stats.in_use + stats.idle
            return not busy and (not waiting or stats.in_use >= stats.maxconnections)

        wait_until(quiet, "the pool comes to rest")
        served = [waiting for waiting in self.queue if not waiting.caller.is_alive()]
        assert served == self.queue[: len(served)], "somebody was served out of turn"
        del self.queue[: len(served)]
        self.leases += [waiting.caller.result() for waiting in served]

    @invariant()
    def nothing_is_lost_and_nothing_is_lent_twice(self) -> None:
        self.settle()
        stats = check_counts(self.pool)
        assert stats.in_use == len(self.leases)
        numbers = [self.number(lease) for lease in self.leases]
        assert len(set(numbers)) == len(numbers), "one connection is lent to two"
        assert not [n for n in numbers if self.fake.raws[n].closed], "a lease's was closed"
        assert stats.open == self.fake.open_now == stats.in_use + stats.idle

    @invariant()
    def never_more_than_the_maximum_are_open(self) -> None:
        most, now = self.fake.take_most_open()
        assert most <= self.highest
        # After a resize leases end in peace, and no more than these go beyond the maximum.
        self.highest = max(self.maximum, now)

    def teardown(self) -> None:
        try:
            self.fake.mend("connect")
            for waiting in self.queue:
                lease = waiting.give_up()
                if lease is not None:
                    self.leases.append(lease)
            for lease in self.leases:
                lease.close()
            self.pools.__exit__(None, None, None)
            wait_until(lambda: self.pool.stats().open == 0, "everything comes back")
            assert self.fake.open_now == 0
        finally:
            self.patch.undo()


PoolMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestPoolState(PoolMachine.TestCase):  # type: ignore[misc, valid-type]
    """P2, P3 and "what was lent comes back", after every step of any order of steps."""
