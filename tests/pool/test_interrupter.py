"""Time limits that the pool keeps, of statements that nothing else would end."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import DeadlineExceeded, TransactionAborted
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.deadline import Deadline
from flask_pooled_db.runtime.housekeeper import housekeeper
from harness.waiting import wait_until
from tests.support.clock import Clock
from tests.support.fake_driver import FakeDriver, Gate, OperationalError
from tests.support.pools import call, open_pool

LIMITED = Session(False, 0.05)


class InterruptibleDriver(FakeDriver):
    """One whose statement "LONG" runs until it is interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupted = threading.Event()
        self.lost_interruptions = 0.0
        self.closes_slowly = False

    def needs_interrupting(self, raw: Any) -> bool:
        return True

    def ending(self, raw: Any) -> Callable[[Callable[[], Any]], object]:
        return lambda _: self.note("end", raw)

    def interrupt(self, raw: Any, helper: Any) -> None:
        self.note("interrupt", raw)
        if self.count("interrupt") > self.lost_interruptions:
            self.interrupted.set()

    def cut(self, raw: Any) -> None:
        super().cut(raw)
        self.interrupted.set()

    def is_interruption(self, error: BaseException) -> bool:
        return "interrupted" in str(error)

    def has_unread_rows(self, raw: Any) -> bool:
        return self.closes_slowly

    def note(self, what: str, raw: Any) -> None:
        super().note(what, raw)
        if what == "close cursor" and self.closes_slowly:
            self.closes_slowly = False
            what = "LONG"
        if what.startswith("LONG"):
            assert self.interrupted.wait(20), "nobody interrupted the statement"
            if what == "LONG":
                raise OperationalError("interrupted")


@pytest.fixture
def fake() -> InterruptibleDriver:
    """A driver of the test's own."""
    return InterruptibleDriver()


@pytest.fixture
def pool(fake: InterruptibleDriver) -> Iterator[Pool]:
    """A pool of one connection."""
    with open_pool(fake, maxconnections=1) as pool:
        yield pool


def test_limit_interrupts_statement(fake: InterruptibleDriver, pool: Pool) -> None:
    """A statement that exceeds its limit fails with the driver's error; its transaction aborts."""
    lease = pool.lease(session=LIMITED)
    lease.cursor().execute("UPDATE")
    with pytest.raises(OperationalError, match="interrupted"):
        lease.cursor().execute("LONG")
    with pytest.raises(TransactionAborted):
        lease.cursor().execute("UPDATE")
    lease.close()
    assert fake.count("interrupt") == 1


def test_statement_in_time(fake: InterruptibleDriver, pool: Pool) -> None:
    """A statement that ends in time is not interrupted, nor is a later one on its connection."""
    ended = Gate()
    with pool.lease(session=LIMITED) as lease:
        for _ in range(3):
            lease.cursor().execute("UPDATE")
    housekeeper.call_later(0.1, ended.stop_here)  # when all limits would have struck
    ended.wait_for_arrivals()
    ended.open()
    assert fake.count("interrupt") == 0


def test_session_without_limit(fake: InterruptibleDriver, pool: Pool) -> None:
    """A session without a limit has none, even if the connection's last session had one."""
    with pool.lease(session=LIMITED) as lease:
        lease.cursor().execute("UPDATE")
    with pool.lease() as lease:
        caller = call(lease.cursor().execute, "LONG ENOUGH")
        wait_until(lambda: fake.count("LONG ENOUGH"))
        caller.join(0.2)
        assert caller.is_alive()
        fake.interrupted.set()
        caller.wait()
    assert fake.count("interrupt") == 0


def test_statement_waits_for_interruption(fake: InterruptibleDriver, pool: Pool) -> None:
    """A statement waits for its interruption under way, so that no later statement is hit."""
    gate = fake.hold("interrupt")
    lease = pool.lease(session=LIMITED)
    caller = call(lease.cursor().execute, "LONG")
    gate.wait_for_arrivals()
    fake.interrupted.set()  # the statement ends by itself, while its interruption is on its way
    caller.join(0.2)
    assert caller.is_alive()
    gate.open()
    with pytest.raises(OperationalError):
        caller.result()
    lease.close()


def test_statement_ends_during_interruption(fake: InterruptibleDriver, pool: Pool) -> None:
    """A statement that succeeds during its interruption is rolled back, and its connection is
    evicted.
    """
    lease = pool.lease(session=LIMITED)
    with pytest.raises(OperationalError, match="took longer than its limit"):
        lease.cursor().execute("LONG AND DEAF")
    lease.close()
    assert fake.count("commit") == 0
    assert pool.stats().discarded == 1


