"""The commands `flask pooled-db ...`: one module each, which adds its own to the group."""

from flask_pooled_db.flask.commands import binds, run, stress
from flask_pooled_db.flask.commands.group import group

__all__ = ["binds", "group", "run", "stress"]
