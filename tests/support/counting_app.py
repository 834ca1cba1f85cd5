"""An app that counts its checkouts, and tells those of all workers."""

from __future__ import annotations

import os

from flask import Flask
from flask.typing import ResponseReturnValue

from flask_pooled_db import HostStats, PooledDB, db_connection_context

wsgi_app = "tests.support.counting_app:create_app()"


def create_app() -> Flask:
    """Make the app from `FLASK_<KEY>` in the environment, and use its database."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db = PooledDB(app)

    @app.get("/use")
    def use() -> ResponseReturnValue:
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")
        return {"all": checkouts(db.host_stats())}

    @app.get("/sleep")
    def sleep() -> ResponseReturnValue:
        """On MariaDB, take 1.5 s in one statement."""
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("SELECT CONNECTION_ID() + SLEEP(1.5)")
            return {"id": int(cur.fetchone()[0])}

    @app.get("/all")
    def everything() -> ResponseReturnValue:
        stats = db.host_stats()
        pids = [process.pid for process in stats.processes]
        return {"all": checkouts(stats), "pids": pids, "me": os.getpid(), "problem": stats.problem}

    with app.app_context(), db_connection_context() as conn:  # under --preload, in the arbiter
        conn.cursor().execute("SELECT 1")
    return app


def checkouts(stats: HostStats) -> int:
    pools = stats.totals.get("pools", {})
    return int(pools.get("default", {}).get("checkouts", 0))
