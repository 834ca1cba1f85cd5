"""Who lives and who has ended, and that each counts once."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_pooled_db.host import Unusable, ledger, records
from flask_pooled_db.host.directory import Directory
from flask_pooled_db.runtime import reporter
from harness.waiting import PATIENCE, holds_within, wait_until
from tests.host.meeting import (
    NAME,
    Counting,
    Other,
    files_in,
    leave_dead,
    location_in,
    member_in,
    publisher_in,
    total_in,
)


def pids_in(folder: Path) -> set[int]:
    return {process.pid for process in publisher_in(folder)[0].read().processes}


def settle(folder: Path, *tokens: str) -> bool:
    with location_in(folder).opened() as directory:
        return ledger.settle_dead(directory, Counting.merge, *tokens)


# Who lives


def test_other_process_is_seen(folder: Path, other: Other) -> None:
    """What one process publishes, all others see, and so does one that publishes nothing."""
    other.run("member_in(folder).publish({'n': 3})")
    (process,) = publisher_in(folder)[0].read().processes
    assert (process.pid, process.numbers) == (other.pid, {"n": 3})
    assert 0 <= process.age <= process.uptime < 30


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed(folder: Path, other: Other, how: int) -> None:
    """A process that was killed is seen no more, at once. What it had counted stays."""
    other.run("member = member_in(folder); member.publish({'n': 3})")
    assert pids_in(folder) == {other.pid}
    other.send(how)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    stats = publisher_in(folder)[0].read()
    assert (stats.processes, stats.ended, stats.totals) == ((), {"n": 3}, {"n": 3})


def test_stopped(folder: Path, other: Other) -> None:
    """A process that was stopped lives, and nobody takes its files away."""
    other.run("member = member_in(folder); member.publish({'n': 3})")
    other.send(signal.SIGSTOP)
    settle(folder)
    assert pids_in(folder) == {other.pid}
    other.send(signal.SIGCONT)
    other.run("member.publish({'n': 4})")
    assert total_in(folder) == 4


def test_process_id_used_again(folder: Path) -> None:
    """A process id that another process has by now misleads nobody."""
    token = leave_dead(folder, 3)
    file = folder / NAME / f"{token}.json"
    file.write_text(file.read_text().replace(str(os.getpid()), "1"))  # which always lives
    assert pids_in(folder) == set()


def test_fork_inherits_nothing(folder: Path, other: Other) -> None:
    """A child is another process: it does not keep its parent alive, nor end it."""
    other.run("publisher, counting = publisher_in(folder, 3)")
    other.run("publisher.begin(); publisher.read()")
    other.run("""
child = os.fork()
if not child:
    assert publisher.read().processes[0].pid == os.getppid()
    assert counting.n == 0
    counting.n = 4
    publisher.begin()
    publisher.read()
    while True:
        time.sleep(1)
""")
    wait_until(lambda: len(pids_in(folder)) == 2, "the child")
    assert total_in(folder) == 7
    other.send(signal.SIGKILL)
    wait_until(lambda: len(pids_in(folder)) == 1, "the end of the parent")
    (child,) = pids_in(folder)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not pids_in(folder), "the end of the child")
    assert total_in(folder) == 7


def test_readers_at_once(folder: Path, other: Other) -> None:
    """Who looks whether a process lives is not taken for it by another who looks at that moment."""
    token = leave_dead(folder, 1)
    other.run(f"""
from flask_pooled_db.host import presence
with location_in(folder).opened() as directory:
    fd = directory.open("{token}.alive")
assert presence.lock(fd, shared=True)
""")
    assert pids_in(folder) == set()
    other.run("os.close(fd); assert not publisher_in(folder)[0].read().processes")


def test_file_removed_meanwhile(folder: Path) -> None:
    """A process whose locked file somebody has removed lives, and makes it anew."""
    member = member_in(folder)
    member.publish({"n": 1})
    (folder / NAME / f"{member.token}.alive").unlink()
    settle(folder)
    assert pids_in(folder) == {os.getpid()}
    member.publish({"n": 2})
    assert files_in(folder) == {"alive", "json"}
    assert total_in(folder) == 2
    member.retire(None)


def test_descriptor_closed_by_others(folder: Path, other: Other) -> None:
    """A process whose descriptors somebody has closed goes on, and closes none of another's."""
    other.run("member = member_in(folder); member.publish({'n': 1})")
    other.run("os.closerange(3, 100)")
    other.run("theirs = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]")
    other.run("member.publish({'n': 2}); [os.fstat(fd) for fd in theirs]")
    assert pids_in(folder) == {other.pid}
    assert total_in(folder) == 2


