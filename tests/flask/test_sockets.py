"""Websockets under gunicorn: a connection for each message, none between two of them."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing

import pytest

from harness.gunicorn import GunicornServer
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.flask import socket_app
from tests.flask.served import MAXCONNECTIONS, Served
from tests.flask.socket_clients import Events, Plain

pytestmark = pytest.mark.slow

APP = "tests.flask.socket_app:create_app()"
SOCKETS = 50
SECONDS = 0.5
LONG = 30.0
PAUSE = 1.0  # it runs beside others
WORKER_CLASSES = {
    "gthread": ("threading", ["--threads=120"]),  # each websocket takes one
    "gevent": ("gevent", []),
}
each_kind = pytest.mark.parametrize("kind", [Plain, Events])


def messages(served: Served, client: str) -> list[int]:
    """The numbers that a client has stored, in order."""
    sql = "SELECT number FROM {}.messages WHERE client = %s ORDER BY number"
    return served.query(sql, client)


@pytest.fixture(scope="module", params=list(WORKER_CLASSES))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mariadb: MariaDBServer
) -> Iterator[Served]:
    async_mode, options = WORKER_CLASSES[request.param]
    options = [APP, f"--worker-class={request.param}", "--graceful-timeout=1", *options]
    directory = tmp_path_factory.mktemp("sockets")

    def serve(env: Mapping[str, str]) -> GunicornServer:
        return GunicornServer(directory, options, {**env, "ASYNC_MODE": async_mode})

    served = Served(mariadb, socket_app.MESSAGES, serve)
    yield served
    served.server.close()


@pytest.fixture
def clients(served: Served) -> Iterator[ExitStack]:
    """What closes the sockets of a test at its end. The server runs when it begins."""
    if not served.server.is_running:
        served.server.start()
    with ExitStack() as clients:
        yield clients


def exchange(served: Served, sockets: list[Plain], seconds: float, *, pause: float = 0.0) -> None:
    """Have all sockets send messages for a time, each of which is answered before the next one."""
    count, end = 0, time.monotonic() + seconds
    while count == 0 or time.monotonic() < end:
        for one in sockets:
            one.send(count)
        answers = [one.answer() for one in sockets]
        count += 1
        assert answers == [f"{one.client} {count - 1} {count}" for one in sockets]
        assert served.in_use == 0
        time.sleep(pause)
    assert 0 < len(served.connections()) <= MAXCONNECTIONS
    for one in sockets:
        assert messages(served, one.client) == list(range(count))


def test_p3_messages_of_many_sockets(served: Served, clients: ExitStack) -> None:
    """50 sockets of each kind share 5 connections: each message is answered and stored once, and
    between two of them no connection is in use.
    """
    sockets = [
        clients.enter_context(closing(kind(served.server.port, f"{kind.__name__}-{n}")))
        for n in range(SOCKETS)
        for kind in (Plain, Events)
    ]
    exchange(served, sockets, SECONDS)


@pytest.mark.parametrize(
    ("served", "kind"), [("gthread", Plain), ("gevent", Events)], indirect=["served"]
)
def test_p3_sockets_for_long(served: Served, clients: ExitStack, kind: type[Plain]) -> None:
    """It is so for half a minute, with pauses between the messages, in which Socket.IO asks whether
    its client is still there.
    """
    names = [f"{kind.__name__}-long-{n}" for n in range(SOCKETS)]
    sockets = [clients.enter_context(closing(kind(served.server.port, name))) for name in names]
    exchange(served, sockets, LONG, pause=PAUSE)


@each_kind
def test_t1_socket_dies_in_block(served: Served, clients: ExitStack, kind: type[Plain]) -> None:
    """A socket that dies in the middle of a block keeps no connection: flask-sock's handler ends by
    an error, which rolls back, and an event of Socket.IO goes on to its end.
    """
    names = [f"{kind.__name__}-dies-{n}" for n in range(MAXCONNECTIONS - 1)]
    dying = [
        clients.enter_context(closing(kind(served.server.port, name, "hold"))) for name in names
    ]
    for one in dying:
        one.send(1)
        assert one.answer() == "stored"
    for one in dying:
        one.die()
    if kind is Events:
        assert served.in_use == len(dying)
        served.get("/end")
    served.wait_for_connections()
    stored = [1] if kind is Events else []
    assert [messages(served, name) for name in names] == [stored] * len(names)


@each_kind
def test_a1_forgetful_handler(served: Served, clients: ExitStack, kind: type[Plain]) -> None:
    """A connection that is kept over messages is reported, with the handler's name and the line."""
    socket = clients.enter_context(closing(kind(served.server.port, "forgetful", "forget")))
    socket.send(1)
    name = {Plain: "endpoint 'forget'", Events: "Socket.IO event 'forget'"}[kind]
    taken = re.escape(f"taken at {socket_app.__file__}:")
    report = rf"has been out for .*: {taken}(\d+) by {name}, in .*, which is at (.*):\d+ now"
    wait_until(lambda: re.search(report, served.server.log), "the report")
    found = re.search(report, served.server.log)
    assert found is not None
    line = inspect.getsource(socket_app).splitlines()[int(found[1]) - 1]
    assert "get_db_connection()" in line
    assert found[2] == socket_app.__file__
    served.get("/end")
    assert socket.answer() == "True"
    leak = f"was not given back by {name}, which took it at {socket_app.__file__}:{found[1]}"
    if kind is Plain:
        assert leak not in served.server.log
        socket.die()
    wait_until(lambda: leak in served.server.log, "the end of the context")
    served.wait_for_connections()


def test_t1_stop_with_open_sockets(served: Served, clients: ExitStack) -> None:
    """A worker that is stopped with sockets open, one of them in a block, leaves no connection and
    no half of a transaction behind.
    """
    port = served.server.port
    sockets = [
        clients.enter_context(closing(kind(port, f"{kind.__name__}-stop-{n}")))
        for n in range(5)
        for kind in (Plain, Events)
    ]
    holding = clients.enter_context(closing(Plain(port, "Plain-stopped", "hold")))
    for one in [*sockets, holding]:
        one.send(1)
        one.answer()
    assert served.server.stop() == 0
    wait_until(lambda: not served.connections(), "the server to see the end")
    assert [messages(served, one.client) for one in sockets] == [[1]] * len(sockets)
    assert messages(served, "Plain-stopped") == []
