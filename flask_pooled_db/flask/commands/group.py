"""The group of the commands `flask pooled-db ...`, and what all of them share."""

from __future__ import annotations

from flask.cli import AppGroup

group = AppGroup("pooled-db", help="Work with the databases of this app.")


def in_one_line(error: BaseException) -> str:
    """Return what went wrong, as one line for people."""
    notes = " ".join(getattr(error, "__notes__", ()))
    told = f"{type(error).__name__}: {error}" + (f" ({notes})" if notes else "")
    return " ".join(told.split())
