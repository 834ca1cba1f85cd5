"""psycopg 3: where it connects, what its errors mean, and how to read its state."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, cast

from flask_pooled_db.drivers import libpq
from flask_pooled_db.drivers.base import AUTOCOMMIT_REFUSED, Failure
from flask_pooled_db.drivers.effects import Effect, of_postgresql
from flask_pooled_db.drivers.postgresql_server import POSTGRESQL
from flask_pooled_db.drivers.psycopg_arguments import (
    names_of_arguments,
    parsed,
    seconds_for_each,
    where_of,
)
from flask_pooled_db.drivers.psycopg_connection import forgetting_prepared
from flask_pooled_db.drivers.psycopg_sessions import (
    ACTIVE,
    IDLE,
    IN_ERROR,
    IN_TRANSACTION,
    WithSessions,
)
from flask_pooled_db.drivers.sockets import Look, look_at_talkative
from flask_pooled_db.drivers.unknown import RETRYABLE_STATES, UNKNOWN_STATES

# The generators that hold their connection's lock while they are suspended.
_HOLD_LOCK = frozenset({"copy", "notifies", "stream"})

_INTERVAL = 0.1  # seconds after which psycopg looks for signals while it waits
_FALLBACK = "fallback_application_name"
_QUERY_CANCELED = "57014"
_CLOSED = "the connection is closed"
_READ_ONLY = "25006"  # also what a standby says to a write
# What is prepared does not fit the table any more, or is not there any more.
_STALE = frozenset({"0A000", "26000"})
_ENDS_SESSION = frozenset({"FATAL", "PANIC"})


def effects_of(statement: Any) -> Effect:
    """Return what a statement may do; psycopg composes some from parts."""
    if hasattr(statement, "as_string"):
        with contextlib.suppress(Exception):
            statement = statement.as_string(None)
    return of_postgresql(statement)


class PsycopgDriver(WithSessions):
    """psycopg 3.

    After an error in a statement, PostgreSQL refuses everything until a ROLLBACK, or a ROLLBACK TO
    an earlier savepoint, and silently turns COMMIT into ROLLBACK.
    """

    module = "psycopg"
    schemes = ("postgresql+psycopg", "postgresql", "postgres")
    how_to_install = "pip install 'flask-pooled-db[postgres]'"
    database_argument = "dbname"
    tells_transactions = True
    server: ClassVar = POSTGRESQL
    counts_rows = True
    inserts_many_by_text = False
    effects = staticmethod(effects_of)
    closed_error_name = "OperationalError"
    harmless = WithSessions.harmless | {
        "fileno",
        "xid",
        "close",
        "pipeline",
        "transaction",
        "set_deferrable",
        "set_read_only",
    }
    nesting: ClassVar = frozenset({"transaction"})
    from_any_thread: ClassVar = frozenset({"cancel", "cancel_safe"})
    refused_arguments: ClassVar = {"autocommit": AUTOCOMMIT_REFUSED}
    named_arguments: ClassVar = {
        "cursor_factory": ("psycopg", ("Cursor", "ClientCursor")),
        "row_factory": (
            "psycopg.rows",
            ("tuple_row", "dict_row", "namedtuple_row", "scalar_row"),
        ),
    }
    password_types: ClassVar = (str,)
    takes_password_file: ClassVar = True
    advice: ClassVar = {
        **dict.fromkeys(("database", "db"), "it is called 'dbname'"),
        "charset": "it is called 'client_encoding'",
        "ssl_ca": "it is called 'sslrootcert'",
    }

    def __init__(
        self, creator: Any, dbapi: ModuleType, arguments: dict[str, Any], timeout: float
    ) -> None:
        super().__init__(creator, dbapi, arguments, timeout)
        self.iterates_cursors = True
        self.extend_connections()
        self._where = where_of(arguments)
        # An application's own function, or its own time limit, is its own affair.
        self._sets_limit = self._is_module_connect and "connect_timeout" not in self._where

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        problems = super().problems(arguments)
        try:
            where_of(arguments)
        except Exception:  # noqa: BLE001  its text holds a part of the argument, maybe the password
            problems.append("the connect argument 'conninfo' can't be parsed: correct it")
        return problems

    @classmethod
    def names_of_arguments(
        cls, dbapi: ModuleType, given: Collection[str]
    ) -> Collection[str] | None:
        return names_of_arguments(dbapi)

    @classmethod
    def objection(cls, dbapi: ModuleType, name: str, value: Any) -> str:
        if name != "conninfo":
            return libpq.objection(name, value)
        with contextlib.suppress(Exception):  # `problems` has told that it can't be parsed
            for inner, text in parsed(value).items():
                if words := libpq.objection(inner, text):
                    return f"of its {inner!r}: {words}"
        return ""

    def connect(self, where: Mapping[str, Any] = MappingProxyType({})) -> Any:
        if self._sets_limit:
            where = {
                "connect_timeout": seconds_for_each({**self._where, **where}, self.connect_timeout),
                **where,
            }
        return super().connect(where)

    def introduction(self) -> Mapping[str, Any]:
        # libpq takes it unless it finds an application_name: in the arguments, in PGAPPNAME, or in
        # the file of a service.
        has_own = _FALLBACK in parsed(self._arguments.get("conninfo"))
        return {} if has_own else {_FALLBACK: self.label()}

    def keeps_texts(self, raw: Any) -> bool:
        return raw.prepare_threshold is not None

    def reads_percent(self, cursor: Any) -> bool:
        return not isinstance(cursor, getattr(self.dbapi, "RawCursor", ()))

    def with_comment(self, sql: Any, comment: str, *, many: bool) -> Any:
        if not hasattr(sql, "as_string"):
            return super().with_comment(sql, comment, many=many)
        module = cast("Any", importlib.import_module("psycopg.sql"))
        return sql + module.SQL(f"\n{comment}")

    def is_transient(self, error: BaseException) -> bool:
        is_refusal = isinstance(error, self.Error) and libpq.is_refusal(error)
        return super().is_transient(error) and not is_refusal

    def fileno(self, raw: Any) -> int | None:
        return None if raw.closed else int(raw.fileno())

    def look(self, raw: Any) -> Look:
        # The server may send notices, notifications and changed settings at any time:
        # https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC
        return look_at_talkative(self.fileno(raw))

    def classify(self, raw: Any, error: BaseException) -> Failure:
        if raw.closed:
            return Failure.LOST
        if not isinstance(error, self.Error):
            # It came before anything was sent, or after all was read, unless a statement runs.
            return Failure.STATEMENT if self._is_in_step(raw) else Failure.LOST
        if isinstance(error, cast("Any", self.dbapi).errors.PipelineAborted):
            return Failure.STATEMENT  # was skipped, after another one that failed
        if state := getattr(error, "sqlstate", None):
            return self._meaning(raw, state, error)
        # psycopg's own refusals are of these classes. Others come from a broken answer.
        refusals = (*self.statement_errors, cast("Any", self.dbapi).InterfaceError)
        return Failure.STATEMENT if isinstance(error, refusals) else Failure.LOST

    def _meaning(self, raw: Any, state: str, error: Any) -> Failure:
        """Return what an error of the server means, by its SQLSTATE."""
        # What ends the session is FATAL, whatever its state: it took too long, was idle for long.
        if state.startswith(UNKNOWN_STATES) or error.diag.severity_nonlocalized in _ENDS_SESSION:
            return Failure.LOST
        if state == _READ_ONLY and self.wants_primary and not raw.autocommit:
            return Failure.UNUSABLE
        if state in _STALE and (forget := forgetting_prepared(raw)):
            forget(is_gone=False)  # else each further try fails, until a ROLLBACK
        return Failure.STATEMENT

    def never_sent(self, raw: Any, error: BaseException) -> bool:
        # psycopg looks before it sends.
        return bool(raw.closed) and str(error) == _CLOSED

    def _is_in_step(self, raw: Any) -> bool:
        return raw.pgconn.transaction_status in (IDLE, IN_TRANSACTION, IN_ERROR)

    def is_retryable(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) in RETRYABLE_STATES

    def server_id(self, raw: Any) -> int | None:
        return int(raw.info.backend_pid)

    def plain_cursor(self, raw: Any) -> Any:
        rows = cast("Any", importlib.import_module("psycopg.rows"))
        return raw.cursor(row_factory=rows.tuple_row)

    def is_interruption(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == _QUERY_CANCELED

    def ending(self, raw: Any) -> Callable[[Callable[[], Any]], object] | None:
        cancel = self._cancel_later(raw)  # the connection may be closed by then
        return lambda _: cancel()

    def interrupt(self, raw: Any, helper: Callable[[], Any]) -> None:
        self._cancel_later(raw)()

    def _cancel_later(self, raw: Any) -> Callable[[], object]:
        """Return what asks the server to end the statement that is running."""
        api = cast("Any", self.dbapi)
        known = getattr(api, "capabilities", None)
        if known is None or not known.has_cancel_safe():
            # It holds the interpreter until the server answers: older releases have nothing else.
            cancel: Callable[[], object] = raw.pgconn.get_cancel().cancel
            return cancel
        request = raw.pgconn.cancel_conn()

        def ask() -> None:
            request.start()
            asking = api.generators.cancel(request)
            api.waiting.wait_conn(asking, interval=_INTERVAL, timeout=self.connect_timeout)

        return ask

    def time_is_up(self, seconds: float, error: Exception | None = None) -> Exception:
        # It has to have its number: an error without one counts as a lost connection.
        text = str(super().time_is_up(seconds))
        return error or cast("Any", self.dbapi).errors.QueryCanceled(text)

    # A procedure may commit, but not in a transaction that was open before.
    routines_end_nothing = True

    def is_bare(self, raw: Any, thing: Any) -> bool:
        return thing is raw.pgconn

    def has_unread_rows(self, raw: Any) -> bool:
        # While it streams, copies or waits for notifications, psycopg would let every other
        # statement wait for good. It holds its lock while anybody reads on.
        return bool(raw.lock.locked() or self._is_active(raw))

    def _is_active(self, raw: Any) -> bool:
        return raw.pgconn.transaction_status == ACTIVE and not self.is_queueing(raw)

    def would_wait(self, raw: Any, thing: Any) -> bool:
        if not raw.lock.locked() or isinstance(thing, cast("Any", self.dbapi).Copy):
            return False
        code = getattr(thing, "gen", thing)  # of a block
        if inspect.isgenerator(code):
            takes_lock = code.gi_code.co_name in _HOLD_LOCK
            has_lock = takes_lock and code.gi_suspended
            return not has_lock and (takes_lock or code is not thing)
        return hasattr(thing, "name") or not hasattr(thing, "fetchone")

    def is_queueing(self, raw: Any) -> bool:
        return bool(raw.pgconn.pipeline_status)

    def finish_reading(self, raw: Any) -> None:
        if self.is_queueing(raw):
            with raw.pipeline() as pipeline:  # inside the other one
                pipeline.sync()

    def execute(self, raw: Any, sql: str) -> None:
        super().execute(raw, sql)
        self.finish_reading(raw)

    def finish_handle(self, raw: Any, thing: Any) -> None:
        if self._is_active(raw):
            super().finish_handle(raw, thing)
        else:
            thing.close()  # notifications have no end

    def refuses_commit(self, raw: Any) -> bool:
        return bool(raw.pgconn.transaction_status == IN_ERROR)
