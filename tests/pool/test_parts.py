"""The parts of a pool, each by itself: places, the queue, the backoff, liveness, events."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest

from flask_pooled_db.config import PingPolicy, PoolConfig
from flask_pooled_db.drivers.servers import BACKOFF_FIRST, BACKOFF_MAX
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.pool import Engine, NoEvents
from flask_pooled_db.pool.connector import URGENT_PAUSE, Attempt, Backoff
from flask_pooled_db.pool.entry import Entry, Origin
from flask_pooled_db.pool.liveness import FRESH, Liveness, Verdict
from flask_pooled_db.pool.places import Places
from flask_pooled_db.pool.queue import Queue, Waiter
from flask_pooled_db.pool.watchers import Watchers
from tests.support.clock import Clock
from tests.support.fake_driver import FakeDriver, OperationalError


@pytest.fixture
def clock() -> Clock:
    """A clock that the test puts forward."""
    return Clock()


def entry_of(fake: FakeDriver, clock: Clock) -> Entry:
    """Return an entry for a connection of the fake driver."""
    config = PoolConfig(creator=fake)
    return Entry(fake.connect(), Origin(fake, config, PingPolicy(), clock()))


# Places


def test_p3_places() -> None:
    """No more places are taken than there are, and one that was given back is free again."""
    places = Places(2)
    first, second = places.take(), places.take()
    assert first is not None
    assert second is not None
    assert places.take() is None
    first.give_back()
    first.give_back()  # giving it back twice frees one place
    assert places.taken == 1
    third = places.take()
    assert third is not None
    assert places.take() is None
    third = None  # garbage: whatever loses a place frees it
    assert places.take() is not None


def test_p3_places_without_limit() -> None:
    """A limit of 0 is none."""
    places = Places(0)
    taken = [places.take() for _ in range(100)]
    assert all(taken)
    assert (places.taken, places.most) == (100, math.inf)


def test_p3_places_of_a_parent() -> None:
    """A parent is a limit over all its children, of any generation."""
    host = Places(3)
    process = Places(0, parent=host)
    one, other = Places(2, parent=process), Places(2, parent=process)
    taken = [one.take(), one.take(), other.take()]
    assert all(taken)
    assert one.take() is None  # its own limit
    assert other.take() is None  # the host's
    assert (host.taken, process.taken, one.taken, other.taken) == (3, 3, 2, 1)
    assert taken[0] is not None
    taken[0].give_back()
    last = other.take()
    assert last is not None
    assert (host.taken, process.taken, one.taken, other.taken) == (3, 3, 1, 2)
    del last, taken[1:]
    gc.collect()
    assert (host.taken, process.taken, one.taken, other.taken) == (0, 0, 0, 0)


def test_p3_places_made_fewer() -> None:
    """Places beyond a new limit stay taken until they are given back."""
    places = Places(2)
    held = [places.take(), places.take()]
    places.set_limit(1)
    assert (places.taken, places.most) == (2, 1)
    for place in held:
        assert place is not None
        place.give_back()
    last = places.take()
    assert last is not None
    assert places.take() is None


# The queue


def test_p2_queue_order() -> None:
    """The first to come is served first, except after one that was handed a dead connection."""
    queue = Queue()
    first, second, again = Waiter(), Waiter(), Waiter()
    queue.add_locked(first)
    queue.add_locked(second)
    queue.add_locked(again, at_head=True)
    assert [queue.next_locked() for _ in range(3)] == [again, first, second]
    assert len(queue) == 0


def test_p2_queue_withdrawal(clock: Clock) -> None:
    """A waiter that gives up leaves the queue; one that was handed a connection has it."""
    fake, queue = FakeDriver(), Queue()
    gives_up, served = Waiter(), Waiter()
    queue.add_locked(gives_up)
    queue.add_locked(served)
    assert queue.withdraw_locked(gives_up) is None
    entry = entry_of(fake, clock)
    queue.next_locked().settle(entry)
    served.wait(20)
    assert queue.withdraw_locked(served) is entry
    entry.link.close()


class Hasty(Waiter):
    """A waiter that gives up as soon as a connect fails."""

    needs_up = True


def test_p2_queue_failure() -> None:
    """Those that are to fail get an error of their own each; the others wait on."""
    queue = Queue()
    patient, hasty = Waiter(), Hasty()
    queue.add_locked(patient)
    queue.add_locked(hasty)
    queue.fail_locked(OperationalError, lambda waiter: waiter.needs_up)
    assert isinstance(hasty.error, OperationalError)
    assert patient.error is None
    queue.fail_locked(OperationalError)
    assert patient.error is not hasty.error
    assert len(queue) == 0


# The backoff


def test_p10_backoff(clock: Clock) -> None:
    """Pauses grow with the failures up to a limit, and a success ends them."""
    backoff = Backoff(clock)
    assert not backoff.is_down
    assert backoff.failed_locked(OperationalError(), is_permanent=False)
    assert 0 < backoff.pause_locked() <= BACKOFF_FIRST
    for _ in range(60):
        assert not backoff.failed_locked(OperationalError(), is_permanent=False)
    assert BACKOFF_MAX / 2 <= backoff.pause_locked() <= BACKOFF_MAX
    assert backoff.succeeded_locked()
    assert not backoff.succeeded_locked()
    assert backoff.error is None


def test_p10_backoff_for_good(clock: Clock) -> None:
    """A permanent error is a refusal for as long as its pause lasts."""
    backoff, error = Backoff(clock), OperationalError()
    backoff.failed_locked(error, is_permanent=True)
    assert backoff.refusal is error
    clock.now += BACKOFF_MAX
    assert backoff.refusal is None
    backoff.failed_locked(error, is_permanent=False)
    assert backoff.refusal is None


def fail(backoff: Backoff, *, is_permanent: bool = False) -> None:
    backoff.failed_locked(OperationalError(), is_permanent=is_permanent)


def test_p2_backoff_outage(clock: Clock) -> None:
    """Callers are turned away once every connect has failed for long, except those who came before
    that; until a connect succeeds.
    """
    backoff = Backoff(clock, 10.0)
    fail(backoff)
    clock.now += 9.9
    early = clock()
    fail(backoff)
    assert not backoff.turns_away_locked(clock())
    assert backoff.outage == 0.0
    clock.now += 0.1
    assert not backoff.turns_away_locked(clock())  # nobody knows what the next connect finds
    fail(backoff)
    assert backoff.turns_away_locked(clock())
    assert not backoff.turns_away_locked(early)
    assert backoff.outage == pytest.approx(10.0)
    backoff.succeeded_locked()
    assert not backoff.turns_away_locked(clock())
    assert backoff.outage == 0.0


def test_p2_backoff_stale_outage(clock: Clock) -> None:
    """What nobody has tried for long is not known: callers wait, and the failures count anew."""
    backoff = Backoff(clock, 10.0)
    fail(backoff)
    clock.now += 10.0
    fail(backoff)
    clock.now += 2 * BACKOFF_MAX
    assert not backoff.turns_away_locked(clock())
    with backoff.asking(Attempt(Places().take())):  # type: ignore[arg-type]
        clock.now += 5.0
    fail(backoff)
    assert not backoff.turns_away_locked(clock())


def test_p2_backoff_outage_while_asking(clock: Clock) -> None:
    """A connect that hangs does not make what was known stale; its silence has a length."""
    backoff = Backoff(clock, 10.0)
    fail(backoff)
    clock.now += 10.0
    fail(backoff)
    assert backoff.silence == 0.0
    with backoff.asking(Attempt(Places().take())):  # type: ignore[arg-type]
        clock.now += 60.0
        assert backoff.silence == 60.0
        assert backoff.turns_away_locked(clock())
    assert backoff.silence == 0.0


def test_p10_backoff_permanent_outage(clock: Clock) -> None:
    """A permanent error stays one, however long it lasts, and nobody hurries the next connect."""
    backoff = Backoff(clock, 10.0)
    fail(backoff)
    clock.now += 10.0
    for _ in range(30):
        fail(backoff, is_permanent=True)
    assert not backoff.turns_away_locked(clock())
    clock.now += URGENT_PAUSE
    assert not backoff.is_due_locked()


def test_p10_backoff_urgent(clock: Clock) -> None:
    """A caller who is turned away shortens the pause to half a second."""
    backoff = Backoff(clock, 0.0)
    assert not backoff.is_due_locked()
    for _ in range(30):
        fail(backoff)
    assert not backoff.is_due_locked()
    assert 0 < backoff.pause_locked() <= URGENT_PAUSE
    clock.now += URGENT_PAUSE
    assert backoff.is_due_locked()


# Liveness


def liveness_of(clock: Clock, **settings: Any) -> Liveness:
    config = PoolConfig(creator=object(), **settings)
    return Liveness(config, PingPolicy.parse(config.ping), clock)


def test_p4_liveness(clock: Clock) -> None:
    """A look is enough for a while after each use; then the server is asked."""
    fake = FakeDriver()
    liveness = liveness_of(clock, ping_after=5.0)
    entry = entry_of(fake, clock)
    liveness.welcome(entry)
    assert liveness.check(entry, clock() + 1) is Verdict.VALID
    assert fake.count("ping") == 0
    clock.now += 6
    assert liveness.check(entry, clock() + 1) is Verdict.VALID
    assert fake.count("ping") == 1
    fake.raws[1].die()
    assert liveness.check(entry, clock() + 1) is Verdict.DEAD
    entry.link.terminate()


def test_p4_liveness_of_a_suspect(clock: Clock) -> None:
    """A connection that another one has made suspect is asked at once."""
    fake = FakeDriver()
    liveness = liveness_of(clock)
    entry = entry_of(fake, clock)
    liveness.welcome(entry)
    liveness.suspect(entry)
    fake.fail("ping", OperationalError())
    assert liveness.check(entry, clock() + 1) is Verdict.DEAD
    assert not entry.is_suspect
    entry.link.terminate()


@pytest.mark.parametrize(
    ("settings", "trust"),
    [({"ping": 0}, math.inf), ({"ping": "SELECT 1"}, 0.0), ({"ping_after": 3.0}, 3.0)],
    ids=["no ping", "own check", "ping_after"],
)
def test_p4_liveness_settings(clock: Clock, settings: dict[str, Any], trust: float) -> None:
    """How long a look is enough is what the pool was told; a new connection has a second more."""
    liveness = liveness_of(clock, **settings)
    assert liveness.trust == trust
    entry = entry_of(FakeDriver(), clock)
    liveness.welcome(entry)
    assert entry.valid_until == clock() + max(trust, FRESH)
    entry.link.close()


# Events


class Listener(NoEvents):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def opened(self, seconds: float) -> None:
        self.told.append("opened")

    def connect_failed(self, error: BaseException) -> None:
        self.told.append(f"connect failed: {type(error).__name__}")

    def went_down(self, error: BaseException) -> None:
        self.told.append("went down")

    def came_back(self) -> None:
        self.told.append("came back")

    def queued(self) -> None:
        self.told.append("queued")

    def waited(self, seconds: float, holders: object) -> None:
        self.told.append("waited")

    def timed_out(self, seconds: float, holders: object) -> None:
        self.told.append("timed out")

    def found_dead(self) -> None:
        self.told.append("found dead")

    def evicted(self, reason: str) -> None:
        self.told.append(f"evicted: {reason}")


def test_events_of_a_pool() -> None:
    """A subscriber is told what happens, in order and with reasons."""
    fake, events = FakeDriver(), Listener()
    fake.fail("connect", OperationalError())
    config = PoolConfig(creator=fake, mincached=0, maxconnections=1)
    engine = Engine(config, fake, watchers=Watchers([events]))
    entry = engine.acquire()
    with pytest.raises(PoolTimeout):
        engine.acquire(timeout=0)
    engine.release(entry)
    entry = engine.acquire()
    entry.condemn("it is of no use")
    engine.release(entry)
    engine.close()
    assert events.told == [
        "queued",
        "connect failed: OperationalError",
        "went down",
        "opened",
        "came back",
        "waited",
        "queued",
        "timed out",
        "evicted: it is of no use",
    ]
