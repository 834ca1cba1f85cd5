"""An app with a websocket, of which one message leaks a connection."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_sock import Sock
from simple_websocket import Server

from flask_pooled_db import PooledDB

APP = "tests.support.live_app:create_app()"

_kept: list[Any] = []


def create_app(**config: Any) -> Flask:
    """Make the app from `FLASK_<KEY>` in the environment, or from these keys."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.config.update(config)
    db = PooledDB(app)
    sock: Any = Sock(app)

    def live(ws: Server) -> None:
        while True:
            if ws.receive() == "leak" and not _kept:
                _kept.append(db.pool().lease())
            ws.send(str(db.fetch_value("SELECT 1")))

    sock.route("/live")(live)

    @app.get("/")
    def index() -> str:
        return "served"

    return app
