"""The texts of statements, as they may be shown: without what is a parameter."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any

_SCRIPT = "executescript"
_PROCEDURE = "callproc"
_LITERAL = "Literal"  # psycopg's and psycopg2's class of values that are composed into a text
# What limits the time of a call, or begins a transaction with it, is given it as its last argument.
_AROUND = frozenset({"_run_limited", "begin_with"})

# Statements about accounts and keys take no parameters.
_QUOTED = r"""(?:'(?:[^'\\]|\\.|'')*+'|"(?:[^"\\]|\\.|"")*+")"""
_FLAGS = re.IGNORECASE | re.DOTALL
_PASSWORD = re.compile(rf"(\b(?:password|key)\b[\s=(]*+){_QUOTED}", _FLAGS)
_IDENTIFIED = re.compile(r"\bidentified\b", _FLAGS)
_IDENTIFIED_BY = re.compile(rf"(\b(?:by|as|using)\b[\s=(]*+){_QUOTED}", _FLAGS)
_ADMINISTERS = re.compile(
    r"(?:\s|\(|/\*.*?\*/|--[^\n]*\n)*+(?:alter|change|create|drop|grant|rename|set)\b", _FLAGS
)
_SECRETS = re.compile(r"password|identified|\bkey\b|secret|connection", _FLAGS)
_LITERAL_OF_ANY_KIND = re.compile(rf"{_QUOTED}|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$", _FLAGS)
_HIDDEN = "?"


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a call comes down to: the driver's own function."""
    while isinstance(function, functools.partial):
        function = _inside(function)
    return function


def has_keywords(function: Callable[..., Any]) -> bool:
    """Return whether a call has keyword arguments."""
    while isinstance(function, functools.partial):
        if function.keywords:
            return True
        function = _inside(function)
    return False


def _inside(function: functools.partial[Any]) -> Any:
    return function.args[-1] if _name(function.func) in _AROUND else function.func


def _name(function: Any) -> str:
    return getattr(function, "__name__", "")


def text_of(function: Callable[..., Any], args: tuple[Any, ...], raw: Any) -> str:
    """Return the text of the statement that is run by a function of the driver's with these
    arguments; the name of the function if there is none.
    """
    if args:
        return shown_text(args[0], raw)
    name = _name(innermost(function))
    given = function
    while isinstance(given, functools.partial):
        first = next(iter((*given.args, *given.keywords.values())), None)
        if isinstance(first, str) and name == _SCRIPT:
            return _without_passwords(first)
        if isinstance(first, str) and name == _PROCEDURE:
            return f"CALL {first}"
        given = _inside(given)
    return f"{name}()"


def shown_text(statement: Any, raw: Any) -> str:
    """Return the text of a statement in whatever form the driver takes. A value that psycopg has
    composed into it is hidden, like a parameter.
    """
    if isinstance(statement, str):
        return _without_passwords(str.__str__(statement))
    if isinstance(statement, bytes | bytearray):
        return _without_passwords(statement.decode("utf-8", "replace"))
    with contextlib.suppress(Exception):  # it was sent all the same
        if type(statement).__name__ == _LITERAL:
            return _HIDDEN
        if hasattr(statement, "strings"):  # a template string
            return _HIDDEN.join(statement.strings)
        if hasattr(statement, "as_string"):
            parts = list(statement) if hasattr(statement, "__iter__") else []
            if parts:
                return "".join(shown_text(part, raw) for part in parts)
            return _without_passwords(str(statement.as_string(raw)))
    return f"a statement of type {type(statement).__name__}"


def _without_passwords(text: str) -> str:
    if _ADMINISTERS.match(text) and _SECRETS.search(text):
        return _LITERAL_OF_ANY_KIND.sub(_HIDDEN, text)  # wherever a password stands in it
    text = _PASSWORD.sub(r"\1?", text)
    return _IDENTIFIED_BY.sub(r"\1?", text) if _IDENTIFIED.search(text) else text
