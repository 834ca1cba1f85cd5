"""How a script for SQLite is read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flask_pooled_db.drivers.scripts import Dialect, Span, Statement, statements_at
from flask_pooled_db.drivers.sqlite_cursors import statements_of

_BLANK = re.compile(r"(?>[\s;\ufeff]++|--[^\n]*+|/\*(?>.*?\*/|.*))*+", re.DOTALL)


def _skip_blank(script: str, position: int) -> int:
    found = _BLANK.match(script, position)
    return position if found is None else found.end()


def _spans(script: str) -> Iterator[Span]:
    end = 0
    for statement in statements_of(script):
        start, end = end, end + len(statement)
        yield start, end


def of_sqlite(script: str) -> Iterator[Statement]:
    """Return the statements of a script for SQLite."""
    return statements_at(script, _spans(script), _skip_blank)


SQLITE = Dialect(of_sqlite)
