"""The threads that make calls for event loops."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from flask_pooled_db.runtime import crew, workers
from flask_pooled_db.runtime.crew import Hand
from flask_pooled_db.runtime.workers import THREADS
from harness.waiting import PATIENCE, wait_until
from tests.support.handles import handles


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == THREADS + "caller"]


@pytest.fixture(autouse=True)
def _dismissed() -> Iterator[None]:
    """Begin, and end, without a thread of the crew."""
    crew.dismiss()
    wait_until(lambda: not threads(), "the threads of earlier tests have ended")
    yield
    crew.dismiss()


def made(function: Callable[[], Any]) -> Any:
    """What a function returns that a thread of the crew calls."""
    is_done, outcome = threading.Event(), []

    def call() -> None:
        outcome.append(function())
        is_done.set()

    crew.call(call)
    assert is_done.wait(PATIENCE)
    return outcome[0]


def test_last_used_thread_first() -> None:
    """As many threads as there are calls at once; the one that has rested least is woken first."""
    gate, numbers = threading.Barrier(4), []

    def meet() -> None:
        gate.wait(PATIENCE)
        numbers.append(threading.get_ident())

    for _ in range(3):
        crew.call(meet)
    gate.wait(PATIENCE)
    wait_until(lambda: len(crew.idle) == 3)
    last = crew.idle[-1].thread
    assert last is not None
    for _ in range(5):
        assert made(threading.get_ident) == last.ident
        wait_until(lambda: len(crew.idle) == 3)
    assert len(threads()) == 3


def test_dismissal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is dismissed ends, at once or after its call."""
    monkeypatch.setattr(sys.modules["flask_pooled_db.runtime.crew"], "REST", PATIENCE * 3)
    made(int)
    assert threads()
    crew.dismiss()
    wait_until(lambda: not threads())
    gate = threading.Event()
    crew.call(functools.partial(gate.wait, PATIENCE))
    crew.dismiss()  # while it is at work
    gate.set()
    wait_until(lambda: not threads())


def test_rest_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that nobody calls ends by itself, unless it is just about to be called."""
    monkeypatch.setattr(sys.modules["flask_pooled_db.runtime.crew"], "REST", 0.05)
    made(int)
    wait_until(lambda: crew.idle)
    hand = crew.idle.pop()  # as who calls it does
    time.sleep(0.1)
    is_called = threading.Event()
    hand.call(is_called.set)
    assert is_called.wait(PATIENCE)
    wait_until(lambda: not threads())


@pytest.mark.parametrize("late", [False, True])
def test_rest_of_several(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Each thread has its own time of rest, also one that begins to rest while others end."""
    monkeypatch.setattr(sys.modules["flask_pooled_db.runtime.crew"], "REST", 0.4)
    gate = threading.Barrier(3)
    for _ in range(2):
        crew.call(functools.partial(gate.wait, PATIENCE))
    gate.wait(PATIENCE)
    wait_until(lambda: len(crew.idle) == 2)
    last = crew.idle[-1].thread
    time.sleep(0.2)
    made(int)
    wait_until(lambda: threads() == [last])
    if late:
        made(int)
        assert threads() == [last]
    wait_until(lambda: not threads())


