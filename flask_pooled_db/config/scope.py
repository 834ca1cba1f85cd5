"""The options of one scope, as `db_connection_context()` takes them."""

from __future__ import annotations

from typing import NamedTuple

from flask_pooled_db.config.checks import is_seconds
from flask_pooled_db.errors import UsageError

ISOLATION_LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


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

    def check(self) -> None:
        """Raise `UsageError` if the options have wrong values or contradict each other."""
        for name in ("timeout", "statement_timeout"):
            value = getattr(self, name)
            if value is not None and not is_seconds(value):
                raise UsageError(f"{name} must be a number of seconds, 0 or more")
        if self.isolation_level is None:
            return
        if self.isolation_level not in ISOLATION_LEVELS:
            raise UsageError(f"isolation_level must be one of {', '.join(ISOLATION_LEVELS)}")
        if self.readonly:
            raise UsageError(
                "isolation_level has no meaning with readonly=True: there, each statement is a "
                "transaction of its own; leave one of them out"
            )


DEFAULT_OPTIONS = ScopeOptions()
"""The options of most scopes. They need no check."""
