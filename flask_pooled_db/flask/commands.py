"""The commands `flask pooled-db ...`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click
from flask.cli import AppGroup

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


def _source(file: str) -> Path | BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    path = Path(file)
    return path.absolute() if path.exists() else path


def _in_one_line(error: Exception) -> str:
    notes = " ".join(getattr(error, "__notes__", ()))
    told = f"{type(error).__name__}: {error}" + (f" ({notes})" if notes else "")
    return " ".join(told.split())
