"""An app of which requests hold connections, for what looks at it from outside."""

from __future__ import annotations

import time

from flask import Flask
from flask.typing import ResponseReturnValue

from flask_pooled_db import PooledDB, db_connection_context

wsgi_app = "tests.support.holding_app:create_app()"


def create_app() -> Flask:
    """Make the app from `FLASK_<KEY>` in the environment, and use its database."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db = PooledDB(app)
    app.register_blueprint(db.health_blueprint())

    @app.get("/")
    def index() -> ResponseReturnValue:
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")
        return "Hello."

    @app.get("/hold/<float:seconds>")
    def hold(seconds: float) -> ResponseReturnValue:
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")
            time.sleep(seconds)
        return "done"

    with app.app_context(), db_connection_context() as conn:
        conn.cursor().execute("SELECT 1")
    return app
