"""How a command prints the statements of a server's connections."""

from __future__ import annotations

import re

from flask_pooled_db.telemetry.shown import shown

LONGEST = 120
"""Characters of a statement that are printed."""

_MAY_HOLD_PASSWORD = re.compile(
    r"passw|identified|secret|credential|token|pgp_|encrypt|decrypt", re.IGNORECASE
)
_FIRST_WORD = re.compile(r"\s*(\w{1,20})")


def printable(statement: str) -> str:
    """Return a statement in one line, cut, with whatever a terminal could take for something else
    escaped; of one that may hold a password, its first word alone.
    """
    if _MAY_HOLD_PASSWORD.search(statement):
        word = _FIRST_WORD.match(statement)
        first = f"{shown(word[1])} " if word else ""
        return f"{first}... (not shown: it may hold a password)"
    line = " ".join(statement[: 4 * LONGEST].split())
    return shown(line if len(line) <= LONGEST else f"{line[:LONGEST]}...")
