"""A chat on MariaDB: messages come as events, one thread for each client."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pymysql
from flask import Flask, jsonify
from pymysql.cursors import DictCursor

from tests.habits.events import Events


def create_app(config: Mapping[str, Any]) -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(config)
    app.extensions["events"] = events = Events()
    connection: Any = pymysql.connect(**app.config["DATABASE"], cursorclass=DictCursor)
    app.extensions["connection"] = connection
    lock = threading.Lock()  # all threads share the connection

    @events.on("message")
    def on_message(data: dict[str, Any]) -> int:
        with lock, connection.cursor() as cur:
            cur.execute(
                "INSERT INTO messages (room, author, text) VALUES (%(room)s, %(author)s, %(text)s)",
                data,
            )
            connection.commit()
            number: int = cur.lastrowid
        events.emit("message", {**data, "id": number})
        return number

    @events.on("join")
    def on_join(data: dict[str, Any]) -> list[dict[str, Any]]:
        with lock, connection.cursor() as cur:
            cur.execute(
                "SELECT author, text FROM messages WHERE room = %(room)s ORDER BY id DESC LIMIT 50",
                data,
            )
            return list(cur.fetchall())

    @events.on("forget")
    def on_forget(data: dict[str, Any]) -> int:
        with lock, connection.cursor() as cur:
            cur.execute("DELETE FROM messages WHERE author = %(author)s", data)
            connection.commit()
            return int(cur.rowcount)

    @app.get("/rooms")
    def rooms() -> Any:
        with lock, connection.cursor() as cur:
            cur.execute("SELECT room, COUNT(*) AS messages FROM messages GROUP BY room")
            return jsonify(cur.fetchall())

    return app
