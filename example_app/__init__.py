"""A scan station: workers scan boxes for orders. A small, complete app on flask_pooled_db.

Beside it, workshops: each has a database of its own, which is opened by its name. The page of the
pools is at /pooled-db/, and trouble to be watched there at /trouble, for this machine alone.
"""

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask

from example_app import (
    database,
    errors,
    live,
    orders,
    scans,
    station,
    tenants,
    trouble,
    workshops,
)
from example_app.local import is_local

__all__ = ["create_app"]


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the app. `config` outranks the environment, the environment outranks the defaults.

    Read from the environment: every `FLASK_<KEY>`, and `POOLED_DB_URL`. Without a URL the data
    is in an SQLite file in the instance folder, which is the extension's own default.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 16 * 1024
    # Short, so that one can watch it; and each worker has few of them open at a time.
    app.config.update(POOLED_DB_BIND_IDLE_TIMEOUT=60, POOLED_DB_MAX_BINDS=10)
    # What is held for longer is logged, with who holds it.
    app.config.update(POOLED_DB_LEAK_THRESHOLD=10, POOLED_DB_SLOW_STATEMENT=0.5)
    app.config.from_prefixed_env()
    if url := os.environ.get("POOLED_DB_URL"):
        app.config["POOLED_DB_URL"] = url
    app.config.update(config or {})

    database.init_app(app)
    tenants.init_app(app)
    errors.init_app(app)
    live.init_app(app)
    trouble.init_app(app)
    app.register_blueprint(database.db.page_blueprint(authorize=is_local))
    for module in (station, scans, orders, workshops):
        app.register_blueprint(module.bp)
    app.register_blueprint(database.db.health_blueprint())
    return app