def test_no_record_locks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where record locks don't work, that is said, and the process tells its own numbers."""

    def lockf(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with pytest.raises(Unusable, match="record locks don't work"):
        member_in(folder).publish({})


# Each counts once


def test_settled_once(folder: Path) -> None:
    """Who was killed is counted once, however often and by how many it is settled."""
    for n in (1, 2, 4):
        leave_dead(folder, n)
    assert total_in(folder) == 7
    threads = [threading.Thread(target=settle, args=(folder,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settle(folder)
    assert total_in(folder) == 7
    assert files_in(folder) == set()


@pytest.mark.parametrize("step", ["replace", "remove"])
def test_killed_while_settling(folder: Path, other: Other, step: str) -> None:
    """Who is killed in the middle of settling others has them counted neither twice nor never."""
    leave_dead(folder, 5)
    other.tell(f"""
from flask_pooled_db.host import ledger
from flask_pooled_db.host.directory import Directory
{step} = Directory.{step}
def die(*args):
    {f"{step}(*args)" if step == "replace" else ""}
    if "{step}" == "replace" or args[1].endswith(".json"):
        os.kill(os.getpid(), 9)
    {step}(*args)
Directory.{step} = die
with location_in(folder).opened() as directory:
    ledger.settle_dead(directory, Counting.merge)
""")
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert total_in(folder) == 5
    settle(folder)
    assert total_in(folder) == 5
    assert files_in(folder) == set()


def test_killed_while_writing(folder: Path, other: Other) -> None:
    """Who is killed between writing and renaming leaves the numbers before; its draft is swept."""
    other.run("member = member_in(folder); member.publish({'n': 3})")
    other.tell("""
from flask_pooled_db.host.directory import Directory
Directory.rename = lambda *_: os.kill(os.getpid(), 9)
member.publish({'n': 4})
""")
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert files_in(folder) == {"alive", "json", "json.tmp"}
    assert total_in(folder) == 3
    settle(folder)
    assert files_in(folder) == set()
    assert total_in(folder) == 3


def test_killed_before_it_was_seen(folder: Path, other: Other) -> None:
    """The draft of a locked file is swept, unless its maker lives: then that makes another one."""
    other.tell("""
from flask_pooled_db.host.directory import Directory
def rename(self, draft, name):
    while self.found(draft):  # for good, unless it was swept before it was locked
        time.sleep(0.01)
    raise FileNotFoundError
Directory.rename = rename
member_in(folder).publish({'n': 4})
""")
    wait_until(lambda: (folder / NAME).exists() and files_in(folder) == {"alive.tmp"}, "the draft")
    assert holds_within(30, lambda: settle(folder) and files_in(folder) == {"alive.tmp"})
    other.send(signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    settle(folder)
    assert files_in(folder) == set()


def test_lock_held_by_stopped_process(folder: Path, other: Other) -> None:
    """While a stopped process has the lock, the dead stay where they are, and count."""
    leave_dead(folder, 5)
    other.tell("""
from flask_pooled_db.host import ledger
from flask_pooled_db.host.directory import Directory
Directory.replace = lambda *_: os.kill(os.getpid(), 19)
with location_in(folder).opened() as directory:
    ledger.settle_dead(directory, Counting.merge)
""")
    os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT)
    assert not settle(folder)
    member = member_in(folder)
    member.publish({"n": 1})
    member.retire({"n": 2})
    assert total_in(folder) == 7
    other.send(signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert settle(folder)
    assert total_in(folder) == 7
    assert files_in(folder) == set()


@pytest.mark.parametrize("reads", [1, 2])
def test_ends_while_read(folder: Path, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ends between two steps of a reader counts once for him, whichever steps these are."""
    read, calls = Directory.read, 0

    def end_and_read(self: Directory, name: str, *most: int) -> bytes | None:
        nonlocal calls
        calls += 1
        if calls == reads:
            member.retire({"n": 6})
        return read(self, name, *most)

    member = member_in(folder)
    member.publish({"n": 5})
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "read", end_and_read)
        assert total_in(folder) == 6
    assert total_in(folder) == 6


def test_tokens_are_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ended is remembered for ten minutes, and for as long as it has files; no restart of the
    host, which sets the clock back, keeps it longer.
    """
    now = 10_000.0
    monkeypatch.setattr(ledger, "monotonic", lambda: now)

    def tokens() -> set[str]:
        with location_in(folder).opened() as directory:
            return set(records.ended_in(directory, ledger.ENDED_FILE).tokens)

    first = leave_dead(folder, 1)
    settle(folder)
    now += 500
    second = leave_dead(folder, 1)
    settle(folder)
    assert tokens() == {first, second}
    now += 200
    third = leave_dead(folder, 1)
    settle(folder)
    assert tokens() == {second, third}
    now = 5.0
    fourth = leave_dead(folder, 1)
    settle(folder)
    assert tokens() == {second, third, fourth}
    now += 601
    leave_dead(folder, 1)
    settle(folder)
    assert len(tokens()) == 1
    assert total_in(folder) == 5


def test_settled_files_that_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was settled is counted once for as long as its files are there, after years too."""
    now = 10_000.0
    monkeypatch.setattr(ledger, "monotonic", lambda: now)
    leave_dead(folder, 1)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "remove", lambda *_: None)
        for _ in range(3):
            settle(folder)
            now += 1e8
    assert files_in(folder) == {"alive", "json"}
    assert total_in(folder) == 1
    settle(folder)
    assert files_in(folder) == set()
    assert total_in(folder) == 1


# Garbage


def not_json(good: bytes) -> bytes:
    return b"\xff\x00 no JSON"


def cut(good: bytes) -> bytes:
    return good[: len(good) // 2]


def empty(good: bytes) -> bytes:
    return b""


def of_another_version(good: bytes) -> bytes:
    return json.dumps({**json.loads(good), "format": 999}).encode()


def of_another_shape(good: bytes) -> bytes:
    return b'{"format":1,"pid":[],"numbers":3}'


def with_other_numbers(good: bytes) -> bytes:
    return good.replace(b'"n":', b'"m":')


def too_deep(good: bytes) -> bytes:
    return b"[" * 100_000


@pytest.mark.parametrize(
    "spoil",
    [not_json, cut, empty, of_another_version, of_another_shape, with_other_numbers, too_deep],
)
@pytest.mark.parametrize("lives", [True, False])
def test_garbage(
    folder: Path,
    spoil: Callable[[bytes], bytes],
    lives: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file of numbers that is damaged, or of another version, is ignored, with one warning. That
    of a dead process is removed.
    """
    leave_dead(folder, 1)
    member = member_in(folder)
    member.publish({"n": 2})
    token = member.token
    if not lives:
        member.after_fork()
    file = folder / NAME / f"{token}.json"
    file.write_bytes(spoil(file.read_bytes()))
    for _ in range(3):
        assert total_in(folder) == 1
    settle(folder)
    assert file.exists() == lives
    reporter.flush(PATIENCE)
    assert caplog.text.count(f"{token}.json") == 1
    assert total_in(folder) == 1
    if lives:
        member.publish({"n": 3})
        assert total_in(folder) == 4
        member.retire(None)


def test_garbage_in_sums(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damaged sums are ignored with a warning, and begin anew."""
    leave_dead(folder, 1)
    settle(folder)
    (folder / NAME / "ended.json").write_bytes(b"garbage")
    leave_dead(folder, 2)
    assert total_in(folder) == 2
    settle(folder)
    assert total_in(folder) == 2
    reporter.flush(PATIENCE)
    assert "ended.json in POOLED_DB_RUNTIME_DIR is ignored" in caplog.text
