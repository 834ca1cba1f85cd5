"""Publishing: when it begins and ends, and what it does when it can't."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_pooled_db.host import Publisher, publisher
from flask_pooled_db.host.directory import Directory
from flask_pooled_db.host.duties import Duties
from flask_pooled_db.runtime import guard, workers
from harness.processes import PROJECT, without_coverage
from harness.waiting import PATIENCE, holds_within, wait_until
from tests.host.meeting import (
    NAME,
    PRELUDE,
    Counting,
    files_in,
    leave_dead,
    member_in,
    publisher_in,
    total_in,
)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(publisher, "INTERVAL", 0.02)
    monkeypatch.setattr(publisher, "MOST_WORK", 1.0)


@pytest.fixture
def begun(folder: Path) -> Iterator[tuple[Publisher, Counting]]:
    """One that publishes."""
    pair = publisher_in(folder)
    pair[0].begin()
    wait_until(lambda: (folder / NAME).exists() and "json" in files_in(folder), "its numbers")
    yield pair
    pair[0].end()


Begun = tuple[Publisher, Counting]


def counts(folder: Path, n: int) -> bool:
    return total_in(folder) == n


def test_publishes_again_and_again(folder: Path, begun: Begun) -> None:
    """What a process counts is seen by others a moment later, without its doing."""
    for n in (3, 5):
        begun[1].n = n
        wait_until(functools.partial(counts, folder, n), "the next publication")


def test_one_that_reads_leaves_nothing(folder: Path) -> None:
    """Who reads and was never begun publishes nothing, and makes nothing."""
    reader, _ = publisher_in(folder, 3)
    stats = reader.read()
    assert (stats.processes, stats.totals, stats.problem) == ((), {}, None)
    reader.end()
    assert list(folder.iterdir()) == []


def test_end(folder: Path, begun: Begun) -> None:
    """At its end a process publishes what it has counted until then, and removes its files. A use
    that comes later does not count all that a second time.
    """
    begun[1].n = 7
    begun[0].end()
    assert files_in(folder) == set()
    assert publisher_in(folder)[0].read().ended == {"n": 7}
    begun[0].begin()
    begun[0].read()
    assert not holds_within(0.1, lambda: files_in(folder))
    assert total_in(folder) == 7


def test_end_before_the_first_publication(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends before it has published anything is counted where others have met. If
    nobody has, it makes nothing.
    """
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 60.0)
    for made, total in ((False, 0), (True, 3)):
        if made:
            (folder / NAME).mkdir()
        short, _ = publisher_in(folder, 3)
        short.begin()
        short.end()
        assert (folder / NAME).exists() == made
        assert total_in(folder) == total
    assert files_in(folder) == set()


def test_garbage_leaves_nothing(folder: Path) -> None:
    """When an app is garbage, its files are removed, and what it has published last stays."""
    pair: list[Publisher] = [publisher_in(folder, 3)[0]]
    pair[0].begin()
    pair[0].read()
    pair.clear()
    gc.collect()
    wait_until(lambda: not files_in(folder), "the end of its files")
    assert total_in(folder) == 3


@pytest.mark.parametrize("is_garbage", [True, False])
def test_no_thread_to_leave(
    folder: Path, is_garbage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no thread for the end of an app, its files are removed when it has."""
    refused: list[str] = []
    start = workers.start

    def refuse(name: str, target: Callable[[], object]) -> None:
        if name == "publisher" and len(refused) < 3:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start(name, target)

    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 0.3 if is_garbage else 60.0)
    pair: list[Publisher] = [publisher_in(folder, 3)[0]]
    pair[0].begin()
    pair[0].read()
    monkeypatch.setattr(workers, "start", refuse)
    if not is_garbage:
        pair[0].end()
    pair.clear()
    gc.collect()
    wait_until(lambda: not files_in(folder), "the end of its files")
    assert (len(refused), total_in(folder)) == (3, 3)


def test_several_apps_in_one_process(folder: Path) -> None:
    """Several app objects of one process meet in one directory, and none ends another."""
    pairs = [publisher_in(folder, n) for n in (1, 2, 4)]
    for each, _ in pairs:
        each.begin()
        each.read()
    for _ in range(3):
        for each, _ in pairs:
            assert len(each.read().processes) == 3
    pairs[0][0].end()
    leave_dead(folder, 8)
    stats = pairs[1][0].read()
    assert (len(stats.processes), stats.ended, stats.totals) == (2, {"n": 9}, {"n": 15})
    for each, _ in pairs[1:]:
        each.end()
    assert total_in(folder) == 15


def test_who_asks_many_never_sees_less(folder: Path) -> None:
    """Each process publishes before it tells the numbers of all."""
    pairs = [publisher_in(folder) for _ in range(3)]
    for each, _ in pairs:
        each.begin()
    seen = 0
    for turn in range(60):
        each, counting = pairs[turn % 3]
        counting.n += 1
        (now,) = each.read().totals.values()
        assert now == seen + 1
        seen = now
    for each, _ in pairs:
        each.end()


# When it can't publish


def full(self: Directory, name: str, data: bytes) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(self: Directory, name: str, data: bytes) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize(("fault", "remedy"), [(full, "make room"), (read_only, "written to")])
@pytest.mark.parametrize("has_published", [True, False])
def test_cannot_write(
    folder: Path,
    fault: Callable[..., None],
    remedy: str,
    has_published: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A disk that takes nothing is logged once, as an error with the remedy. Others are read all
    the same if this process has published before; else it tells its own numbers. It is tried again
    until it works.
    """
    leave_dead(folder, 100)
    pair = publisher_in(folder, 3)
    if has_published:
        pair[0].begin()
        pair[0].read()
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "replace", fault)
        pair[0].begin()
        pair[1].n = 4
        for _ in range(3):
            stats = pair[0].read()
            assert stats.problem is not None
            assert remedy in stats.problem
            assert stats.totals == ({"n": 103} if has_published else {"n": 4})
        time.sleep(0.1)  # several turns
    wait_until(lambda: total_in(folder) == 104, "the next try")
    assert pair[0].read().problem is None
    wait_until(lambda: remedy in caplog.text, "the log")
    assert caplog.text.count("are not seen by others") == 1
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    pair[0].end()


