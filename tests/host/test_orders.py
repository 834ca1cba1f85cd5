"""Orders: each process carries them out once, and whoever gives one waits for nobody."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from flask_pooled_db.host import (
    Publisher,
    Status,
)
from flask_pooled_db.host.directory import Directory
from flask_pooled_db.host.orders import Leftovers
from flask_pooled_db.runtime import workers
from harness.waiting import PATIENCE, holds_within, wait_until
from tests.host.meeting import (
    NAME,
    Other,
    files_in,
    publisher_in,
    total_in,
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


def test_all_processes_answer(folder: Path, worker: Worker, doing: Doing, other: Other) -> None:
    """Each process of the app carries out an order, and answers. Afterwards nothing is left."""
    other.run(OBEYS)
    with given(folder) as one:
        replies = replies_when_over(one)
    assert {reply.pid for reply in replies} == {os.getpid(), other.pid}
    for reply in replies:
        assert reply.answer is not None
        assert (reply.answer.status, reply.answer.result) == (Status.DONE, {"n": 1})
        assert reply.is_alive
    assert doing.seen == [{"kind": "work", "a": 1}]
    assert order_files(folder) == set()


def test_progress(folder: Path, worker: Worker, doing: Doing) -> None:
    """How far a process has got is seen by others. It goes on publishing meanwhile."""
    doing.stops = True
    with given(folder) as one:
        wait_until(lambda: any(reply.answer and reply.answer.total for reply in one.replies()))
        worker[1].n = 7
        wait_until(lambda: total_in(folder) == 7, "the next publication")
        (reply,) = one.replies()
        assert reply.answer is not None
        assert (reply.answer.done, reply.answer.total, reply.is_over) == (1, 4, False)
        doing.go.set()
        (reply,) = replies_when_over(one)
        assert reply.answer is not None
        assert reply.answer.result == {"n": 1}


def test_once(folder: Path, worker: Worker, doing: Doing) -> None:
    """An order is carried out once by a process, however long it stands, and also if its file is
    removed and comes back.
    """
    with given(folder) as one:
        replies_when_over(one)
        (name,) = (name for name in order_files(folder) if name.startswith("order"))
        content = (folder / NAME / name).read_bytes()
        turns = worker[1].n
        assert not holds_within(5 * FAST, lambda: len(doing.seen) > 1)
        (folder / NAME / name).unlink()
        wait_until(lambda: total_in(folder) == turns)
        assert not holds_within(3 * FAST, lambda: len(doing.seen) > 1)
        (folder / NAME / name).write_bytes(content)
        assert not holds_within(5 * FAST, lambda: len(doing.seen) > 1)


def test_two_orders_at_once(folder: Path, worker: Worker, doing: Doing) -> None:
    """One order does not hold up the next one."""
    doing.stops = True
    with given(folder) as first:
        wait_until(lambda: doing.seen, "the first")
        with given(folder, kind="more") as second:
            wait_until(lambda: len(doing.seen) == 2, "the second")
            doing.go.set()
            for one in (first, second):
                replies_when_over(one)
    assert [each["kind"] for each in doing.seen] == ["work", "more"]


def test_own_process_is_not_asked(folder: Path, worker: Worker, doing: Doing) -> None:
    """Who gives an order does not carry it out itself."""
    assert not worker[0].giving().give("work", {}, PATIENCE)
    with published(folder, Doing()):
        one = worker[0].giving()
        assert one.give("work", {}, PATIENCE)
        assert len(replies_when_over(one)) == 1
        one.withdraw()
    assert doing.seen == []


@pytest.mark.parametrize("exists", [True, False])
def test_nobody_to_ask(folder: Path, exists: bool) -> None:
    """Where no process lives, no order is given, and nothing is made."""
    if exists:
        (folder / NAME).mkdir(mode=0o700)
    one = publisher_in(folder)[0].giving()
    assert not one.give("work", {}, 1.0)
    assert one.replies() == []
    one.withdraw()
    assert list(folder.glob("*/*")) == []


# The end of an order


def test_withdrawn(folder: Path, worker: Worker, doing: Doing) -> None:
    """Who is at work stops when the order is withdrawn."""
    doing.stops = True
    with given(folder):
        wait_until(lambda: doing.seen)
        assert not doing.ended.is_set()
    assert doing.ended.wait(PATIENCE)
    assert not holds_within(3 * FAST, lambda: order_files(folder))


def test_withdrawn_while_answered(
    folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is written after the order was withdrawn does not stay."""
    replace, withdrawn = Directory.replace, threading.Event()

    def withdraw_first(directory: Directory, name: str, data: bytes) -> None:
        if name.startswith("answer") and not withdrawn.is_set():
            one.withdraw()
            replace(directory, name, data)
            withdrawn.set()
        else:
            replace(directory, name, data)

    monkeypatch.setattr(Directory, "replace", withdraw_first)
    monkeypatch.setattr(Leftovers, "sweep", lambda *_: None)
    with given(folder) as one:
        assert withdrawn.wait(PATIENCE)
        wait_until(lambda: order_files(folder) == set(), "the end of the answer")


def test_its_end(folder: Path, worker: Worker, doing: Doing) -> None:
    """Who is at work stops at the order's end, also if nobody withdraws it."""
    doing.stops = True
    with given(folder, 1.0) as one:
        wait_until(lambda: doing.seen)
        assert doing.ended.wait(PATIENCE)
        (reply,) = one.replies()
        assert not reply.is_over


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_too_late(folder: Path, worker: Worker, doing: Doing, seconds: float) -> None:
    """After its end nobody begins an order."""
    with given(folder, seconds) as one:
        assert not holds_within(5 * FAST, lambda: doing.seen)
        assert one.replies()[0].answer is None


def test_app_is_closed(folder: Path, worker: Worker, doing: Doing) -> None:
    """Who is at work stops when the app is closed."""
    doing.stops = True
    with given(folder):
        wait_until(lambda: doing.seen)
        worker[0].end()
        assert doing.ended.wait(PATIENCE)


def test_app_is_garbage(folder: Path, doing: Doing) -> None:
    """An app that is garbage after an order leaves nothing behind."""
    pair: list[Publisher] = [publisher_in(folder, 0, doing)[0]]
    pair[0].begin()
    pair[0].read()
    with given(folder) as one:
        replies_when_over(one)
        pair.clear()
        gc.collect()
        wait_until(lambda: files_in(folder) <= {"json"}, "the end of its own files")
    assert order_files(folder) == set()


def test_costs_next_to_nothing(
    folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an order, looking for one opens no file."""
    read: list[str] = []
    monkeypatch.setattr(Directory, "read", lambda _, name, *most: read.append(name))
    turns, names = threading.Semaphore(0), Directory.names

    def count(directory: Directory) -> list[str]:
        turns.release()
        return names(directory)

    monkeypatch.setattr(Directory, "names", count)
    for _ in range(3):
        assert turns.acquire(timeout=PATIENCE)
    assert read == []


def test_fork_amid_an_order(folder: Path, worker: Worker, doing: Doing) -> None:
    """A process that is at work with an order may fork: its thread, which rests, is not waited
    for.
    """
    doing.stops = True
    with given(folder) as one:
        wait_until(lambda: doing.seen)
        assert workers.wait_for_the_rest(PATIENCE)
        doing.go.set()
        replies_when_over(one)
