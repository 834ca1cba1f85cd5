"""TCP ports for what the tests start, and a look at the sockets this process holds open."""

from __future__ import annotations

import os
import random
import select
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Ports of every server and proxy started by the tests: what the leak detector watches.
DATABASE_PORTS: set[int] = set()

# Below Linux's ephemeral range (ip_local_port_range starts at 32768): while a server is down, no
# outgoing connection can take its port, and no retrying client can connect to itself.
_LOWEST_PORT, _HIGHEST_PORT = 20_000, 32_000


# Descriptors of sockets that hold the ports which this process was given, until it ends: a port
# stays its own while its server is down.
_HOLDERS: list[int] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, and that nobody else is given while this process
    lives: other sessions of tests run beside it.

    A socket that is bound to it and never listens holds it. Servers may bind to it as well, since
    they set SO_REUSEADDR; the search for a free one does not set it, and so passes it by.
    """
    while True:
        holder = socket.socket()
        try:
            holder.bind((LOOPBACK, random.randint(_LOWEST_PORT, _HIGHEST_PORT)))
        except OSError:
            holder.close()
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port: int = holder.getsockname()[1]
        _HOLDERS.append(holder.detach())
        return port


def is_readable(descriptor: int | None, seconds: float = 10.0) -> bool:
    """Whether a socket has something to read, or its end, within so many seconds."""
    assert descriptor is not None, "it is closed"
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def database_sockets() -> set[int]:
    """Inodes of this process's open TCP sockets to a database, or to none any more.

    The latter are those that their peer has reset: they have no address left to know them by.
    """
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
            if not target.startswith("socket:[") or int(descriptor.name) in _HOLDERS:
                continue
            if _is_to_a_database(int(descriptor.name)):
                inodes.add(int(target[len("socket:[") : -1]))
        except OSError:  # closed meanwhile; the listing's own descriptor always is
            continue
    return inodes


def _is_to_a_database(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as same:
        if same.family != socket.AF_INET or same.type != socket.SOCK_STREAM:
            return False
        if same.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # it listens
            return False
        try:
            return same.getpeername()[1] in DATABASE_PORTS
        except OSError:
            return True
