"""The commands `flask pooled-db ...`."""

from __future__ import annotations

from pathlib import Path

import click
from flask.cli import AppGroup

from flask_pooled_db.errors import PooledDBError
from flask_pooled_db.flask.context import current

group = AppGroup("pooled-db", help="Work with the databases of this app.")


@group.command()
@click.argument("file")
@click.option("--bind", metavar="NAME", help="Which database; the default one if left out.")
def run(file: str, bind: str | None) -> None:
    """Run the SQL statements of FILE, relative to this directory or else to the app's."""
    state = current()[0]
    path = Path(file).absolute() if Path(file).exists() else Path(file)
    try:
        driver = state.pool(bind).driver
    except PooledDBError as error:
        raise click.ClickException(_in_one_line(error)) from error
    try:
        count = state.extension.run_script(path, bind)
    except (PooledDBError, OSError, UnicodeError, driver.Error) as error:
        raise click.ClickException(_in_one_line(error)) from error
    click.echo(f"{count} statement{'' if count == 1 else 's'} ran.")


def _in_one_line(error: Exception) -> str:
    notes = " ".join(getattr(error, "__notes__", ()))
    told = f"{type(error).__name__}: {error}" + (f" ({notes})" if notes else "")
    return " ".join(told.split())
