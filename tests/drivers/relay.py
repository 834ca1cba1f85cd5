"""A relay between a client and PostgreSQL that answers COMMIT in the server's place."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def relay(port: int, answer: bytes) -> Iterator[int]:
    """The port of a relay for one connection; what the server answers to COMMIT is lost."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_serve, args=(listening, port, answer), daemon=True)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            thread.join(10)


def _serve(listening: socket.socket, port: int, answer: bytes) -> None:
    client, _ = listening.accept()
    is_commit = False
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        while True:
            for end in select.select([client, server], [], [])[0]:
                data = end.recv(65536)
                if not data:
                    return
                if end is client:
                    is_commit = b"COMMIT" in data
                    server.sendall(data)
                else:
                    client.sendall(answer if is_commit else data)


@contextmanager
def counting_relay(port: int, word: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a relay for one connection, and what the client sends with this word in it."""
    seen: list[bytes] = []

    def serve() -> None:
        client, _ = listening.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            while True:
                for end in select.select([client, server], [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    if end is client and word in data:
                        seen.append(data)
                    (server if end is client else client).sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listening.getsockname()[1]), seen
        finally:
            thread.join(10)
