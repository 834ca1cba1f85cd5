"""Many ask for the check of one pool: it is made once a second at most, and nobody waits long."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import pytest

from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.checkup import INTERVAL, Checkup
from flask_pooled_db.pool.probe import Answer
from flask_pooled_db.runtime import notices, workers
from harness.waiting import wait_until
from tests.pool.helpers import use
from tests.runtime.forking import run_program
from tests.support.clock import Clock
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call, open_pool

LONG = 60.0


@pytest.fixture
def pool(fake: FakeDriver) -> Iterator[Pool]:
    """A pool with one idle connection."""
    with open_pool(fake, maxconnections=1) as pool:
        use(pool)
        yield pool


def ask(checkup: Checkup) -> Answer:
    return checkup.begin()(math.inf)


def test_check_once_a_second(fake: FakeDriver, pool: Pool) -> None:
    """Whoever asks within a second of a check's beginning has its result; then it is made anew."""
    clock = Clock()
    checkup = Checkup(pool.engine, LONG, clock)
    for _ in range(5):
        assert ask(checkup) is Answer.OK
    assert fake.count("ping") == 1
    clock.now += INTERVAL
    assert ask(checkup) is Answer.OK
    assert fake.count("ping") == 2


def test_check_shared(fake: FakeDriver, pool: Pool) -> None:
    """Those who ask while a check is under way share it."""
    gate = fake.hold("ping")
    checkup = Checkup(pool.engine, LONG)
    begun = [checkup.begin() for _ in range(5)]
    gate.wait_for_arrivals()
    callers = [call(result, math.inf) for result in begun]
    gate.open()
    assert {caller.result() for caller in callers} == {Answer.OK}
    assert fake.count("ping") == 1


def test_check_hangs(fake: FakeDriver, pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """A check that hangs in its driver, where nothing ends it, is over for all who ask when its
    time is over; no other is begun beside it; and it is logged once.
    """
    gate, clock = fake.hold("ping"), Clock()
    checkup = Checkup(pool.engine, 0.1, clock)
    assert ask(checkup) is Answer.DOWN
    clock.now += 10.0
    assert [ask(checkup) for _ in range(3)] == [Answer.DOWN] * 3
    assert fake.count("ping") == 1
    assert caplog.text.count("Bind 'default' is not ready: the check did not return in time") == 1
    gate.open()
    wait_until(lambda: ask(checkup) is Answer.OK, "the next check")


def test_outage_logged_once(
    fake: FakeDriver, pool: Pool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is one line, with its reason, and its end is another; what comes and goes is not
    logged each time.
    """
    clock = Clock()
    checkup = Checkup(pool.engine, LONG, clock)

    def turn(answer: Answer) -> None:
        if answer is Answer.DOWN:
            fake.fail_always("connect", OperationalError)
            pool.drain()
        else:
            fake.mend("connect")

        def has_turned() -> bool:
            clock.now += INTERVAL
            return ask(checkup) is answer

        wait_until(has_turned)

    for _ in range(3):
        turn(Answer.DOWN)
        for _ in range(2):
            clock.now += INTERVAL
            ask(checkup)
        turn(Answer.OK)
    lines = [record.getMessage() for record in caplog.records]
    told = [line for line in lines if "ready" in line]
    assert told == [
        "Bind 'default' is not ready: connecting failed: OperationalError",
        "Bind 'default' is ready again",
    ]
    assert caplog.records[0].levelno == logging.WARNING
    monkeypatch.setattr(notices, "PAUSE", 0.0)
    turn(Answer.DOWN)
    wait_until(lambda: "is not ready: connecting failed: OperationalError (3 more" in caplog.text)


def test_check_without_threads(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system has no more threads, who asks makes the check."""

    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(workers, "start", refuse)
    assert ask(Checkup(pool.engine, LONG)) is Answer.OK


def test_check_that_fails(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that fails by itself is an answer, too."""

    def fail(seconds: float) -> None:
        raise LookupError

    monkeypatch.setattr(pool.engine, "probe", fail)
    assert ask(Checkup(pool.engine, LONG)) is Answer.DOWN


def test_check_of_interrupted_asker(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asker who is interrupted before the check has begun keeps it from the others for a while,
    and not for good.
    """
    clock = Clock()
    checkup = Checkup(pool.engine, LONG, clock)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workers, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkup.begin()
    clock.now += 10.0
    assert ask(checkup) is Answer.OK


def test_check_of_closed_pool(pool: Pool) -> None:
    """A pool that was closed is told at once, whatever was found a moment ago."""
    checkup = Checkup(pool.engine, LONG)
    assert ask(checkup) is Answer.OK
    pool.close()
    assert ask(checkup) is Answer.CLOSED


FORKING = """
from flask_pooled_db.pool import checkup
from tests.support.fake_driver import FakeDriver
checkup.INTERVAL = 600.0
fake = FakeDriver()
with open_pool(fake) as pool:
    pool.lease().close()
    gate = fake.hold("ping")
    check = checkup.Checkup(pool.engine, 60.0)
    parents = check.begin()
    gate.wait_for_arrivals()
    threading.Timer(0.1, gate.open).start()  # which the fork waits for

    def child():
        before = fake.count("connect")
        assert check.begin()(time.monotonic() + 20.0) is checkup.Answer.OK
        assert fake.count("connect") == before + 1, "it has its parent's result"

    fork_amid_threads(child)
    assert parents(time.monotonic() + 20.0) is checkup.Answer.OK
"""


def test_p6_check_of_child() -> None:
    """A forked child has no results of its parent's: its first check is its own, also where the
    parent's was under way.
    """
    run_program(FORKING, "")
