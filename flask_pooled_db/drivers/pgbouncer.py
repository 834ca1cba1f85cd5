"""psycopg 3 behind a pooler such as pgbouncer, which gives each transaction any of its sessions.

What a transaction leaves in its session is met by whichever program has that session next. So
nothing is set for longer than a transaction, and each begins with what it is to have.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, cast

from flask_pooled_db.drivers.base import Session
from flask_pooled_db.drivers.psycopg import PsycopgDriver
from flask_pooled_db.drivers.sessionstate import left_in_session
from flask_pooled_db.errors import UsageError

_LIMITS = "_pooled_db_limits"  # an attribute of a connection
_LIMITS_TRANSACTIONS = 170000
"""The first version that limits whole transactions, also those that are at work."""

_NO_PREPARING = "can't be set: a statement that is prepared stays in a session of the proxy's"
_OF_ROLE = "set it for the role, by ALTER ROLE ... SET"
_REFUSED = {
    "options": f"can't be set: it is for one session of the proxy's many; {_OF_ROLE}",
    "prepare_threshold": f"{_NO_PREPARING}; remove it",
    "target_session_attrs": "can't be set: the proxy chooses the server of each transaction; name "
    "the servers in the proxy's own configuration",
}


class Limits(NamedTuple):
    """The time limits, in seconds, that each transaction of a connection begins with; 0: none."""

    statement: float = 0.0
    transaction: float = 0.0

    def settings(self, version: int) -> list[str]:
        """Return what sets them until the end of a transaction."""
        found = []
        if self.statement:
            found.append(f"SET LOCAL statement_timeout={_milliseconds(self.statement)}")
        if self.transaction:
            limit = _milliseconds(self.transaction)
            found.append(f"SET LOCAL idle_in_transaction_session_timeout={limit}")
            if version >= _LIMITS_TRANSACTIONS:
                found.append(f"SET LOCAL transaction_timeout={limit}")
        return found


class ProxiedPsycopgDriver(PsycopgDriver):
    """psycopg behind a pooler in transaction mode: PROXY "transaction".

    A readonly scope is one READ ONLY transaction. The server keeps the time limits of statements,
    which are set in the round trip that begins their transaction.
    """

    has_readonly = True
    reads_by = "READ ONLY"
    begins_transactions = True
    recognizes_primary = False
    texts_tell_changes = False  # what would change a session is refused
    keeps_time = True
    cut_after = 0.5
    hides_schema = False
    why_no_schemas = (
        "its PROXY is 'transaction', and the schema is a state of the session, which is another "
        "one for each transaction: give the tenants databases or roles of their own, or write the "
        "schema before the name of each table"
    )
    refused_arguments: ClassVar = {**PsycopgDriver.refused_arguments, **_REFUSED}

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        problems = super().problems(arguments)
        if arguments.get("conninfo") and not problems:
            conninfo = importlib.import_module("psycopg.conninfo")
            inner = conninfo.conninfo_to_dict(arguments["conninfo"])
            problems += [
                f"the connect argument 'conninfo' has {name!r}, which {_REFUSED[name]}"
                for name in sorted(_REFUSED.keys() & inner.keys())
            ]
        return problems

    def set_up(self, raw: Any) -> None:
        raw.autocommit = False  # the application's own creator may have set it
        raw.prepare_threshold = None

    def limit_transactions(self, raw: Any, seconds: float) -> None:
        setattr(raw, _LIMITS, _limits(raw)._replace(transaction=seconds))

    def needs_interrupting(self, raw: Any) -> bool:
        return False

    def check_call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        while isinstance(function, functools.partial):
            if function.keywords.get("prepare"):
                raise _refusal("prepare=True", "leave it out")
            if "query" in function.keywords:
                args = (function.keywords["query"], *args)
            function = function.func
        if getattr(getattr(function, "__self__", None), "withhold", False) is True:
            raise _refusal("a cursor with withhold=True", "read it to its end in its block")
        if args and (left := left_in_session(args[0])):
            raise _refusal(left.what, left.instead)

    def ping(self, raw: Any) -> None:
        if self.is_queueing(raw):
            raw.execute("")
        else:
            self.run_batch(raw, "")

    def is_turned_away(self, error: BaseException) -> bool:
        return "query_wait_timeout" in str(error)  # its SQLSTATE is that of broken protocols

    # Transactions

    def isolation_statement(self, level: str) -> str:
        return f"ISOLATION LEVEL {level}"

    def begin(self, raw: Any, statement: str) -> None:
        self._begin(raw, f"BEGIN {statement}")

    def open_transaction(self, raw: Any) -> None:
        if not self.in_transaction(raw):
            self._begin(raw, "BEGIN")

    def set_savepoint(self, raw: Any, name: str) -> None:
        if self.in_transaction(raw):
            super().set_savepoint(raw, name)
        else:
            self._begin(raw, "BEGIN", f"SAVEPOINT {name}")

    def _begin(self, raw: Any, begin: str, *more: str) -> None:
        """Begin a transaction, and set its limits, in one round trip."""
        statements = [*_limits(raw).settings(raw.info.server_version), *more]
        if raw.isolation_level is None and raw.read_only is None and raw.deferrable is None:
            statements.insert(0, begin)
        else:
            super().open_transaction(raw)  # psycopg begins it as its caller has told it
        if statements:
            self.run_batch(raw, "; ".join(statements))

    def apply_session(self, raw: Any, old: Session, new: Session) -> None:
        if new.readonly != old.readonly:
            raise UsageError("a session behind a proxy can't be readonly: use a block for that")
        limits = _limits(raw)
        if limits.statement == new.statement_timeout:
            return
        limits = limits._replace(statement=new.statement_timeout)
        setattr(raw, _LIMITS, limits)
        if self.in_transaction(raw):
            seconds = new.statement_timeout
            value = _milliseconds(seconds) if seconds else "DEFAULT"
            self.execute(raw, f"SET LOCAL statement_timeout={value}")

    def reset_session(self, raw: Any, fresh: Any) -> bool:
        setattr(raw, _LIMITS, _limits(raw)._replace(statement=0.0))
        return True  # nothing was left in it


def _limits(raw: Any) -> Limits:
    return cast("Limits", getattr(raw, _LIMITS, Limits()))


def _milliseconds(seconds: float) -> int:
    return max(math.ceil(seconds * 1000), 1)


def _refusal(what: str, instead: str) -> UsageError:
    return UsageError(
        f"{what} can't be used with PROXY 'transaction': it would stay in a session that other "
        f"programs' transactions have next, and be missing from your own; {instead}"
    )
