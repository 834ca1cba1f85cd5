"""A slow network: a relay in a process of its own, which leaves the clients their CPU.

A ping of 2 ms through it takes 2.2 ms with one thread, and 2.5 ms with 16. The tests' proxy would
not do: its clock ticks in milliseconds, as asyncio's does. With 16 threads it made 3.7 ms of the
2 ms, and all that had come in the same millisecond went on at the same instant: the threads stood
in line for one another as no network makes them.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from harness.processes import PROJECT
from harness.sockets import LOOPBACK

_TICKS = os.sysconf("SC_CLK_TCK")
_BACKLOG = 512
_MOST_AT_ONCE = 65_536


@dataclass(frozen=True)
class Network:
    """Where the relay listens, and the process it runs in."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """The CPU time that the relay has used up."""
        # Fields 14 and 15 of proc(5), utime and stime; the second field may hold spaces.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def two_cpus() -> tuple[set[int], set[int]]:
    """A CPU for the client and one for the relay; the same where there is one alone.

    One is enough for the threads of a Python process, and the two do not take it from each other.
    The server is to have all: on a single one its threads, which wait for locks by spinning, were
    seen to stand in each other's way for minutes.
    """
    cpus = sorted(os.sched_getaffinity(0))
    return {cpus[0]}, {cpus[-1]}


@contextmanager
def running_on(cpus: set[int]) -> Iterator[None]:
    """A block in which this thread, and what it starts, runs on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def slow_network(host: str, port: int, round_trip: float) -> Iterator[Network]:
    """A relay in front of a server that makes each round trip take so many seconds longer."""
    command = [sys.executable, "-m", "benchmarks.network", host, str(port), str(round_trip / 2)]
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C at the terminal ends the benchmarks, and these the relay
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Network(int(process.stdout.readline()), process.pid)
        finally:
            process.stdin.close()  # which tells it to end


class Relay:
    """Passes on what either side of a connection sends, `delay` seconds after it came.

    All waits equally long, so that one queue in the order of arrival is enough. What is passed on
    is small, and there is always room for it where it goes: no write ever waits.
    """

    def __init__(self, listener: socket.socket, upstream: tuple[str, int], delay: float) -> None:
        self._listener = listener
        self._upstream = upstream
        self._delay = delay
        self._poll = select.epoll()
        self._sides: dict[int, tuple[socket.socket, socket.socket]] = {}  # by the first's number
        self._under_way: deque[tuple[float, socket.socket, bytes]] = deque()  # due when, to whom

    def serve_until_readable(self, end: int) -> None:
        """Serve until this descriptor has something to say."""
        self._poll.register(end, select.EPOLLIN)
        self._poll.register(self._listener, select.EPOLLIN)
        while True:
            came, now = self._wait(), monotonic()
            for descriptor, _ in came:
                if descriptor == end:
                    return
                if descriptor == self._listener.fileno():
                    self._admit()
                else:
                    self._take(*self._sides[descriptor], now + self._delay)
            self._pass_on(now)

    def _wait(self) -> list[tuple[int, int]]:
        """Wait for something to come or to be due; what has come."""
        seconds = self._under_way[0][0] - monotonic() if self._under_way else None
        if seconds is None or seconds > 0:
            # An epoll is itself something to wait for: its own timeout is in whole milliseconds,
            # that of select(2) in microseconds.
            readable, _, _ = select.select([self._poll], [], [], seconds)
            if not readable:
                return []
        return self._poll.poll(0)

    def _admit(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._upstream)
        for side, other in ((client, server), (server, client)):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sides[side.fileno()] = (side, other)
            self._poll.register(side, select.EPOLLIN)

    def _take(self, side: socket.socket, other: socket.socket, due: float) -> None:
        try:
            data = side.recv(_MOST_AT_ONCE)
        except ConnectionResetError:
            data = b""
        if not data:
            self._poll.unregister(side)
        self._under_way.append((due, other, data))

    def _pass_on(self, now: float) -> None:
        # What comes to be due meanwhile goes with the next turn: what arrives is not to wait for
        # it unseen.
        while self._under_way and self._under_way[0][0] <= now:
            _, to, data = self._under_way.popleft()
            with contextlib.suppress(OSError):  # it has gone
                if data:
                    to.sendall(data)
                else:
                    to.shutdown(socket.SHUT_WR)


def main(host: str, port: str, delay: str) -> None:
    """Say the relay's port; serve until stdin ends."""
    with socket.create_server((LOOPBACK, 0), backlog=_BACKLOG) as listener:
        print(listener.getsockname()[1], flush=True)
        Relay(listener, (host, int(port)), float(delay)).serve_until_readable(sys.stdin.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
