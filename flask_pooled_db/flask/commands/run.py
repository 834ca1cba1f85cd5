"""`flask pooled-db run`: the statements of a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from flask_pooled_db.flask.commands.group import group, in_one_line
from flask_pooled_db.flask.context import current


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
        raise click.ClickException(in_one_line(error)) from error
    click.echo(f"{count} statement{'' if count == 1 else 's'} ran.")


def _source(file: str) -> Path | BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    path = Path(file)
    return path.absolute() if path.exists() else path
