"""A stand-in for a server of websocket events: handlers run outside of any request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

Handler = Callable[[dict[str, Any]], Any]


class Events:
    """Has one thread for each client, which lives as long as the client is connected."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self._handlers: dict[str, Handler] = {}

    def on(self, name: str) -> Callable[[Handler], Handler]:
        """Have a function called with what the clients send under this name."""

        def register(handler: Handler) -> Handler:
            self._handlers[name] = handler
            return handler

        return register

    def emit(self, name: str, data: Any) -> None:
        """Send something to all clients."""
        self.sent.append((name, data))

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect a client, for as long as the block lasts."""
        client = Client(self._handlers)
        try:
            yield client
        finally:
            client.leave()


class Client:
    """Sends events; its thread at the server calls a handler for each, one after the other."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers
        self._inbox: SimpleQueue[tuple[str, Any, Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="chat client", daemon=True)
        self._thread.start()

    def send(self, name: str, **data: Any) -> Future[Any]:
        """Send an event. Returns what will have the handler's answer, or its exception."""
        answer: Future[Any] = Future()
        self._inbox.put((name, data, answer))
        return answer

    def leave(self) -> None:
        """Disconnect, when all that was sent has been handled."""
        self._inbox.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (event := self._inbox.get()) is not None:
            name, data, answer = event
            try:
                answer.set_result(self._handlers[name](data))
            except Exception as error:
                answer.set_exception(error)
