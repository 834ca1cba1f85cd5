"""Orders: each process carries them out once, and whoever gives one waits for nobody."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.host import (
    Duty,
    Giving,
    Publisher,
    Refused,
    Reply,
    Status,
    Unusable,
    giving,
    orders,
    publisher,
)
from flask_pooled_db.host.directory import Directory
from flask_pooled_db.host.orders import Leftovers, Order, new_order
from flask_pooled_db.runtime import workers
from harness.waiting import PATIENCE, holds_within, wait_until
from tests.host.meeting import (
    NAME,
    Counting,
    Other,
    files_in,
    location_in,
    member_in,
    publisher_in,
    total_in,
)

FAST = 0.02


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(publisher, "INTERVAL", FAST)
    monkeypatch.setattr(publisher, "MOST_WORK", 1.0)


class Doing:
    """What carries out orders, and notes them; `stop` has it wait for `go`."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.stops = False
        self.error: BaseException | None = None
        self.go = threading.Event()
        self.ended = threading.Event()

    def __call__(self, duty: Duty) -> dict[str, Any]:
        self.seen.append({"kind": duty.order.kind, **duty.order.arguments})
        try:
            while self.stops and not self.go.is_set():
                duty.tell(len(self.seen), 4)
                duty.pause(0.01)
            if self.error is not None:
                raise self.error
        finally:
            self.ended.set()
        return {"n": len(self.seen)}


@pytest.fixture
def doing() -> Doing:
    return Doing()


@contextlib.contextmanager
def published(folder: Path, carry_out: Doing, n: int = 0) -> Iterator[tuple[Publisher, Counting]]:
    """One that publishes, and has done so."""
    pair = publisher_in(folder, n, carry_out)
    pair[0].begin()
    pair[0].read()
    try:
        yield pair
    finally:
        carry_out.go.set()
        pair[0].end()


@pytest.fixture
def worker(folder: Path, doing: Doing) -> Iterator[tuple[Publisher, Counting]]:
    """A process of the app, which does what it is ordered to."""
    with published(folder, doing) as pair:
        yield pair


Worker = tuple[Publisher, Counting]


@contextlib.contextmanager
def given(folder: Path, seconds: float = PATIENCE, kind: str = "work") -> Iterator[Giving]:
    """An order that stands in the block."""
    one = publisher_in(folder)[0].giving()
    assert one.give(kind, {"a": 1}, seconds)
    try:
        yield one
    finally:
        one.withdraw()


def replies_when_over(one: Giving) -> list[Reply]:
    replies: list[Reply] = []

    def are_over() -> bool:
        replies[:] = one.replies()
        return all(reply.is_over for reply in replies)

    wait_until(are_over, "all answers")
    return replies


def order_files(folder: Path) -> set[str]:
    """What lies there because of orders."""
    names = {path.name for path in (folder / NAME).iterdir()}
    return {name for name in names if name.startswith(("order-", "answer-"))}


# Given, carried out, answered


OBEYS = """
seen = []
def obey(duty):
    seen.append(duty)
    return {"n": len(seen)}
from flask_pooled_db.host import publisher as timing
timing.INTERVAL = 0.02
timing.FIRST_INTERVAL = 0.01
publisher, counting = publisher_in(folder, 5, obey)
publisher.begin()
publisher.read()
"""


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


def write_order(folder: Path, order: Order) -> Path:
    with location_in(folder).opened() as directory:
        orders.write_order(directory, order)
    return folder / NAME / order.name


def an_order(seconds: float = PATIENCE) -> Order:
    return new_order("0" * 16, "work", {"a": 1}, seconds, ())


