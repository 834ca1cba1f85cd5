"""TCP ports for what the tests start, and a look at the sockets this process holds open."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Ports of every server and proxy started by the tests: what the leak detector watches.
DATABASE_PORTS: set[int] = set()

# Below Linux's ephemeral range (ip_local_port_range starts at 32768): while a server is down, no
# outgoing connection can take its port, and no retrying client can connect to itself.
_LOWEST_PORT, _HIGHEST_PORT = 20_000, 32_000


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    while True:
        port = random.randint(_LOWEST_PORT, _HIGHEST_PORT)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def database_sockets() -> set[int]:
    """Inodes of this process's open TCP sockets to a database, or to none any more.

    The latter are those that their peer has reset: they have no address left to know them by.
    """
    held = _own_tcp_sockets()
    # Columns of /proc/net/tcp: 2 is rem_address ("0100007F:1F90", hexadecimal), 9 is the inode.
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    far_ports = {int(row[9]): int(row[2].rpartition(":")[2], 16) for row in rows}
    return {inode for inode in held if far_ports.get(inode) in {*DATABASE_PORTS, None}}


def _own_tcp_sockets() -> set[int]:
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
            if target.startswith("socket:[") and _is_tcp(int(descriptor.name)):
                inodes.add(int(target[len("socket:[") : -1]))
        except OSError:  # closed meanwhile; the listing's own descriptor always is
            continue
    return inodes


def _is_tcp(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as same:
        return same.family == socket.AF_INET and same.type == socket.SOCK_STREAM
