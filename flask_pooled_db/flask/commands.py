"""The commands `flask pooled-db ...`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click
from flask.cli import AppGroup

from flask_pooled_db.config import shown
from flask_pooled_db.flask.context import current

group = AppGroup("pooled-db", help="Work with the databases of this app.")


@group.command()
@click.argument("file")
@click.option("--bind", metavar="NAME", help="Which database; the default one if left out.")
def run(file: str, bind: str | None) -> None:
    """Run the SQL statements of FILE, relative to this directory or else to the app's. If FILE is
    "-", they are read from standard input.
    """
    try:
        count = current()[0].extension.run_script(_source(file), bind)
    except Exception as error:  # drivers raise more than their own classes
        raise click.ClickException(_in_one_line(error)) from error
    click.echo(f"{count} statement{'' if count == 1 else 's'} ran.")


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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        click.echo("  ".join(cells).rstrip())


def _source(file: str) -> Path | BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    path = Path(file)
    return path.absolute() if path.exists() else path


def _in_one_line(error: Exception) -> str:
    notes = " ".join(getattr(error, "__notes__", ()))
    told = f"{type(error).__name__}: {error}" + (f" ({notes})" if notes else "")
    return " ".join(told.split())
