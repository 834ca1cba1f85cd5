"""The options of one scope, as `db_connection_context()` takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple, TypedDict

from flask_pooled_db.config.arguments import check_flag, check_rows, check_seconds
from flask_pooled_db.config.rows import Rows
from flask_pooled_db.errors import UsageError

ISOLATION_LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


class ScopeKeywords(TypedDict, total=False):
    """The options of a scope, as keywords of a function that passes them on: see `ScopeOptions`."""

    readonly: bool
    timeout: float | None
    statement_timeout: float | None
    isolation_level: str | None
    savepoint: bool
    independent: bool
    rows: Rows | None


class ScopeOptions(NamedTuple):
    """What a scope may ask for, apart from its bind. Durations are seconds.

    It is a tuple so that comparing it with the defaults, which most scopes use, takes no Python
    code.
    """

    readonly: bool = False
    timeout: float | None = None
    statement_timeout: float | None = None
    isolation_level: str | None = None
    savepoint: bool = True
    independent: bool = False
    rows: Rows | None = None

    def check(self) -> None:
        """Raise `UsageError` if the options have wrong values or contradict each other."""
        for name in ("timeout", "statement_timeout"):
            if getattr(self, name) is not None:
                check_seconds(name, getattr(self, name))
        for name in ("readonly", "savepoint", "independent"):
            check_flag(name, getattr(self, name))
        if self.rows is not None:
            check_rows("rows", self.rows)
        level = self.isolation_level
        if level is None:
            return
        if not isinstance(level, str) or level not in ISOLATION_LEVELS:
            raise UsageError(f"isolation_level must be one of {', '.join(ISOLATION_LEVELS)}")
        if self.readonly:
            raise UsageError(
                "isolation_level has no meaning with readonly=True: there, each statement is a "
                "transaction of its own; leave one of them out"
            )


DEFAULT_OPTIONS = ScopeOptions()
"""The options of most scopes. They need no check."""


def refuse_unknown(function: str, keywords: ScopeKeywords) -> None:
    """Raise the error that Python has for a function which lists its parameters, if one of these is
    no option.
    """
    for name in keywords:
        if name not in ScopeKeywords.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def options_of(function: str, keywords: ScopeKeywords) -> ScopeOptions:
    """Return the options that the function of this name was given."""
    refuse_unknown(function, keywords)
    return ScopeOptions(**keywords)


def signature_with_options(function: Callable[..., object]) -> inspect.Signature:
    """Return the signature of a function that takes the options as keywords, with each of them: it
    is shown by `help()` and by editors.
    """
    taken = inspect.signature(function)
    known = [one for one in taken.parameters.values() if one.kind is not one.VAR_KEYWORD]
    options = inspect.signature(ScopeOptions).parameters.values()
    texts = [getattr(one.annotation, "__forward_arg__", one.annotation) for one in options]
    keywords = (
        one.replace(kind=one.KEYWORD_ONLY, annotation=text)
        for one, text in zip(options, texts, strict=True)
    )
    return taken.replace(parameters=[*known, *keywords])
