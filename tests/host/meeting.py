"""Processes that meet in a directory, and what they count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from flask_pooled_db.host import Location, Publisher
from flask_pooled_db.host.duties import CarryOut, refuse
from flask_pooled_db.host.member import Member
from harness.processes import PROJECT, Managed, without_coverage

NAME = "shop"


class Counting:
    """A source with a single counter."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def collect(self) -> dict[str, Any]:
        return {"n": self.n}

    @staticmethod
    def merge(totals: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        return {"n": totals.get("n", 0) + numbers["n"]} if numbers else totals

    def after_fork(self) -> None:
        self.n = 0


def location_in(folder: Path) -> Location:
    return Location(str(folder), NAME)


def publisher_in(
    folder: Path, n: int = 0, carry_out: CarryOut = refuse
) -> tuple[Publisher, Counting]:
    """One that publishes a counter, which has this value, and carries out orders so."""
    source = Counting(n)
    return Publisher(location_in(folder), source, carry_out), source


def member_in(folder: Path) -> Member:
    return Member(location_in(folder), Counting.merge)


def total_in(folder: Path) -> int:
    """The counter of all processes together, as one sees it that publishes nothing."""
    stats = publisher_in(folder)[0].read()
    assert stats.problem is None
    return int(stats.totals.get("n", 0))


def files_in(folder: Path) -> set[str]:
    """The kinds of the files that lie there."""
    found = (folder / NAME).iterdir()
    return {path.name.partition(".")[2] for path in found if not path.name.startswith("ended")}


def leave_dead(folder: Path, n: int) -> str:
    """Leave what a process leaves that was killed when it had counted to `n`. Returns its token."""
    member = member_in(folder)
    member.publish({"n": n})
    token = member.token
    member.after_fork()  # which leaves its files there, and gives up their lock
    return token


PRELUDE = """
import os, sys, time, types
package = sys.modules["flask_pooled_db"] = types.ModuleType("flask_pooled_db")
package.__path__ = ["flask_pooled_db"]  # without Flask, which takes most of the time
from tests.host.meeting import *
folder = Path(sys.argv[1])
"""
"""What programs begin with: `folder`, and the names of this module."""


class Other(Managed):
    """Another process, which runs Python that it is given: `folder`, and this module's names."""

    _PROGRAM = """
for line in iter(sys.stdin.readline, ""):
    exec(eval(line))
    print("done", flush=True)
"""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + self._PROGRAM, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env=without_coverage(),
        )
        self.pid = self._process.pid

    def tell(self, code: str) -> None:
        """Have it run this, without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{code!r}\n")
        self._process.stdin.flush()

    def run(self, code: str) -> None:
        """Have it run this to its end."""
        assert self._process.stdout is not None
        self.tell(code)
        assert self._process.stdout.readline() == "done\n"

    def send(self, how: int) -> None:
        os.kill(self.pid, how)

    def wait(self) -> int:
        """Let it end, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(30)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
