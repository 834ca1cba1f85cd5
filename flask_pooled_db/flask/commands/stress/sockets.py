"""The load of `flask pooled-db stress --sockets`: websockets to an app that is served elsewhere."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from threading import Event
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from flask_pooled_db.flask.commands.stopping import Stopping
from flask_pooled_db.flask.commands.stress.clients import Clients
from flask_pooled_db.flask.commands.stress.remains import Left, footprint, left_since, wait_for
from flask_pooled_db.flask.commands.stress.results import left_behind, of_times
from flask_pooled_db.flask.commands.stress.tally import Times
from flask_pooled_db.host import HostStats

PATH = "/live"
"""Where the socket is, if the URL has no path: that of the example app."""

PAUSE = 0.1
"""Seconds, about, between two messages of a socket."""

ANSWER_PATIENCE = 2.0
"""Seconds that a socket waits for an answer before it sends the next message."""

CONNECT_PATIENCE = END_PATIENCE = 5.0


def library() -> ModuleType:
    """Return what opens websockets."""
    try:
        return importlib.import_module("simple_websocket")
    except ImportError as error:
        raise click.UsageError(
            "--sockets needs simple-websocket: pip install simple-websocket"
        ) from error


def address(url: str) -> str:
    """Return where the websocket is. Raises if that is no URL of a server."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise click.UsageError("--url must be like http://127.0.0.1:8000")
    path = parts.path if parts.path.strip("/") else PATH
    return parts._replace(scheme=scheme, path=path).geturl()


class SocketClient:
    """One socket: it sends a message, waits for the answer, and so on."""

    def __init__(self, clients: Clients[SocketClient], url: str, message: str) -> None:
        self._clients = clients
        self._url = url
        self._message = message
        self._module = library()
        self.answers = Times()
        self.sent = 0
        self.errors: Counter[str] = Counter()
        self.has_ended = Event()

    def work(self) -> None:
        """Be open until the time is over, and open another one if it was closed."""
        try:
            while not self._clients.is_over:
                try:
                    self._talk()
                except Exception as error:  # noqa: BLE001  whatever it is, it is counted
                    self.errors[_told(error)] += 1
                    time.sleep(PAUSE)
        finally:
            self.has_ended.set()

    def _talk(self) -> None:
        parts = urlsplit(self._url)
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        # It waits for a server without a limit, and leaves a socket behind if there is none.
        socket.create_connection((parts.hostname or "", port), CONNECT_PATIENCE).close()
        # A thread of its own reads: the end of the process must not wait for a server.
        thread = functools.partial(threading.Thread, daemon=True)
        opened = self._module.Client.connect(self._url, thread_class=thread)
        spare = opened.sock.dup()  # it closes its own, in which its thread may be reading
        try:
            while not self._clients.is_over:
                began = time.monotonic()
                opened.send(self._message)
                self.sent += 1
                if opened.receive(timeout=ANSWER_PATIENCE) is not None:
                    self.answers.add(time.monotonic() - began)
                time.sleep(random.uniform(0.5, 1.5) * PAUSE)
        finally:
            with contextlib.suppress(Exception):  # the server may have closed it
                opened.close()
            opened.thread.join(PAUSE)  # until the server has said goodbye as well
            with contextlib.suppress(OSError):
                spare.shutdown(socket.SHUT_RDWR)
            spare.close()


def _told(error: Exception) -> str:
    reason = getattr(error, "reason", None)  # with which the server has closed the socket
    if isinstance(reason, int):
        return f"{type(error).__name__} {int(reason)}"
    number = error.args[0] if error.args else None
    return f"{type(error).__name__} {number}" if isinstance(number, int) else type(error).__name__


class SocketRun:
    """One run against an app that is served elsewhere, and what its workers have left."""

    def __init__(self, db: Any, url: str, message: str, count: int) -> None:
        self._db = db
        self._clients: Clients[SocketClient] = Clients()
        where = address(url)
        self._sockets = [SocketClient(self._clients, where, message) for _ in range(count)]
        self._left = Left()
        self._workers = Workers(0, 0, None)
        self._problems: list[str] = []

    def work(self, seconds: float, stopping: Stopping) -> None:
        """Have the sockets open, and look at what was left."""
        before = footprint(())
        self._clients.run(self._sockets, seconds, stopping)
        if late := self._clients.wait_for_end(ANSWER_PATIENCE + END_PATIENCE):
            self._problems.append(f"{late} sockets have not ended: they hang in a call.")
        ended = time.monotonic()
        self._left = left_since(before, ())

        def is_over() -> bool:
            self._workers = look(self._db.host_stats(), ended)
            return self._workers.are_all_told and not self._workers.in_use

        wait_for(is_over)

    def findings(self, stopping: Stopping) -> dict[str, Any]:
        """Return all that is to be told."""
        clients, seconds, workers = self._clients.all, self._clients.seconds, self._workers
        answers, errors = Times(), Counter[str]()
        for client in clients:
            answers.join(client.answers)
            errors += client.errors
        left = {
            "connections_in_use": workers.in_use if workers.are_all_told else None,
            "threads": self._left.threads,
            "open_files": self._left.files,
        }
        self._judge(answers, left)
        return {
            "sockets": len(clients),
            "seconds": round(seconds, 2),
            "interrupted": stopping.is_asked(),
            "workers": workers.number,
            "sent": sum(client.sent for client in clients),
            "unit": "messages",
            "times": {"answered": of_times(answers, seconds)},
            "failed": dict(errors),
            "started_over": {},
            "left": left,
            "problems": self._problems,
        }

    def _judge(self, answers: Times, left: Mapping[str, Any]) -> None:
        workers = self._workers
        if not answers.count:
            self._problems.append("No message was answered: is the app served at --url?")
        if not workers.are_all_told:
            why = workers.problem or "they publish nothing"
            self._problems.append(
                f"The workers can't be seen ({why}): run this as their user, with their "
                "configuration, on their host."
            )
        if kept := left_behind(left):
            self._problems.append(kept)


class Workers(NamedTuple):
    """What the workers of an app have published, this process left out."""

    number: int
    in_use: int
    """Connections that they have lent."""
    problem: str | None
    """Why they can't be seen."""
    are_all_told: bool = False
    """Whether each of them has published something since the end."""


def look(stats: HostStats, ended: float) -> Workers:
    """Return what the workers do, of what all processes have published, `ended` seconds on the
    monotonic clock being the end of the load.
    """
    if stats.is_alone:
        return Workers(0, 0, stats.problem)
    others = [one for one in stats.processes if one.pid != os.getpid()]
    pools = [pool for one in others for pool in one.numbers.get("pools", {}).values()]
    in_use = sum(int(pool["in_use"]) for pool in pools)
    age = time.monotonic() - ended
    are_told = bool(others) and all(one.age < age for one in others)
    return Workers(len(others), in_use, stats.problem, are_told)
