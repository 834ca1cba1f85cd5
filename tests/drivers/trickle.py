"""A server that sends one byte after the other, and never comes to an end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AUTHENTICATION_REQUEST = b"R\0\0\1\0"
"""The first bytes of what PostgreSQL sends. Its length says that 251 more are to come."""


@contextmanager
def trickle(pause: float = 0.3, begin: bytes = AUTHENTICATION_REQUEST) -> Iterator[int]:
    """The port of such a server. At the end it closes all connections."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def send(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.sendall(begin)
            while not over.wait(pause):
                client.sendall(b"\0")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                threads.append(threading.Thread(target=send, args=(client,), daemon=True))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(10)