def test_no_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process has no descriptor left, calls are made, by threads that do not rest."""

    def socketpair() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("socket.socketpair", socketpair)
    for _ in range(2):
        assert made(threading.get_ident) != threading.get_ident()
        wait_until(lambda: not threads())


def test_default_timeout_of_sockets() -> None:
    """The timeout that a process has for its sockets is none for a thread at rest."""
    socket.setdefaulttimeout(0.05)
    try:
        first = made(threading.get_ident)
        wait_until(lambda: crew.idle)
    finally:
        socket.setdefaulttimeout(None)
    time.sleep(0.1)
    assert made(threading.get_ident) == first


def test_descriptors_are_closed() -> None:
    """A thread that ends leaves no descriptor."""
    before = handles(Path("socket:"))
    made(int)
    wait_until(lambda: crew.idle)
    assert handles(Path("socket:")) == before + 2
    crew.dismiss()
    wait_until(lambda: not threads())
    wait_until(lambda: handles(Path("socket:")) == before)


def test_p6_fork_waits_for_calls() -> None:
    """A fork waits for a call that is under way; meanwhile none begins, and none rests."""
    gate, begun, order = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        gate.wait(PATIENCE)
        time.sleep(0.05)
        order.append("call")

    made(int)
    crew.call(work)
    assert begun.wait(PATIENCE)

    def later() -> None:
        wait_until(lambda: workers.is_forking)
        crew.call(lambda: order.append("late"))
        gate.set()

    helper = threading.Thread(target=later)
    helper.start()
    child = os.fork()
    if child == 0:
        os._exit(0 if order == ["call"] and not threads() and not crew.idle else 1)
    order.append("fork")
    assert os.waitpid(child, 0)[1] == 0
    helper.join()
    wait_until(lambda: len(order) == 3)
    assert order[0] == "call"


class Interrupting:
    """A socket as whose `send()` a signal handler raises: before or after it has sent."""

    def __init__(self, end: socket.socket, *, sends: bool) -> None:
        self._end = end
        self._sends = sends

    def send(self, data: bytes) -> None:
        if self._sends:
            self._end.send(data)
        raise KeyboardInterrupt

    def close(self) -> None:
        self._end.close()


@contextlib.contextmanager
def interrupted(hand: Hand, *, sends: bool) -> Iterator[None]:
    """Have a signal handler interrupt whoever wakes a thread."""
    ends = hand._ends
    hand._ends = (ends[0], cast("socket.socket", Interrupting(ends[1], sends=sends)))
    yield
    hand._ends = ends


@pytest.mark.parametrize("sends", [False, True])
def test_p12_interrupted_call(sends: bool) -> None:
    """A thread whose waking a signal handler has interrupted rests on, or makes the call: later
    calls are its own, each once, and a fork does not wait for it.
    """
    first = made(threading.get_ident)
    wait_until(lambda: crew.idle)
    (hand,) = crew.idle
    calls: list[int] = []
    for turn in range(3):
        with interrupted(hand, sends=sends), pytest.raises(KeyboardInterrupt):
            crew.call(functools.partial(calls.append, turn))
        wait_until(lambda: list(crew.idle) == [hand])
        assert made(threading.get_ident) == first
        wait_until(lambda: list(crew.idle) == [hand])
    assert len(calls) == len(set(calls))
    assert sends or not calls
    assert workers.wait_for_the_rest(PATIENCE)
    with interrupted(hand, sends=sends), pytest.raises(KeyboardInterrupt):
        crew.dismiss()
    crew.dismiss()
    wait_until(lambda: not threads())


def test_p12_interrupted_after_the_call() -> None:
    """A call that has ended before its caller was interrupted is not taken back from the thread,
    which rests again by then.
    """
    made(int)
    wait_until(lambda: crew.idle)
    (hand,) = crew.idle
    ends = hand._ends

    class Late(Interrupting):
        def send(self, data: bytes) -> None:
            self._end.send(data)
            wait_until(lambda: calls and crew.idle)
            raise KeyboardInterrupt

    calls: list[None] = []
    hand._ends = (ends[0], cast("socket.socket", Late(ends[1], sends=True)))
    with pytest.raises(KeyboardInterrupt):
        crew.call(functools.partial(calls.append, None))
    hand._ends = ends
    assert (list(crew.idle), len(calls)) == ([hand], 1)


def test_p12_no_call_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the process is ending no call is taken, not even by a thread at rest: none goes on."""
    made(int)
    wait_until(lambda: crew.idle)
    monkeypatch.setattr(workers, "is_over", True)
    with pytest.raises(RuntimeError, match="is ending"):
        crew.call(int)
    crew.dismiss()
    with pytest.raises(RuntimeError, match="is ending"):
        crew.call(int)
