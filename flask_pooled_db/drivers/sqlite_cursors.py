"""Cursors of SQLite whose scripts are run statement by statement.

Like the connections, they are mixed into the classes of a module that is built like sqlite3.
"""

from __future__ import annotations

import functools
import re
import sqlite3
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from sqlite3 import Cursor as PlainCursor
else:
    PlainCursor = object

# Up to a semicolon that is neither in a comment nor quoted. Each character is read once.
_UP_TO_SEMICOLON = re.compile(
    r"""
    (?: [^;'"`\[/\-]++
      | '[^']*+' | "[^"]*+" | `[^`]*+` | \[[^\]]*+\]
      | /(?!\*) | /\*.*?\*/ | -(?!-) | --[^\n]*+
    )*+;
    """,
    re.DOTALL | re.VERBOSE,
)
_IN_TRIGGER = "CREATE TRIGGER;"  # what `complete_statement` has to know of a trigger's beginning


def statements_of(script: str) -> Iterator[str]:
    """Return the statements of a script, the last one also without an end."""
    start, end, beginning = 0, 0, ""
    while part := _UP_TO_SEMICOLON.match(script, end):
        end = part.end()
        if sqlite3.complete_statement(beginning + part[0]):
            yield script[start:end]
            start, beginning = end, ""
        else:  # a semicolon does not end it: it is a trigger
            beginning = _IN_TRIGGER
    yield script[start:]


class WatchedCursor(PlainCursor):
    """A cursor whose scripts are part of the transaction, or begin by ending it."""

    connection: Any
    plain: ClassVar[type[sqlite3.Cursor]]
    """The module's own class of cursors."""

    def executescript(self, sql_script: str) -> Any:
        """Run the statements one by one: sqlite3 would compile them itself."""
        if not self.connection.is_adopted:
            return super().executescript(sql_script)
        with self.connection.in_script():
            for statement in statements_of(sql_script):
                super().execute(statement)
                super().fetchall()  # some statements do their work row by row
        return self


@functools.lru_cache(maxsize=64)
def with_scripts(kind: Any, own: Any) -> Any:
    """Return an application's class of cursors with our own `executescript` beneath it."""
    if not issubclass(kind, own.plain) or issubclass(kind, own):
        return kind
    return own if kind is own.plain else beneath(kind, own)


def beneath(kind: type, own: type) -> type:
    """Return an application's class with one of ours beneath it."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return types.new_class(kind.__name__, (kind, own), exec_body=lambda body: body.update(names))