def test_directory_removed(folder: Path, begun: Begun) -> None:
    """A directory that is removed while it is in use is made anew."""
    begun[1].n = 5
    shutil.rmtree(folder)
    wait_until(lambda: (folder / NAME).exists() and total_in(folder) == 5, "the new one")


def test_directory_mended(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that others may write to is used when that was mended, and told once."""
    folder.chmod(0o777)
    pair = publisher_in(folder, 3)
    pair[0].begin()
    stats = pair[0].read()
    assert "run chmod go-w on it" in (stats.problem or "")
    assert [process.pid for process in stats.processes] == [os.getpid()]
    assert stats.totals == {"n": 3}
    time.sleep(0.1)
    folder.chmod(0o755)
    wait_until(lambda: total_in(folder) == 3, "its numbers")
    wait_until(lambda: "chmod go-w" in caplog.text, "the log")
    assert caplog.text.count("chmod go-w") == 1
    pair[0].end()


def test_disk_hangs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the disk hangs there is one thread that waits for it, whatever is asked; who asks gets
    this process's own numbers; neither a fork nor the exit waits for it.
    """
    monkeypatch.setattr(publisher, "PATIENCE", 0.1)
    opened, replace = threading.Event(), Directory.replace

    def hang(self: Directory, name: str, data: bytes) -> None:
        opened.wait(PATIENCE)
        replace(self, name, data)

    pair = publisher_in(folder, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "replace", hang)
        pair[0].begin()
        wait_until(lambda: "does not answer" in caplog.text, "the log")
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("flask-pooled-db publisher") == 1
        assert workers.wait_for_the_rest(PATIENCE), "a fork would wait for it"
        began = time.monotonic()
        for _ in range(50):
            stats = pair[0].read()
            assert (stats.totals, "does not answer" in str(stats.problem)) == ({"n": 3}, True)
        assert not [thread for thread in threading.enumerate() if "reader" in thread.name]
        pair[0].end()
        assert time.monotonic() - began < PATIENCE / 2
    opened.set()
    assert caplog.text.count("does not answer") == 1


def test_numbers_that_fail(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong in collecting the numbers is logged once, and no request fails for it."""
    pair = publisher_in(folder)
    del pair[1].n
    pair[0].begin()
    wait_until(lambda: "collecting the numbers failed" in caplog.text, "the log")
    assert pair[0].read().problem is not None
    time.sleep(0.1)
    assert caplog.text.count("Traceback") == 1
    pair[1].n = 1
    wait_until(lambda: total_in(folder) == 1, "its numbers")
    pair[0].end()


def test_asked_amid_a_change(folder: Path, begun: Begun) -> None:
    """What has interrupted the pool in the middle of a change gets its own numbers, without
    waiting.
    """
    begun[1].n = 3
    with guard.lock:
        stats = begun[0].read()
    assert stats.totals == {"n": 3}
    assert "can't wait" in (stats.problem or "")


def test_what_takes_long_is_rarer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing takes one hundredth of a processor at most: what needs more comes less often. This
    process looks for orders as often as ever.
    """
    monkeypatch.setattr(publisher, "MOST_WORK", 0.00005)  # once in minutes, however busy
    collected: list[int] = []
    turns: list[None] = []

    def collect() -> dict[str, int]:
        collected.append(1)
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return {"n": 1}

    attend = Duties.attend
    monkeypatch.setattr(Duties, "attend", lambda *args: turns.append(attend(*args)))
    pair = publisher_in(folder)
    monkeypatch.setattr(pair[1], "collect", collect)
    pair[0].begin()
    wait_until(lambda: len(turns) > 5, "several turns")
    assert len(collected) == 1
    monkeypatch.undo()
    pair[0].end()


# The end of the process, and all at once


def test_end_takes_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app whose last numbers take longer than the exit waits for is counted once, whether the
    process ends before they are there or lives on.
    """
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 60.0)
    gate, collecting = threading.Event(), threading.Event()
    one, counting = publisher_in(folder, 3)
    collect = counting.collect

    def collect_late() -> dict[str, int]:
        collecting.set()
        gate.wait(PATIENCE)
        return collect()

    one.begin()
    one.read()
    counting.n = 5
    monkeypatch.setattr(counting, "collect", collect_late)
    one.end(0.1)
    assert collecting.wait(PATIENCE)
    with monkeypatch.context() as patch:
        patch.setattr(publisher, "PATIENCE", 0.1)
        publisher.publishing.at_exit()
    assert total_in(folder) == 3
    gate.set()
    wait_until(lambda: files_in(folder) == set(), "the end of its files")
    assert total_in(folder) == 5


def test_leaves_once(folder: Path) -> None:
    """What the exit has settled is not counted again by a thread that comes to that too late."""
    member = member_in(folder)
    member.publish({"n": 3})
    member.retire(None)
    member.retire({"n": 4})
    assert total_in(folder) == 3


ENDS = {
    "exit": "sys.exit(3)",
    "exception": "raise SystemExit",
    "exit of a child": """
child = os.fork()
if not child:
    counting.n = 0
    sys.exit(0)
os.waitpid(child, 0)
""",
}


@pytest.mark.parametrize("how", list(ENDS))
def test_exit(folder: Path, how: str) -> None:
    """A process that ends removes its files, and what it has counted stays."""
    program = f"""
publisher, counting = publisher_in(folder, 3)
publisher.begin()
publisher.read()
counting.n = 5
{ENDS[how]}
"""
    run_program(program, folder)
    assert files_in(folder) == set()
    assert total_in(folder) == 5


CROWD = """
from flask_pooled_db.host import publisher as module
module.INTERVAL = module.FIRST_INTERVAL = 0.01
module.MOST_WORK = 1.0
from flask_pooled_db.host import member
member.SWEEP_INTERVAL = 0.05
publisher, counting = publisher_in(folder)
print("ready", flush=True)
for line in sys.stdin:
    if os.fork():
        continue
    publisher.begin()
    told = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT, 0o600)
    os.close(0)
    while True:
        counting.n += 1
        publisher.read()
        os.pwrite(told, b"%10d" % counting.n, 0)
        if line == "short\\n" and counting.n == 30:
            os.pwrite(told, b"%10d" % counting.n, 0)
            sys.exit(0)
"""


def test_crowd(folder: Path) -> None:
    """Processes that are killed and end at any time, while others read: what is seen never goes
    back, and in the end each has been counted once.
    """
    dice = random.Random(1)
    crowd = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + CROWD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=PROJECT,
        env=without_coverage(),
    )
    assert crowd.stdin is not None
    assert crowd.stdout is not None
    assert crowd.stdout.readline() == b"ready\n"
    reader, seen, until = publisher_in(folder)[0], 0, time.monotonic() + 1.5

    def living() -> list[int]:
        return [
            int(pid)
            for pid in Path(f"/proc/{crowd.pid}/task/{crowd.pid}/children").read_text().split()
        ]

    while time.monotonic() < until:
        crowd.stdin.write(dice.choice([b"long\n", b"short\n"]))
        crowd.stdin.flush()
        for _ in range(5):
            now = reader.read().totals.get("n", 0)
            assert now >= seen
            seen = now
        if len(pids := living()) > 4:
            os.kill(dice.choice(pids), signal.SIGKILL)
    for pid in living():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    crowd.kill()
    crowd.wait()
    crowd.stdin.close()
    crowd.stdout.close()
    wait_until(lambda: not reader.read().processes, "the end of all")
    told = [int(path.read_text() or 0) for path in folder.iterdir() if path.name.isdigit()]
    last = reader.read().totals["n"]
    assert len(told) > 5
    # One that was killed may have published one more than it could tell.
    assert sum(told) <= last <= sum(told) + len(told)
    member = member_in(folder)
    member.publish({"n": 0})
    member.retire(None)
    assert total_in(folder) == last
    assert files_in(folder) == set()


def run_program(program: str, folder: Path) -> None:
    command = [sys.executable, "-c", PRELUDE + program, str(folder)]
    subprocess.run(command, check=False, timeout=60, cwd=PROJECT, env=without_coverage())
