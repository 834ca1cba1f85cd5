"""The group of the commands `flask pooled-db ...`, and what all of them share."""

from __future__ import annotations

import math
from typing import Any

import click
from flask.cli import AppGroup

from flask_pooled_db.errors import PooledDBError


class Seconds(click.FloatRange):
    """A number of seconds: click takes "nan" and "inf" for numbers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return found


class Commands(AppGroup):
    """Commands whose errors, if they are the extension's, are one line for people."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except PooledDBError as error:
            raise click.ClickException(in_one_line(error)) from error


group = Commands("pooled-db", help="Work with the databases of this app.")


def in_one_line(error: BaseException) -> str:
    """Return what went wrong, as one line for people."""
    notes = " ".join(getattr(error, "__notes__", ()))
    told = f"{type(error).__name__}: {error}" + (f" ({notes})" if notes else "")
    return " ".join(told.split())
