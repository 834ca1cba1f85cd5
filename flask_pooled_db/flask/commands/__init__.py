"""The commands `flask pooled-db ...`: one module each, which adds its own to the group."""

from flask_pooled_db.flask.commands import binds, check, run, server, status, top
from flask_pooled_db.flask.commands.group import group

__all__ = ["binds", "check", "group", "run", "server", "status", "top"]
