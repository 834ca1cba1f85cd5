"""What a statement for PostgreSQL leaves in the session after its transaction.

The verdict is about the text alone. It can't see what a function, a procedure or a DO block does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from flask_pooled_db.drivers.effects import UPDATES_SETTINGS, readings_of_postgresql


class Left(NamedTuple):
    """What would be left, and what to do instead."""

    what: str
    instead: str


_SETTING = "use SET LOCAL, which ends with the transaction, or set it for the role: ALTER ROLE"
_STATEMENTS = "run the statement itself"
_TEMPORARY = "a temporary object that outlives its transaction"

# A text is looked at in lower case, without comments. A literal is '' there, or '...' if it is a
# word, and a quoted name is "" or "...".
_TEMP = r"(?:local |global )?temp(?:orary)?\b"
_TEMPORARY_SCHEMA = r"""(?:"?\w+"? ?[.] ?)?"?\bpg_temp(?:_\d+)?\b"? ?[.]"""

_BEGINS_WITH = (
    # What is set may itself be called "local.x".
    (r"""set (?!(?:local|transaction|constraints) [\w"'])""", Left("SET without LOCAL", _SETTING)),
    (
        r"""set local (?:search_path(?: ?= ?| to )|schema )["']?pg_temp\b""",
        Left(_TEMPORARY, "name pg_temp before that object alone, or last in the search path"),
    ),
    (r"reset\b", Left("RESET", _SETTING)),
    (r"discard\b", Left("DISCARD", "leave it out: there is nothing of yours to discard")),
    (
        r"(?:un)?listen\b",
        Left("LISTEN", "use a connection of your own for it, past the proxy; NOTIFY works"),
    ),
    (r"prepare (?!transaction ')", Left("PREPARE", _STATEMENTS)),
    (r"execute\b", Left("EXECUTE", _STATEMENTS)),
    # It follows the first AS: a later one may name a column.
    (
        r"""create (?:\w+ ){0,2}table (?:(?!\bas\b(?!")).)*\bas execute\b""",
        Left("EXECUTE", _STATEMENTS),
    ),
    (r"deallocate\b", Left("DEALLOCATE", _STATEMENTS)),
    (r"load\b", Left("LOAD", "have the server load it: session_preload_libraries")),
)

_CONTAINS = (
    (
        r"\bcursor with hold for\b",
        Left("a cursor WITH HOLD", "read it to its end in its transaction, without HOLD"),
    ),
    (
        r"""\bpg_(?:try_)?advisory_lock(?:_shared)?\b"? ?[(]""",
        Left(
            "an advisory lock of the session",
            "take one that ends with the transaction, by pg_advisory_xact_lock()",
        ),
    ),
    (UPDATES_SETTINGS, Left("a setting", _SETTING)),
    (
        rf"(?<!insert )(?<!merge )\binto (?:{_TEMP}|(?:table )?{_TEMPORARY_SCHEMA})",
        Left(_TEMPORARY, "use CREATE TEMPORARY TABLE ... ON COMMIT DROP AS SELECT"),
    ),
)

# A view is temporary if anything is that it reads; of other objects their own name tells.
_MAKES_TEMPORARY = re.compile(
    rf"""
    create\ (?:or\ replace\ )?(?:
        (?-x:{_TEMP})
      | (?:recursive\ )?view\ .*(?-x:{_TEMPORARY_SCHEMA})
      | (?:(?!as\ |on\ )\w+\ )+?(?-x:{_TEMPORARY_SCHEMA})
    )""",
    re.VERBOSE,
)
_ENDS_WITH_TRANSACTION = "on commit drop"
_KEEPS = Left(_TEMPORARY, "use CREATE TEMPORARY TABLE ... ON COMMIT DROP")
_EXPLAINS = re.compile(r"explain\b ?(?:\([^()]*\) ?|analy[sz]e |verbose )*")
# What these say runs later, or never. A materialized view runs its query at once.
_DEFINES = re.compile(
    rf"create (?:or replace )?(?:(?:{_TEMP} )?(?:recursive )?view|rule"
    r"|(?P<routine>function|procedure)|(?:constraint )?trigger|policy)\b"
    r"|create .* with no data\Z|(?:grant|revoke|comment|drop)\b"
)
# Its END follows a semicolon, or itself.
_BEGINS_BODY = re.compile(r"\bbegin atomic\b(?! end\b)")
_ENDS_BODY = re.compile(r"end\b")
_SET_CONFIG = re.compile(r"""\bset_config\b"? ?\(""")
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
    for piece, runs in _pieces(reading):
        one = _EXPLAINS.sub("", piece, count=1) if _EXPLAINS.match(piece) else piece
        yield from (left for pattern, left in _beginnings if pattern.match(one))
        if _MAKES_TEMPORARY.match(one) and _ENDS_WITH_TRANSACTION not in one:
            yield _KEEPS
        if runs:
            yield from (left for pattern, left in _words if pattern.search(one))
            if any(not _is_local(one[call.end() :]) for call in _SET_CONFIG.finditer(one)):
                yield _SETS


def _pieces(reading: str) -> Iterator[tuple[str, bool]]:
    """Yield what stands between two semicolons, and whether it runs at once: what is in the body of
    a definition does not. A body may have semicolons of its own, in the parentheses of a rule, or
    between BEGIN ATOMIC and END.
    """
    defines: re.Match[str] | None = None
    depth, is_in_body = 0, False
    for piece in reading.split(";"):
        one = piece.strip("( ")
        if is_in_body:
            is_in_body = not _ENDS_BODY.match(one)
            yield one, False
            continue
        if not depth:
            defines = _DEFINES.match(one)
        if defines and defines["routine"]:
            is_in_body = any(
                not _open_parentheses(piece[: found.start()])
                for found in _BEGINS_BODY.finditer(piece)
            )
        if defines:
            depth += _open_parentheses(piece)
        yield one, not defines


def _open_parentheses(text: str) -> int:
    return text.count("(") - text.count(")")


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
