"""An app for several workers, that Prometheus scrapes."""

from __future__ import annotations

from flask import Flask

from flask_pooled_db import PooledDB, db_connection_context

wsgi_app = "tests.support.scraped_app:create_app()"


def create_app() -> Flask:
    """Make the app from `FLASK_<KEY>` in the environment."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db = PooledDB(app)
    app.register_blueprint(db.metrics_blueprint())
    labelled = db.metrics_blueprint(worker_label=True)
    app.register_blueprint(labelled, name="labelled", url_prefix="/labelled")

    @app.get("/use")
    def use() -> str:
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")
        db.host_stats()  # which publishes: else a killed worker takes its last second with it
        return "used"

    return app
