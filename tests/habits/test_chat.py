"""A chat whose messages come as events, outside of any request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pymysql
import pytest
from flask import Flask

from harness.server import MariaDBServer
from harness.waiting import PATIENCE
from tests.habits.events import Client, Events
from tests.habits.halves import HALVES, make_tables, running, said
from tests.support.sites import warnings_in


@contextmanager
def chat(half: str, server: MariaDBServer) -> Iterator[tuple[Flask, str]]:
    """The app, and its database."""
    name = server.create_database()
    make_tables(server, name, "chat")
    config = {"DATABASE": server.connect_args(name), "POOLED_DB_URL": server.url(database=name)}
    with running("chat", half, config) as app:
        yield app, name
        if half == "before":
            app.extensions["connection"].close()


def send(client: Client, event: str, **data: str) -> Any:
    return client.send(event, **data).result(PATIENCE)


def say(client: Client, text: str) -> Any:
    return send(client, "message", room="hall", author="Ann", text=text)


def talk(app: Flask) -> tuple[list[Any], list[Any]]:
    """Have some clients talk at the same time, and then one alone."""
    events: Events = app.extensions["events"]
    with ExitStack() as stack:
        clients = [stack.enter_context(events.client()) for _ in range(4)]
        answers = [
            client.send("message", room=f"room {number}", author="Ann", text=f"{count}")
            for count in range(25)
            for number, client in enumerate(clients)
        ]
        numbers = sorted(answer.result(PATIENCE) for answer in answers)
        history = send(clients[0], "join", room="room 3")
        say(clients[0], "100% 'quoted'")
        forgotten = send(clients[1], "forget", author="Ann")
    return [numbers, history, forgotten, said(app.test_client().get("/rooms"))], events.sent


def test_chat_answers(mariadb: MariaDBServer, caplog: pytest.LogCaptureFixture) -> None:
    """Both halves answer, store and tell the clients the same."""
    results = {}
    for half in HALVES:
        with chat(half, mariadb) as (app, name):
            answers, sent = talk(app)
        results[half] = answers, sorted(data["id"] for _, data in sent)
        assert mariadb.query(f"SELECT * FROM {name}.messages") == []
    assert results["after"] == results["before"]
    assert results["after"][0][0] == list(range(1, 101))
    assert results["after"][0][1][0] == {"author": "Ann", "text": "24"}
    assert results["after"][0][2:] == [101, (200, [])]
    assert warnings_in(caplog) == []


def test_chat_lost_connection(mariadb: MariaDBServer) -> None:
    """Once the process's connection was lost, no message was stored any more."""
    stored = {}
    for half in HALVES:
        with chat(half, mariadb) as (app, name), app.extensions["events"].client() as client:
            say(client, "one")
            for connection in mariadb.connections(database=name):
                mariadb.kill_connection(connection)
            for text in ("two", "three"):
                answer = client.send("message", room="hall", author="Ann", text=text)
                error = answer.exception(PATIENCE)
                assert isinstance(error, pymysql.Error if half == "before" else None.__class__)
        stored[half] = [text for (text,) in mariadb.query(f"SELECT text FROM {name}.messages")]
    assert stored == {"before": ["one"], "after": ["one", "two", "three"]}


def test_chat_stale_history(mariadb: MariaDBServer) -> None:
    """The process's connection kept the snapshot of its first read, whatever others wrote."""
    seen = {}
    for half in HALVES:
        with chat(half, mariadb) as (app, name), app.extensions["events"].client() as client:
            assert send(client, "join", room="hall") == []
            mariadb.execute(f"INSERT INTO {name}.messages VALUES (1, 'hall', 'Bob', 'hello')")
            seen[half] = send(client, "join", room="hall")
    assert seen == {"before": [], "after": [{"author": "Bob", "text": "hello"}]}
