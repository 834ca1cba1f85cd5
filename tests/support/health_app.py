"""An app for several servers behind a load balancer, which asks whether they are ready."""

from __future__ import annotations

from flask import Flask

from flask_pooled_db import PooledDB

APP = "tests.support.health_app:create_app()"


def create_app() -> Flask:
    """Make the app from `FLASK_<KEY>` in the environment."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db = PooledDB(app)
    app.register_blueprint(db.health_blueprint())

    @app.get("/name")
    def name() -> str:
        return str(app.config["NAME"])

    return app
