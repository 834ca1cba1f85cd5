"""P12, P13: the calls of one lease, where no thread can start or a signal handler raises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from flask_pooled_db.lease.line import Job, Line
from flask_pooled_db.runtime import crew
from harness.waiting import PATIENCE, wait_until
from tests.support.pools import call


@pytest.fixture(autouse=True)
def _dismissed() -> Iterator[None]:
    """Leave no thread of the crew."""
    yield
    crew.dismiss()


def no_thread() -> RuntimeError:
    return RuntimeError("can't start new thread")


@pytest.mark.parametrize("make", [no_thread, KeyboardInterrupt])
def test_p13_others_come_before_it_fails(
    make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others submit while a call finds no thread is not lost: what ends a lease is done, and
    a call that a task waits for fails, unless it has to be made.
    """
    line = Line()
    made: list[str] = []
    told: list[str] = []
    waited_for = Job(made.append, ("call",))
    waited_for.when_done(told.append, "call")
    leaving = Job(made.append, ("leave",), is_for_sure=True)
    leaving.when_done(told.append, "leave")
    end = Job(made.append, ("end",))

    def fail(_: Callable[[], object]) -> None:
        for job in (waited_for, leaving, end):
            call(line.submit, job).result()  # another thread: it relies on the worker to come
        raise make()

    monkeypatch.setattr(crew, "call", fail)
    with pytest.raises(type(make())):
        line.submit(Job(made.append, ("first",)))
    assert (made, told, line.is_idle) == (["leave", "end"], ["call", "leave"], True)
    with pytest.raises(RuntimeError, match="no thread could start"):
        waited_for.result()
    monkeypatch.undo()
    line.submit(Job(made.append, ("next",)))
    wait_until(lambda: line.is_idle)
    assert made == ["leave", "end", "next"]


def test_p12_interrupted_when_the_worker_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has begun before its caller was interrupted has the line until its end."""
    line = Line()
    made: list[str] = []
    begun, gate = threading.Event(), threading.Event()
    start = crew.call

    def work() -> None:
        begun.set()
        gate.wait(PATIENCE)
        made.append("first")

    def interrupt(function: Callable[[], object]) -> None:
        start(function)
        assert begun.wait(PATIENCE)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crew, "call", interrupt)
        with pytest.raises(KeyboardInterrupt):
            line.submit(Job(work, ()))
    line.submit(Job(made.append, ("second",)))
    assert (made, line.is_idle) == ([], False)
    gate.set()
    wait_until(lambda: line.is_idle)
    assert made == ["first", "second"]


def test_p12_interrupted_before_the_worker_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that comes although its caller was interrupted, and has made do without, does
    nothing.
    """
    line = Line()
    made: list[str] = []
    late: list[Callable[[], object]] = []

    def interrupt(function: Callable[[], object]) -> None:
        late.append(function)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crew, "call", interrupt)
        with pytest.raises(KeyboardInterrupt):
            line.submit(Job(made.append, ("first",)))
    gate = threading.Event()
    line.submit(Job(gate.wait, (PATIENCE,)))
    line.submit(Job(made.append, ("second",)))
    late[0]()
    assert made == []
    gate.set()
    wait_until(lambda: line.is_idle)
    assert made == ["second"]