def changed(**values: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return spoil


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def enlarge(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" " * orders.LARGEST)


def deepen(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILS: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "too large": enlarge,
    "too deep": deepen,
    "a link": link,
    "a directory": make_folder,
    "a pipe": make_pipe,
    "a future format": changed(format=2),
    "a list": lambda path: path.write_text("[]"),
    "other arguments": changed(arguments=[1]),
    "no time": changed(ends="soon"),
    "no end": changed(ends=float("inf")),
    "nobody": changed(to=3),
}


@pytest.mark.parametrize("spoil", list(SPOILS))
def test_garbage(folder: Path, doing: Doing, spoil: str, caplog: pytest.LogCaptureFixture) -> None:
    """An order that is damaged, or of another format, is ignored with one line of the log. It
    harms nothing, and the next one is carried out.
    """
    path = write_order(folder, an_order())
    SPOILS[spoil](path)
    with published(folder, doing, 3):
        wait_until(lambda: f"{path.name} in POOLED_DB_RUNTIME_DIR is ignored" in caplog.text)
        with given(folder) as one:
            assert len(replies_when_over(one)) == 1
        assert doing.seen == [{"kind": "work", "a": 1}]
        assert total_in(folder) == 3
    assert caplog.text.count(path.name) == 1
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_other_id(folder: Path, worker: Worker, doing: Doing) -> None:
    """A copy of an order under another name is not carried out."""
    path = write_order(folder, an_order())
    path.rename(path.with_name(f"order-{'a' * 16}.json"))
    assert not holds_within(5 * FAST, lambda: doing.seen)
    path.with_name(f"order-{'a' * 16}.json").unlink()


def test_garbage_among_answers(
    folder: Path, worker: Worker, other: Other, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that is damaged counts as none."""
    other.run(OBEYS)
    other.send(signal.SIGSTOP)
    with given(folder) as one:
        wait_until(lambda: sum(reply.is_over for reply in one.replies()) == 1)
        (silent,) = (reply for reply in one.replies() if not reply.is_over)
        (order,) = (name for name in order_files(folder) if name.startswith("order"))
        name = f"answer-{order[6:22]}-{silent.token}.json"
        for text in ("", "{", '{"format":1,"pid":1,"status":"better"}'):
            (folder / NAME / name).write_text(text)
            assert [reply.answer for reply in one.replies() if not reply.is_over] == [None]
    assert order_files(folder) == set()


# What was left by those that were killed


@pytest.mark.parametrize("step", ["open", "rename"])
def test_killed_while_giving(folder: Path, worker: Worker, other: Other, step: str) -> None:
    """What one leaves that was killed while it gave an order, or waited, is removed by another."""
    other.tell(f"""
from flask_pooled_db.host.directory import Directory
{step} = Directory.{step}
def die(self, name, *args, **kwargs):
    result = {step}(self, name, *args, **kwargs)
    if name.startswith("order"):
        os.kill(os.getpid(), 9)
    return result
Directory.{step} = die
publisher_in(folder)[0].giving().give("work", {{}}, 0.5)
""")
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert order_files(folder)
    leftovers, now = Leftovers(), [time.monotonic()]
    with pytest.MonkeyPatch.context() as patch, location_in(folder).opened() as directory:
        patch.setattr(orders, "monotonic", lambda: now[0])
        leftovers.sweep(directory)
        assert order_files(folder)
        now[0] += 61
        leftovers.sweep(directory)
    assert order_files(folder) == set()


def test_swept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing sweeps: an order is removed a minute after its end, that of a time before the host
    was restarted at once, one that can't be read after an hour; and answers whose order is gone.
    """
    now = [10_000.0]
    monkeypatch.setattr(orders, "monotonic", lambda: now[0])
    stands, ends = (write_order(folder, an_order(seconds)) for seconds in (1e6, 50.0))
    damaged = write_order(folder, an_order())
    damaged.write_bytes(b"")
    now[0] += 1e6
    future = write_order(folder, an_order())
    now[0] -= 1e6
    answers = [
        folder / NAME / f"answer-{order.name[6:22]}-{'0' * 16}.json{end}"
        for order in (stands, ends)
        for end in ("", ".tmp")
    ]
    draft = folder / NAME / f"order-{'b' * 16}.json.tmp"
    unknown = folder / NAME / "order of the day"
    for path in (*answers, draft, unknown):
        path.write_bytes(b"{}")
    leftovers = Leftovers()

    def left_after(seconds: float) -> set[Path]:
        now[0] += seconds
        with location_in(folder).opened() as directory:
            leftovers.sweep(directory)
        return set((folder / NAME).iterdir())

    all_others = {stands, damaged, unknown, *answers[:2]}
    assert left_after(0) == {*all_others, ends, draft, *answers[2:]}
    assert not future.exists()
    assert left_after(109) == {*all_others, ends, *answers[2:]}
    assert left_after(1) == all_others
    assert left_after(3600) == all_others - {damaged}


def test_publishing_sweeps(folder: Path) -> None:
    """Any process that publishes removes what was left."""
    (folder / NAME).mkdir(mode=0o700)
    (folder / NAME / f"answer-{'a' * 16}-{'b' * 16}.json").write_bytes(b"{}")
    member = member_in(folder)
    member.publish({"n": 1})
    assert order_files(folder) == set()
    member.retire(None)


def test_damaged_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that can't be read is not read again, and so not told again, until it is removed."""
    damaged = write_order(folder, an_order())
    damaged.write_bytes(b"")
    names, read = [], Directory.read

    def note(directory: Directory, name: str, *most: int) -> bytes | None:
        names.append(name)
        return read(directory, name, *most)

    monkeypatch.setattr(Directory, "read", note)
    leftovers = Leftovers()
    with location_in(folder).opened() as directory:
        for _ in range(3):
            leftovers.sweep(directory)
    assert names == [damaged.name]


# The directory, and the disk


def test_unusable(folder: Path) -> None:
    """Who can't use the directory is told why."""
    (folder.parent / "link").symlink_to(folder)
    with pytest.raises(Unusable, match="is a link"):
        publisher_in(folder.parent / "link")[0].giving().give("work", {}, 1.0)


def test_modes(folder: Path, worker: Worker) -> None:
    """An order and its answers are the user's alone to read, whatever the umask."""
    umask = os.umask(0)
    try:
        with given(folder) as one:
            replies_when_over(one)
            for name in order_files(folder):
                assert (folder / NAME / name).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(umask)


def test_removed_directory(folder: Path, worker: Worker) -> None:
    """Who waits while the directory is removed is told so."""
    one = publisher_in(folder)[0].giving()
    assert one.give("work", {}, PATIENCE)
    worker[0].end()
    for path in (folder / NAME).iterdir():
        path.unlink()
    (folder / NAME).rmdir()
    with pytest.raises(Unusable, match="was removed meanwhile"):
        one.replies()
    one.withdraw()


def test_silent_disk(folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not answer is not waited for. An order that is written after all is removed
    by who has written it.
    """
    monkeypatch.setattr(giving, "PATIENCE", 0.05)
    hangs, goes_on, write = threading.Event(), threading.Event(), orders.write_order

    def hang(directory: Directory, order: Order) -> None:
        hangs.set()
        assert goes_on.wait(PATIENCE)
        write(directory, order)

    with monkeypatch.context() as patch:
        patch.setattr(orders, "write_order", hang)
        with pytest.raises(Unusable, match="does not answer"):
            publisher_in(folder)[0].giving().give("work", {}, PATIENCE)
        assert hangs.wait(PATIENCE)
        goes_on.set()
        wait_until(lambda: not any("order" in one.name for one in threading.enumerate()))
    wait_until(lambda: order_files(folder) == set(), "the end of the order")


def test_silent_disk_of_a_worker(
    folder: Path, worker: Worker, doing: Doing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose disk does not answer while it is at work goes on, and answers later. No
    second thread writes meanwhile.
    """
    doing.stops = True
    goes_on, write = threading.Event(), orders.write_answer
    calls: list[int] = []

    def hang(*args: Any) -> None:
        calls.append(1)
        assert goes_on.wait(PATIENCE)
        write(*args)

    with given(folder) as one:
        wait_until(lambda: doing.seen)
        monkeypatch.setattr(orders, "write_answer", hang)
        doing.go.set()
        wait_until(lambda: calls and doing.ended.is_set())
        assert not holds_within(5 * FAST, lambda: len(calls) > 1)
        assert not one.replies()[0].is_over
        goes_on.set()
        (reply,) = replies_when_over(one)
    assert reply.answer is not None
    assert reply.answer.status is Status.DONE


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
