"""The commands `flask pooled-db ...`: one module each, which adds its own to the group."""

from flask_pooled_db.flask.commands import binds, drain, resize, run, status, top
from flask_pooled_db.flask.commands.group import group
from flask_pooled_db.flask.commands.servers import check, server
from flask_pooled_db.flask.commands.stress import command as stress_command

__all__ = [
    "binds",
    "check",
    "drain",
    "group",
    "resize",
    "run",
    "server",
    "status",
    "stress_command",
    "top",
]
