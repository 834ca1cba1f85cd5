"""What a statement for PostgreSQL leaves in the session after its transaction.

The verdict is about the text alone. It can't see what a function, a procedure or a DO block does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from flask_pooled_db.drivers.effects import readings_of_postgresql


class Left(NamedTuple):
    """What would be left, and what to do instead."""

    what: str
    instead: str


_SETTING = "use SET LOCAL, which ends with the transaction, or set it for the role: ALTER ROLE"
_STATEMENTS = "run the statement itself"
_TEMPORARY = "a temporary object that outlives its transaction"

_BEGINS_WITH = (
    (r"set (?!local\b|transaction\b|constraints\b)", Left("SET without LOCAL", _SETTING)),
    (r"reset\b", Left("RESET", _SETTING)),
    (r"discard\b", Left("DISCARD", "leave it out: there is nothing of yours to discard")),
    (
        r"(?:un)?listen\b",
        Left("LISTEN", "use a connection of your own for it, past the proxy; NOTIFY works"),
    ),
    (r"prepare (?!transaction\b)", Left("PREPARE", _STATEMENTS)),
    (r"execute\b", Left("EXECUTE", _STATEMENTS)),
    (r"deallocate\b", Left("DEALLOCATE", _STATEMENTS)),
    (r"load\b", Left("LOAD", "have the server load it: session_preload_libraries")),
)

_TEMPORARY_NAME = r"(?:local |global )?(?:temp(?:orary)?\b|(?:table )?'?pg_temp\b)"

_CONTAINS = (
    (
        r"\bwith hold\b",
        Left("a cursor WITH HOLD", "read it to its end in its transaction, without HOLD"),
    ),
    (
        r"\bpg_(?:try_)?advisory_lock",
        Left(
            "an advisory lock of the session",
            "take one that ends with the transaction, by pg_advisory_xact_lock()",
        ),
    ),
    (r"\bupdate (?:only )?(?:pg_catalog ?[.] ?)?pg_settings\b", Left("a setting", _SETTING)),
    (
        rf"(?<!insert )(?<!merge )\binto {_TEMPORARY_NAME}",
        Left(_TEMPORARY, "use CREATE TEMPORARY TABLE ... ON COMMIT DROP AS SELECT"),
    ),
)

_MAKES_TEMPORARY = re.compile(
    r"create (?:or replace )?(?:(?:local |global )?temp(?:orary)?\b|.*\bpg_temp\b)"
)
_ENDS_WITH_TRANSACTION = "on commit drop"
_KEEPS = Left(_TEMPORARY, "use CREATE TEMPORARY TABLE ... ON COMMIT DROP")
_DEFINES = re.compile(r"create (?:or replace )?(?:function|procedure|view|rule|materialized)\b")
_SET_CONFIG = re.compile(r"\bset_config\b['\"]? ?\(")
_IS_LOCAL = re.compile(r"(?:true|'true'|'t'|'on')(?: ?:: ?bool(?:ean)?)?")
_SETS = Left("set_config() for longer than the transaction", "give it a literal true at its end")
_UNREADABLE = Left(
    "a statement whose text can't be read for certain",
    "write it without nested comments, U& names, and quotes that do not end",
)

_beginnings = [(re.compile(words), left) for words, left in _BEGINS_WITH]
_words = [(re.compile(words), left) for words, left in _CONTAINS]


def left_in_session(statement: Any) -> Left | None:
    """Return what a statement is sure or likely to leave; None if its text leaves nothing.

    It may be whatever psycopg takes. What psycopg does not take, it refuses itself.
    """
    text = _text_of(statement)
    if text is None:
        return None
    readings = readings_of_postgresql(text)
    if readings is None:
        return _UNREADABLE
    return next((left for reading in readings for left in _found(reading)), None)


def _text_of(statement: Any) -> str | None:
    if isinstance(statement, str):
        return str.__str__(statement)
    if isinstance(statement, bytes | bytearray):
        return statement.decode("utf-8", "replace")
    if hasattr(statement, "strings"):  # a template: its values are parameters, or names
        return " '' ".join(statement.strings)
    if hasattr(statement, "as_string"):
        with contextlib.suppress(Exception):  # psycopg raises it as well
            return str(statement.as_string(None))
    return None


def _found(reading: str) -> Iterator[Left]:
    if _DEFINES.match(reading):  # what is in it runs later
        if _MAKES_TEMPORARY.match(reading):
            yield _KEEPS
        return
    for piece in reading.split(";"):
        one = piece.strip("( ")
        yield from (left for pattern, left in _beginnings if pattern.match(one))
        yield from (left for pattern, left in _words if pattern.search(one))
        if _MAKES_TEMPORARY.match(one) and _ENDS_WITH_TRANSACTION not in one:
            yield _KEEPS
        if any(not _is_local(one[call.end() :]) for call in _SET_CONFIG.finditer(one)):
            yield _SETS


def _is_local(rest: str) -> bool:
    """Return whether the last of three arguments, of which `rest` is what follows the parenthesis
    before them, is a literal that stands for true.
    """
    depth, begin, arguments = 0, 0, []
    for at, character in enumerate(rest):
        if character in "([":
            depth += 1
        elif character in ")]" and depth:
            depth -= 1
        elif character in ",)" and not depth:
            arguments.append(rest[begin:at].strip())
            begin = at + 1
            if character == ")":
                break
    return len(arguments) == 3 and bool(_IS_LOCAL.fullmatch(arguments[-1]))
