"""How a log line shows the text of a statement."""

from __future__ import annotations

LONGEST = 1000
"""Characters of a text that are shown."""


def shown(text: str) -> str:
    """Return a text in one line, cut, with whatever could be taken for something else escaped."""
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return cut if cut.isprintable() else "".join(map(_escaped, cut))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def rows(count: int | None) -> str:
    """Return how a message tells a number of rows."""
    if count is None:
        return "rows not known"
    return "1 row" if count == 1 else f"{count} rows"
