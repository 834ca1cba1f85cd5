"""A slow network: the tests' proxy in a process of its own, which leaves the clients their CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.proxy import Proxy

PROJECT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Network:
    """Where the proxy listens, and the process it runs in."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """The CPU time that the proxy has used up."""
        # Fields 14 and 15 of proc(5), utime and stime; the second field may hold spaces.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def slow_network(host: str, port: int, round_trip: float) -> Iterator[Network]:
    """A proxy in front of a server that makes each round trip take so many seconds longer."""
    command = [sys.executable, "-m", "benchmarks.network", host, str(port), str(round_trip / 2)]
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Network(int(process.stdout.readline()), process.pid)
        finally:
            process.stdin.close()  # which tells it to end


def main(host: str, port: str, delay: str) -> None:
    """Say the proxy's port; serve until stdin ends."""
    with Proxy(host, int(port), float(delay)) as proxy:
        print(proxy.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
