"""What interrupts statements goes on, whatever fails or comes in between."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db.drivers import sockets
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Entry, interrupter
from flask_pooled_db.pool.interrupter import Ending, Helper, Interrupter, Limit
from flask_pooled_db.runtime import workers
from harness.waiting import wait_until
from tests.pool.helpers import Interruption
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, open_pool


def no_files() -> OSError:
    return OSError(errno.EMFILE, "Too many open files")


class StrikingDriver(FakeDriver):
    """One that is asked to interrupt statements, and to cut connections."""

    def interrupt(self, raw: Any, helper: Any) -> None:
        self.note("interrupt", raw)

    def cut(self, raw: Any) -> None:
        self.note("cut", raw)


@pytest.fixture
def fake() -> StrikingDriver:
    """A driver of the test's own."""
    return StrikingDriver()


@pytest.fixture
def pool(fake: StrikingDriver) -> Iterator[Pool]:
    """A pool of one connection."""
    with open_pool(fake, maxconnections=1) as pool:
        yield pool
        fake.mend("cut")


@pytest.fixture
def entry(pool: Pool) -> Iterator[Entry]:
    """A connection in use."""
    entry = pool.engine.acquire()
    yield entry
    pool.engine.release(entry)


@pytest.fixture
def orders(pool: Pool) -> Interrupter:
    """What interrupts the statements of the pool."""
    return pool.engine.interrupter


@pytest.fixture
def limit(orders: Interrupter, entry: Entry) -> Limit:
    """A limit of a statement that goes on."""
    return orders.limit(entry, 60.0)


def struck(fake: StrikingDriver, times: int) -> Callable[[], bool]:
    return lambda: fake.count("interrupt") == times


def test_cut_fails(
    fake: StrikingDriver, orders: Interrupter, limit: Limit, caplog: pytest.LogCaptureFixture
) -> None:
    """A statement that can neither be interrupted nor cut keeps no later one from its end."""
    fake.fail("interrupt", no_files())
    fake.fail("cut", no_files())
    with caplog.at_level(logging.WARNING):
        orders.order(limit)
        wait_until(struck(fake, 1))
        wait_until(lambda: not orders._works)
        orders.order(limit)
        wait_until(lambda: limit.interruptions == 2)
        wait_until(lambda: "Cutting the connection of a statement" in caplog.text)
    assert limit.was_cut


def test_cut_fails_without_threads(
    fake: StrikingDriver, orders: Interrupter, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is where the system has no more threads."""

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    fake.fail("cut", no_files())
    with monkeypatch.context() as patch:
        patch.setattr(workers, "start", fail)
        orders.order(limit)
        wait_until(lambda: fake.count("cut") == 1)
        wait_until(lambda: not orders._works)
    orders.order(limit)
    wait_until(struck(fake, 1))


def test_order_is_interrupted(
    fake: StrikingDriver, orders: Interrupter, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order whose giver is interrupted as a thread starts is carried out."""
    start, here = workers.start, threading.current_thread()

    def interrupted(name: str, target: Callable[[], object]) -> None:
        if threading.current_thread() is here:
            raise Interruption
        start(name, target)

    monkeypatch.setattr(workers, "start", interrupted)
    with contextlib.suppress(Interruption):
        orders.order(limit)
    wait_until(struck(fake, 1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_ends_by_an_error(
    fake: StrikingDriver, orders: Interrupter, limit: Limit, entry: Entry
) -> None:
    """When the thread ends by an error, another one goes on with what is left."""
    gate = fake.hold("end")

    def end(_: object) -> None:
        fake.note("end", None)
        raise Interruption

    orders.order(Ending(entry.origin, end))
    gate.wait_for_arrivals()
    orders.order(limit)
    gate.open()
    wait_until(struck(fake, 1))


def test_end_of_a_limit_is_interrupted(
    fake: StrikingDriver, orders: Interrupter, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of who waits for an interruption holds up no other interruption."""
    with monkeypatch.context() as patch:
        patch.setattr(interrupter, "threading", InterruptingLocks)
        limit = orders.limit(entry, 60.0)
        helper = Helper(fake, 1.0)
        with pytest.raises(Interruption), limit:
            limit.strike(helper)
    call(limit.strike, helper).wait()


class InterruptingLocks:
    """In the place of `threading`: who takes a lock for a limited time is interrupted then."""

    class Lock:
        def __init__(self) -> None:
            self._lock = threading.Lock()
            self.release = self._lock.release

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

        def acquire(self, timeout: float | None = None) -> bool:
            self._lock.acquire()
            if timeout is not None:
                raise Interruption
            return True


def test_cut_without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is cut also where the process may open no more files, and stays its driver's."""

    def dup(_: int) -> int:
        raise no_files()

    client, server = socket.socketpair()
    with client, server:
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", dup)
            sockets.cut(client.fileno())
        assert server.recv(1) == b""
        assert client.getsockname() is not None  # its descriptor is open


def test_close_of_what_can_not_be_cut(fake: StrikingDriver, pool: Pool) -> None:
    """A connection that can't be cut is closed all the same, before its place is free."""
    entry = pool.engine.acquire()
    fake.fail("cut", no_files())
    pool.engine.evict(entry, "a test says so")
    assert pool.stats().open == fake.open_now == 0
