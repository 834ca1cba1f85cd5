"""The ports that the tests' servers are given."""

from __future__ import annotations

import socket
import subprocess
import sys

from harness.sockets import LOOPBACK, free_port

# Another session of tests, whose search comes upon this port first, and then upon any.
OTHER_SESSION = """
import sys
from harness import sockets
found = iter([int(sys.argv[1]), 0])
sockets.random.randint = lambda *_: next(found)
print(sockets.free_port())
"""


def given_elsewhere(port: int) -> int:
    """Return the port that another session is given if it comes upon this one."""
    command = [sys.executable, "-c", OTHER_SESSION, str(port)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout)


def test_port_of_its_own() -> None:
    """No other session is given the port of a server that is yet to start, runs, or is down."""
    port = free_port()
    assert given_elsewhere(port) != port
    for _ in range(2):
        with (
            socket.create_server((LOOPBACK, port)) as server,
            socket.create_connection((LOOPBACK, port)) as client,
        ):
            server.accept()[0].close()
            assert client.recv(1) == b""
            assert given_elsewhere(port) != port
        assert given_elsewhere(port) != port
