"""A statement by text, and what that says."""

from __future__ import annotations

from typing import NamedTuple

from flask_pooled_db.drivers.effects import Effect

NONE, UNKNOWN = Effect.NONE, Effect.UNKNOWN
COMMITS, UNDOES, BEGINS = Effect.COMMITS, Effect.UNDOES, Effect.BEGINS
CHANGES, LOCKS, DISTRIBUTES = Effect.CHANGES_SESSION, Effect.LOCKS, Effect.DISTRIBUTES
LISTENS = Effect.LISTENS


class Case(NamedTuple):
    """A statement, what its text says, and what has to run in the session before."""

    text: str
    effect: Effect
    before: tuple[str, ...] = ()
