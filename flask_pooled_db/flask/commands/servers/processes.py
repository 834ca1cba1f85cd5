"""The processes of an app on this host: which of them are gunicorn's workers, and how it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flask_pooled_db.host import HostStats, ProcessStats

_NAME = "gunicorn"


class Running(NamedTuple):
    """What of the app runs on this host at the moment."""

    workers: int = 0
    """How many workers of gunicorn have used a pool."""
    others: tuple[ProcessStats, ...] = ()
    """Processes that are no workers of gunicorn: job runners, scripts."""
    arguments: Sequence[str] = ()
    """The command line of gunicorn, if it can be read."""
    folder: Path | None = None
    """Where that was started, if it is known."""
    where: str = ""
    """What to call that command line."""


def running(stats: HostStats) -> Running:
    """Return what runs, apart from this process."""
    processes = [one for one in stats.processes if one.pid != os.getpid()]
    parents = {one.pid: _parent_of(one.pid) for one in processes}
    lines = {pid: _line_of(pid) for pid in {*parents.values()} if pid is not None}
    arbiters = {pid for pid, line in lines.items() if _arguments(line) is not None}
    workers: list[ProcessStats] = []
    others: list[ProcessStats] = []
    for one in processes:
        if one.pid in arbiters:
            continue  # with --preload it has used a pool, and serves nobody
        is_worker = parents[one.pid] in arbiters or one.numbers.get("program") == _NAME
        (workers if is_worker else others).append(one)
    found = Running(len(workers), tuple(others))
    if len(arbiters) != 1:
        return found
    (arbiter,) = arbiters
    arguments = _arguments(lines[arbiter]) or ()
    where = f"the command line of gunicorn, process {arbiter}"
    return found._replace(arguments=arguments, folder=_folder_of(arbiter), where=where)


def _parent_of(pid: int) -> int | None:
    """Return a process's parent; None if the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(status.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _line_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _arguments(line: Sequence[str]) -> Sequence[str] | None:
    """Return the arguments of gunicorn in a command line; None if it is not gunicorn's. Where its
    title was changed there are none.
    """
    for place, word in enumerate(line[:4]):
        if Path(word).name == _NAME:
            return line[place + 1 :]
        if word.startswith((f"{_NAME}:", f"{_NAME} ")):
            return ()
    return None


def _folder_of(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


class Holder(NamedTuple):
    """A process of this machine that has a connection open."""

    pid: int
    program: str


def holders(server: int, ports: Collection[int]) -> dict[int, Holder]:
    """Return which processes of this machine have connections open that begin at these ports, and
    lead to the server's. Those of other users, or other containers, can't be seen.
    """
    wanted = {name: port for port, there, name in _sockets() if there == server and port in ports}
    found: dict[int, Holder] = {}
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for descriptor in (process / "fd").iterdir():
                port = wanted.get(str(descriptor.readlink()))
                if port is not None:
                    program = (process / "comm").read_text(errors="replace").strip()
                    found[port] = Holder(int(process.name), program)
    return found


def _sockets() -> Iterator[tuple[int, int, str]]:
    """Yield the port, the other end's port and the name of each TCP connection of this machine."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, remote, *_, inode = line.split()[:10]
                port, there = (int(end.rpartition(":")[2], 16) for end in (local, remote))
                yield port, there, f"socket:[{inode}]"
