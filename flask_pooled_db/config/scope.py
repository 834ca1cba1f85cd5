"""The options of one scope, as `db_connection_context()` takes them."""

from __future__ import annotations

from collections.abc import Iterable
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


OPTION_NAMES = frozenset(ScopeKeywords.__annotations__)
"""The names of the options of a scope."""


def unknown_option(method: str, keywords: Iterable[str]) -> TypeError:
    """Return the error that Python has for a method which lists its options, if one of these is not
    among them.
    """
    name = next(name for name in keywords if name not in OPTION_NAMES)
    return TypeError(f"{method}() got an unexpected keyword argument {name!r}")


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
