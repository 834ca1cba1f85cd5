"""Calls that nothing can end, and callers that are interrupted while they wait for them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import Errand, workers
from harness.waiting import wait_until
from tests.support.fake_driver import FakeDriver, Gate
from tests.support.pools import open_pool


class SoftLimit(Exception):
    """What a queue of jobs has a signal handler raise when a job takes too long."""


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """Have a signal raise."""

    def handle(*_: object) -> None:
        raise SoftLimit

    before = signal.signal(signal.SIGUSR1, handle)
    yield
    signal.signal(signal.SIGUSR1, before)


def interrupt() -> None:
    """Interrupt the main thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def test_interrupted_caller_leaves_the_call() -> None:
    """A call that has begun is tidied up after, whatever the class of its caller's exception."""
    gate = Gate()
    tidied: list[object] = []

    def work() -> str:
        interrupt()
        gate.stop_here()
        return "a connection"

    errand = Errand("opener", work, tidied.append)
    with pytest.raises(SoftLimit):
        errand.run(60)
    assert errand.is_left
    assert tidied == []
    gate.open()
    wait_until(lambda: tidied == ["a connection"])


def test_interrupted_before_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that no thread has begun is not made any more."""
    started: list[Any] = []

    def start(_: str, target: Any) -> None:
        started.append(target)
        interrupt()

    monkeypatch.setattr(workers, "start", start)
    called = threading.Event()
    errand = Errand("opener", called.set, lambda _: None)
    with pytest.raises(SoftLimit):
        errand.run(60)
    assert not errand.is_left
    started[0]()
    assert not called.is_set()


def test_interrupted_after_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has ended as its caller is interrupted is tidied up after, too."""

    def start(_: str, target: Any) -> None:
        target()
        interrupt()

    monkeypatch.setattr(workers, "start", start)
    tidied: list[object] = []
    errand = Errand("opener", lambda: "a connection", tidied.append)
    with pytest.raises(SoftLimit):
        errand.run(60)
    assert not errand.is_left
    assert tidied == ["a connection"]


def test_no_thread_for_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call for which there is no thread is not left to one."""

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(workers, "start", start)
    errand = Errand("opener", bool, lambda _: None)
    with pytest.raises(RuntimeError, match="new thread"):
        errand.run(60)
    assert not errand.is_left


class Unreachable(FakeDriver):
    """One whose pings nothing can end, in which the main thread is interrupted."""

    def can_be_cut(self, raw: Any) -> bool:
        return False

    def ping(self, raw: Any) -> None:
        interrupt()
        super().ping(raw)


def test_interrupted_ping() -> None:
    """The connection of an interrupted ping is closed by the thread that is at work with it."""
    fake = Unreachable()
    gate = fake.hold("ping")
    with open_pool(fake, maxconnections=1) as pool:
        entry: Entry = pool.engine.acquire()
        assert not entry.answers(60)
        gate.wait_for_arrivals()
        pool.engine.evict(entry, "its ping was interrupted")
        assert fake.count("close") == 0
        gate.open()
        wait_until(lambda: fake.count("close") == 1)
        wait_until(lambda: fake.open_now == 0)
