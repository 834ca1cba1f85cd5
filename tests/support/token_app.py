"""An app that sends tokens through its database, and the settings and hooks gunicorn takes from it.

It connects where it is made, as an app does that reads something from its database at the start:
with `--preload` that is in the arbiter, before the fork.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def _say_threads() -> None:
    count = len(list(Path("/proc/self/task").iterdir()))
    sys.stderr.write(f"[{os.getpid()}] {threads_at_a_fork(count)}\n")


def threads_at_a_fork(count: int) -> str:
    """What the log says of the threads of a process that forks."""
    return f"Threads at a fork: {count}."


# Before the extension's own hook, so that it runs after that: hooks run in the reverse order.
os.register_at_fork(before=_say_threads)

# ruff: noqa: E402
from flask import Flask
from flask.typing import ResponseReturnValue

from flask_pooled_db import PooledDB, db_connection_context

wsgi_app = "tests.support.token_app:create_app()"

CONNECTIONS_AT_START = 3
AT_START, AT_END = "at the start", "at the end"

SQLITE_SESSION = "CREATE TEMP TABLE session AS SELECT hex(randomblob(16)) AS id"
"""To be run on each new connection to SQLite, which has no CONNECTION_ID() to know it by."""

_SESSION_ID = {True: "(SELECT id FROM temp.session)", False: "CONNECTION_ID()"}


def create_app() -> Flask:
    """Make the app from `FLASK_<KEY>` in the environment, and use its database."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db = PooledDB(app)
    session_id = _SESSION_ID[app.config["POOLED_DB_URL"].startswith("sqlite")]

    @app.get("/")
    def index() -> ResponseReturnValue:
        return "It works."

    @app.get("/tokens/<token>")
    def send(token: str) -> ResponseReturnValue:
        with db_connection_context() as conn:
            return {"token": send_token(conn, token, session_id)}

    @app.get("/stats")
    def stats() -> ResponseReturnValue:
        now = db.stats()
        return {"open": now.open, "in_use": now.in_use, "waiting": now.waiting}

    _use_connections(app, AT_START, session_id)
    app.extensions["at_end"] = lambda: _use_connections(app, AT_END, session_id)
    return app


def send_token(conn: Any, token: str, session_id: str) -> str:
    """Write a token, with the connection and the process it comes by; read it back."""
    with conn.cursor() as cur:
        cur.execute(
            f"INSERT INTO tokens (token, session, process) VALUES (%s, {session_id}, %s)",
            (token, os.getpid()),
        )
        cur.execute("SELECT token FROM tokens WHERE id = %s", (cur.lastrowid,))
        return str(cur.fetchone()[0])


def _use_connections(app: Flask, token: str, session_id: str) -> None:
    """Send a token by each of several connections, all of them in use at the same time."""
    with app.app_context(), ExitStack() as scopes:
        for _ in range(CONNECTIONS_AT_START):
            conn = scopes.enter_context(db_connection_context(independent=True))
            send_token(conn, token, session_id)
            conn.commit()  # SQLite has one writer at a time


def post_worker_init(worker: Any) -> None:
    """In a worker, when it has its signal handlers and is about to serve."""
    worker.log.info("%s", ready(worker.pid))


def ready(worker: int) -> str:
    """What the log says of a worker that serves."""
    return f"Worker {worker} is ready"


def on_exit(server: Any) -> None:
    """In the arbiter, when all workers have ended: use what was opened at the start once more."""
    if server.cfg.preload_app:
        server.app.wsgi().extensions["at_end"]()
