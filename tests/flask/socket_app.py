"""An app with websockets whose messages are scopes, by flask-sock and by Flask-SocketIO."""

from __future__ import annotations

import os
import threading
from typing import Any

import flask_socketio
from flask import Flask
from flask.typing import ResponseReturnValue
from flask_sock import Sock
from flask_socketio import SocketIO
from simple_websocket import Server

from flask_pooled_db import PooledDB, db_connection_context, get_db_connection
from harness.waiting import PATIENCE

MESSAGES = """
    CREATE TABLE `{}`.messages (
        client VARCHAR(20) NOT NULL, number INT NOT NULL, PRIMARY KEY (client, number)
    )
"""

_INSERT = "INSERT INTO messages (client, number) VALUES (%s, %s)"


def create_app() -> Flask:
    """Make the app from `FLASK_<KEY>` in the environment."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db = PooledDB(app)
    sock: Any = Sock(app)
    for handler in (say, hold, forget):
        sock.route(f"/{handler.__name__}/<client>")(handler)
    # By itself it takes gevent wherever that is installed.
    socketio: Any = SocketIO(app, async_mode=os.environ["ASYNC_MODE"])
    for event in (on_say, on_hold, on_forget):
        socketio.on_event(event.__name__.removeprefix("on_"), event)

    @app.get("/")
    def stats() -> ResponseReturnValue:
        now = db.stats()
        return {"in_use": now.in_use, "open": now.open, "leaked": now.leaked}

    @app.get("/end")
    def end() -> ResponseReturnValue:
        """Let the events end that wait for it."""
        _may_end.set()
        return "ended"

    return app


def record(client: str, number: int) -> int:
    """Store a message, and return how many this client has stored."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (client, number))
        cur.execute("SELECT COUNT(*) FROM messages WHERE client = %s", (client,))
        return int(cur.fetchone()[0])


# Websockets of flask-sock


def say(ws: Server, client: str) -> None:
    """Store each message in a block of its own."""
    while True:
        number = int(ws.receive())
        ws.send(f"{client} {number} {record(client, number)}")


def hold(ws: Server, client: str) -> None:
    """Wait for the next message inside of a block."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (client, int(ws.receive())))
        ws.send("stored")
        ws.receive()


def forget(ws: Server, client: str) -> None:
    """Keep a connection over all messages."""
    conn = get_db_connection()
    while True:
        ws.receive()
        ws.send(str(conn.open))


# Events of Socket.IO


def on_say(client: str, number: int) -> str:
    """Store a message in a block."""
    return f"{client} {number} {record(client, number)}"


def on_hold(client: str, number: int) -> None:
    """Stay in a block until it may end."""
    _may_end.clear()
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (client, number))
        flask_socketio.emit("stored")
        assert _may_end.wait(PATIENCE)


def on_forget(client: str, number: int) -> str:
    """Keep a connection until the event may end, and beyond that."""
    _may_end.clear()
    _kept[client] = get_db_connection()
    assert _may_end.wait(PATIENCE)
    return str(_kept[client].open)


_kept: dict[str, Any] = {}
_may_end = threading.Event()
