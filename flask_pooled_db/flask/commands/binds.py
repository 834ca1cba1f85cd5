"""`flask pooled-db binds`: the databases that are open in this process."""

from __future__ import annotations

import click

from flask_pooled_db.config import shown
from flask_pooled_db.flask.commands.group import group
from flask_pooled_db.flask.commands.tables import lines_of
from flask_pooled_db.flask.context import current


@group.command()
def binds() -> None:
    """List the databases of this app that are open in this process: those of the configuration,
    and those that were opened by their names.
    """
    registry = current()[0].registry
    rows: list[tuple[str, ...]] = [("BIND", "OPEN", "IN USE", "IDLE", "WAITING", "UNUSED FOR")]
    for pool in registry.all_pools():
        now, opened = pool.stats(), registry.opened.get(pool.bind)
        unused = "" if opened is None else f"{max(registry.clock() - opened.last_used, 0.0):.0f} s"
        numbers = (now.open, now.in_use, now.idle, now.waiting)
        rows.append((shown(pool.bind), *map(str, numbers), "in use" if now.in_use else unused))
    for line in lines_of(rows):
        click.echo(line)
