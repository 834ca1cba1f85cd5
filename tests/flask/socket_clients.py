"""Clients of the app with websockets: one of flask-sock's, one that speaks Socket.IO."""

from __future__ import annotations

import json
from typing import Any

import websocket

from harness.sockets import LOOPBACK
from harness.waiting import PATIENCE


class Plain:
    """A websocket of flask-sock's; a handler of its own has its messages."""

    def __init__(self, port: int, client: str, handler: str = "say") -> None:
        self.client = client
        self._connect(port, f"/{handler}/{client}")

    def _connect(self, port: int, path: str) -> None:
        url = f"ws://{LOOPBACK}:{port}{path}"
        self._socket: Any = websocket.create_connection(url, PATIENCE)

    def send(self, number: int) -> None:
        """Send the handler a message."""
        self._socket.send(str(number))

    def answer(self) -> str:
        """The next message that comes back."""
        return str(self._socket.recv())

    def die(self) -> None:
        """Go without a goodbye."""
        self._socket.shutdown()

    def close(self) -> None:
        """Say goodbye, unless it is gone."""
        self._socket.close()


class Events(Plain):
    """A client of Socket.IO, which asks for each event by its name."""

    def __init__(self, port: int, client: str, handler: str = "say") -> None:
        self.client, self._event = client, handler
        self._connect(port, "/socket.io/?EIO=4&transport=websocket")
        assert self._socket.recv().startswith("0")  # its session
        self._socket.send("40")  # the default namespace
        assert self._socket.recv().startswith("40")

    def send(self, number: int) -> None:
        """Send an event, with a number that asks for its answer."""
        self._socket.send(f"421{json.dumps([self._event, self.client, number])}")

    def answer(self) -> str:
        """The next answer, or the name of the next event, that comes back."""
        while (message := super().answer()) == "2":  # the server asks whether it is still there
            self._socket.send("3")
        found: list[str] = json.loads(message.lstrip("0123456789"))
        return found[0]
