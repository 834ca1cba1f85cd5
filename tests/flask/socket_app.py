"""An app with websockets whose messages are scopes, by flask-sock and by Flask-SocketIO."""

from __future__ import annotations

import os
import time
from typing import Any

import flask_socketio
from flask import Flask
from flask.typing import ResponseReturnValue
from flask_sock import Sock
from flask_socketio import SocketIO
from simple_websocket import Server

from flask_pooled_db import PooledDB, db_connection_context, get_db_connection

MESSAGES = """
    CREATE TABLE `{}`.messages (
        client VARCHAR(20) NOT NULL, number INT NOT NULL, PRIMARY KEY (client, number)
    )
"""

SECONDS_HELD = 0.6
"""How long an event of Socket.IO goes on, also when its client has left."""

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
    """Go on in a block when its client has left."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (client, number))
        flask_socketio.emit("stored")
        time.sleep(SECONDS_HELD)


def on_forget(client: str, number: int) -> str:
    """Keep a connection for too long, and beyond the event."""
    _kept[client] = get_db_connection()
    time.sleep(SECONDS_HELD)
    return str(_kept[client].open)


_kept: dict[str, Any] = {}
