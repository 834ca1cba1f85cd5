"""The group of the commands `flask pooled-db ...`, and what all of them share."""

from __future__ import annotations

import math
from typing import Any

import click
from flask.cli import AppGroup

from flask_pooled_db.errors import PooledDBError


class Seconds(click.ParamType):  # type: ignore[type-arg]  # of newer releases of click
    """A number of seconds. click's own type takes "nan" and "inf" for numbers."""

    name = "seconds"

    def __init__(self, least: float = 0.0, *, is_above: bool = False) -> None:
        self._least = least
        self._above = least if is_above else None
        self._wanted = f"more than {least:g}" if is_above else f"{least:g} or more"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        try:
            found = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a valid float", param, ctx)
        if not self._least <= found < math.inf or found == self._above:
            self.fail(f"it must be a number of seconds, {self._wanted}", param, ctx)
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
