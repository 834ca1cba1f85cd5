"""Orders that a process does not answer, or refuses, or fails to carry out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_pooled_db.host import (
    Refused,
    Status,
    publisher,
)
from flask_pooled_db.runtime import workers
from harness.waiting import holds_within, wait_until
from tests.host.meeting import (
    NAME,
    Other,
    member_in,
    publisher_in,
)
from tests.host.obedience import (
    FAST,
    OBEYS,
    Doing,
    Worker,
    given,
    order_files,
    published,
    replies_when_over,
)

pytestmark = pytest.mark.usefixtures("hurry")


# Processes that do not answer


HOLDS_LOCK = """
from flask_pooled_db.host import ledger
from flask_pooled_db.host.presence import lock
with location_in(folder).opened() as directory:
    fd = directory.open(ledger.LOCK_FILE, make=True)
assert lock(fd)
"""


@pytest.mark.parametrize("holds", ["", HOLDS_LOCK], ids=["nothing", "the lock"])
def test_stopped(folder: Path, worker: Worker, other: Other, holds: str) -> None:
    """A process that is stopped holds up nobody: it lives, and has not answered. Continued after
    the order was withdrawn, it does not begin it.
    """
    other.run(OBEYS + holds)
    other.send(signal.SIGSTOP)
    os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT)
    with given(folder) as one:
        wait_until(lambda: sum(reply.is_over for reply in one.replies()) == 1, "one answer")
        (silent,) = (reply for reply in one.replies() if not reply.is_over)
        assert (silent.pid, silent.is_alive, silent.answer) == (other.pid, True, None)
    other.send(signal.SIGCONT)
    other.run("published = counting.n; time.sleep(0.2); assert not seen, seen")


def test_killed_meanwhile(folder: Path, other: Other) -> None:
    """A process that is killed while it is at work is told from one that is silent."""
    other.run(OBEYS.replace('return {"n": len(seen)}', "time.sleep(60)"))
    with given(folder) as one:
        wait_until(lambda: one.replies()[0].answer, "its beginning")
        other.send(signal.SIGKILL)
        (reply,) = replies_when_over(one)
        assert (reply.pid, reply.is_alive) == (other.pid, False)
        assert reply.answer is not None
        assert reply.answer.status is Status.WORKING


def test_ended_before_it_was_seen(folder: Path, worker: Worker, doing: Doing) -> None:
    """A process that ends, and removes its files, before anybody has looked, is told too."""
    with given(folder) as one:
        worker[0].end()
        doing.seen.clear()
        (reply,) = replies_when_over(one)
        assert (reply.pid, reply.is_alive) == (os.getpid(), False)


def test_begins_later(folder: Path, worker: Worker, doing: Doing) -> None:
    """A process that begins after an order was given does not carry it out, and is not waited
    for.
    """
    doing.stops = True
    later = Doing()
    with given(folder) as one, published(folder, later):
        wait_until(lambda: doing.seen, "the one that was there before")
        assert not holds_within(5 * FAST, lambda: later.seen)
        assert len(one.replies()) == 1
        doing.go.set()
        replies_when_over(one)


def test_begun_and_not_seen_yet(
    folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has begun before an order was given, and publishes for the first time
    afterwards, carries it out, and is waited for.
    """
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 60.0)
    young = Doing()
    one_more = publisher_in(folder, 0, young)[0]
    one_more.begin()
    with given(folder) as one:
        replies_when_over(one)
        one_more.read()
        wait_until(lambda: len(one.replies()) == 2, "the one that comes late")
        monkeypatch.setattr(publisher, "FIRST_INTERVAL", 0.01)
        wait_until(lambda: young.seen)
        one_more.read()
        assert len(replies_when_over(one)) == 2
    one_more.end()


def test_forked_child(folder: Path, other: Other) -> None:
    """A forked child does not answer for its parent, nor carry out what that was ordered."""
    other.run(
        OBEYS.replace('return {"n": len(seen)}', "duty.pause(0.5); return {'n': len(seen)}")
        + """
from harness.waiting import wait_until
def fork():
    wait_until(lambda: seen)
    seen.pop().tell(1, 2)  # which the child might answer with
    child = os.fork()
    if not child:
        publisher.begin()
        publisher.read()
        time.sleep(0.2)
        publisher.end()
        os._exit(len(seen))
    print("done" if os.waitpid(child, 0)[1] == 0 else "the child did it", flush=True)
"""
    )
    with given(folder) as one:
        other.run("fork(); print = lambda *_, **__: None")
        (reply,) = replies_when_over(one)
        assert reply.pid == other.pid
        assert sum(name.startswith("answer") for name in order_files(folder)) == 1
        assert reply.answer is not None
        assert reply.answer.status is Status.DONE


def test_unreadable_process(folder: Path, worker: Worker) -> None:
    """A process that lives, and whose numbers can't be read, is waited for: it may be of another
    version.
    """
    member = member_in(folder)
    member.publish({"n": 1})
    (folder / NAME / f"{member.token}.json").write_text('{"format": 999}')
    with given(folder) as one:
        wait_until(lambda: sum(reply.is_over for reply in one.replies()) == 1)
        (silent,) = (reply for reply in one.replies() if not reply.is_over)
        assert (silent.pid, silent.token) == (0, member.token)
    member.retire(None)


# What goes wrong


def test_refused(folder: Path, worker: Worker, doing: Doing) -> None:
    """A process that can't carry out an order says why."""
    doing.error = Refused("it is of another kind")
    with given(folder) as one:
        (reply,) = replies_when_over(one)
    assert reply.answer is not None
    assert (reply.answer.status, reply.answer.result) == (
        Status.REFUSED,
        {"why": "it is of another kind"},
    )


def test_fails(
    folder: Path, worker: Worker, doing: Doing, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure is logged where it comes. The answer has its class, and none of its words, which
    may hold a password.
    """
    doing.error = ValueError("Geheim7")
    with given(folder) as one:
        (reply,) = replies_when_over(one)
    assert reply.answer is not None
    assert (reply.answer.status, reply.answer.result) == (Status.FAILED, {"why": "ValueError"})
    wait_until(lambda: "Carrying out an order (work) failed" in caplog.text)
    assert "Geheim7" in caplog.text


def test_no_thread(
    folder: Path, worker: Worker, doing: Doing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the system has no more threads, the order is begun once it has."""
    start, failures = workers.start, [1, 1]

    def fail(name: str, target: Callable[[], object]) -> None:
        if name == "order" and failures:
            failures.pop()
            raise RuntimeError("can't start new thread")
        start(name, target)

    monkeypatch.setattr(workers, "start", fail)
    with given(folder) as one:
        (reply,) = replies_when_over(one)
        assert reply.answer is not None
    assert (len(doing.seen), failures) == (1, [])
