"""Orders that are damaged, or were left behind, and the directory and the disk they lie on."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.host import (
    Status,
    Unusable,
    giving,
    orders,
)
from flask_pooled_db.host.directory import Directory
from flask_pooled_db.host.orders import Leftovers, Order
from harness.waiting import PATIENCE, holds_within, wait_until
from tests.host.meeting import (
    NAME,
    Other,
    location_in,
    member_in,
    publisher_in,
    total_in,
)
from tests.host.obedience import (
    FAST,
    OBEYS,
    Doing,
    Worker,
    an_order,
    given,
    order_files,
    published,
    replies_when_over,
    write_order,
)

pytestmark = pytest.mark.usefixtures("hurry")


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
