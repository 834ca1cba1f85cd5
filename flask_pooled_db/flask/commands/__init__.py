"""The commands `flask pooled-db ...`: one module each, which adds its own to the group."""

from flask_pooled_db.flask.commands import (
    binds,
    check,
    drain,
    resize,
    run,
    server,
    status,
    stress,
    top,
)
from flask_pooled_db.flask.commands.group import group

__all__ = ["binds", "check", "drain", "group", "resize", "run", "server", "status", "stress", "top"]