def test_failed_interruption_cuts_connection(
    fake: InterruptibleDriver, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """If the interruption fails, the connection is cut."""
    fake.fail("interrupt", OperationalError("no way"))
    lease = pool.lease(session=LIMITED)
    raw = fake.raws[1]
    with caplog.at_level(logging.WARNING):
        caller = call(lease.cursor().execute, "LONG")
        assert raw.server_side.recv(1) == b""  # its socket was shut
        fake.interrupted.set()
        with pytest.raises(OperationalError):
            caller.result()
        lease.close()
        told = "Interrupting a statement after its time limit of 0.050 s failed"
        wait_until(lambda: told in caplog.text)


def test_one_interrupter_thread() -> None:
    """One thread interrupts many statements, and ends with the last of them."""
    fake = InterruptibleDriver()
    gate = fake.hold("interrupt")
    with open_pool(fake, maxconnections=4) as pool:
        leases = [pool.lease(session=LIMITED) for _ in range(4)]
        callers = [call(lease.cursor().execute, "LONG") for lease in leases]
        gate.wait_for_arrivals()
        threads = [t for t in threading.enumerate() if t.name == "flask-pooled-db interrupter"]
        assert len(threads) == 1
        gate.open()
        for caller in callers:
            with pytest.raises(OperationalError):
                caller.result()
        for lease in leases:
            lease.close()
        assert fake.count("interrupt") <= 4
        threads[0].join(20)
        assert not threads[0].is_alive()


def test_lost_interruption_is_repeated(fake: InterruptibleDriver, pool: Pool) -> None:
    """An interruption that hit nothing is repeated. A later one may come after the statement's end,
    so that the connection is evicted.
    """
    fake.lost_interruptions = 2
    lease = pool.lease(session=LIMITED)
    with pytest.raises(OperationalError, match="interrupted"):
        lease.cursor().execute("LONG")
    lease.close()
    assert fake.count("interrupt") == 3
    assert pool.stats().discarded == 1


def test_deaf_statement_is_cut(fake: InterruptibleDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A statement that no interruption ends has its connection cut, with the time limit's error."""
    fake.lost_interruptions = math.inf
    with open_pool(fake, maxconnections=1, connect_timeout=0.3) as pool:
        lease = pool.lease(session=LIMITED)
        with pytest.raises(OperationalError, match=r"took longer than its limit of 0\.05 s"):
            lease.cursor().execute("LONG")
        with pytest.raises(TransactionAborted):
            lease.cursor().execute("UPDATE")
        lease.close()
        assert pool.stats().discarded == 1
    wait_until(lambda: "its connection is cut" in caplog.text)


def test_hanging_interruption_holds_nobody(fake: InterruptibleDriver) -> None:
    """A statement that has ended does not wait for good for its interruption, if that hangs."""
    gate = fake.hold("interrupt")
    with open_pool(fake, maxconnections=1, connect_timeout=0.1) as pool:
        lease = pool.lease(session=LIMITED)
        caller = call(lease.cursor().execute, "LONG")
        gate.wait_for_arrivals()
        with pytest.raises(OperationalError):
            caller.result()
        lease.close()
        assert pool.stats().discarded == 1
        gate.open()


def test_limit_of_later_calls(fake: InterruptibleDriver, pool: Pool) -> None:
    """What fetches or drops the rest of a statement has the same limit."""
    lease = pool.lease(session=LIMITED)
    cursor = lease.cursor()
    cursor.execute("SELECT")
    fake.closes_slowly = True
    with pytest.raises(OperationalError, match="interrupted"):
        cursor.close()
    lease.close()
    assert fake.count("interrupt") == 1


def test_helper_that_comes_too_late(fake: InterruptibleDriver, pool: Pool) -> None:
    """A statement that ends while the helper connects is not interrupted."""
    lease = pool.lease(session=LIMITED)
    limit = pool.engine.interrupter.limit(next(iter(pool.engine.state.in_use_locked())), 60)

    class Slow:
        def connection(self, victim: Any) -> Any:
            limit._is_over = True
            return None

    struck: list[Any] = []
    fake.interrupt = lambda raw, helper: struck.append(helper())  # type: ignore[method-assign]
    limit.strike(Slow())  # type: ignore[arg-type]
    assert struck == []
    assert limit.interruptions == 0
    lease.close()


@pytest.mark.parametrize("statement", ["LONG", "LONG and deaf"])
def test_deadline(clock: Clock, statement: str) -> None:
    """A statement that the pool ends for a deadline tells so, however it ends."""
    with open_pool(InterruptibleDriver()) as pool, Deadline(100, "the time of a test"):
        lease = pool.lease()
        clock.now += 99.95
        with pytest.raises(DeadlineExceeded, match="nothing is left of the time of a test"):
            lease.cursor().execute(statement)
        lease.close()


def test_end_before_cut(fake: InterruptibleDriver, pool: Pool) -> None:
    """Where a connection that is cut can't be told any more what to end, that comes first."""
    entry = pool.engine.acquire(None, None)
    fake.cut_after = 0.3
    pool.engine.interrupter.end(entry)
    assert not fake.interrupted.is_set()
    wait_until(lambda: fake.count("end"), "its statement is ended")
    wait_until(fake.interrupted.is_set, "it is cut in any case")
    entry.condemn("it was cut")
    pool.engine.release(entry)
