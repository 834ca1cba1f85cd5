"""psycopg 3, with the guarantees of an unknown module and what it knows of its own state."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
import socket
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, cast

from flask_pooled_db.drivers import libpq
from flask_pooled_db.drivers.base import AUTOCOMMIT_REFUSED, Driver, Failure, Session
from flask_pooled_db.drivers.effects import Effect, of_postgresql
from flask_pooled_db.drivers.sockets import Look, look_at_talkative
from flask_pooled_db.drivers.unknown import RETRYABLE_STATES, UNKNOWN_STATES

# libpq's transaction status: https://www.postgresql.org/docs/current/libpq-status.html
_IDLE, _ACTIVE, _IN_TRANSACTION, _IN_ERROR = range(4)

# The generators that hold their connection's lock while they are suspended.
_HOLD_LOCK = frozenset({"copy", "notifies", "stream"})

_FALLBACK = "fallback_application_name"
_QUERY_CANCELED = "57014"


def effects_of(statement: Any) -> Effect:
    """Return what a statement may do; psycopg composes some from parts."""
    if hasattr(statement, "as_string"):
        with contextlib.suppress(Exception):
            statement = statement.as_string(None)
    return of_postgresql(statement)


class PsycopgDriver(Driver):
    """psycopg 3.

    After an error in a statement, PostgreSQL refuses everything until a ROLLBACK, or a ROLLBACK TO
    an earlier savepoint, and silently turns COMMIT into ROLLBACK.
    """

    module = "psycopg"
    schemes = ("postgresql+psycopg", "postgresql", "postgres")
    how_to_install = "pip install psycopg"
    database_argument = "dbname"
    tells_transactions = True
    counts_rows = True
    inserts_many_by_text = False
    effects = staticmethod(effects_of)
    closed_error_name = "OperationalError"
    harmless = Driver.harmless | {
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
        self._where = _params(arguments)
        # An application's own function, or its own time limit, is its own affair.
        self._sets_limit = self._is_module_connect and "connect_timeout" not in self._where

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        problems = super().problems(arguments)
        try:
            _params(arguments)
        except Exception:  # noqa: BLE001  its text holds a part of the argument, maybe the password
            problems.append("the connect argument 'conninfo' can't be parsed: correct it")
        return problems

    @classmethod
    def names_of_arguments(
        cls, dbapi: ModuleType, given: Collection[str]
    ) -> Collection[str] | None:
        return _names_of_arguments(dbapi)

    @classmethod
    def objection(cls, dbapi: ModuleType, name: str, value: Any) -> str:
        if name != "conninfo":
            return libpq.objection(name, value)
        with contextlib.suppress(Exception):  # `problems` has told that it can't be parsed
            for inner, text in _parse(value).items():
                if words := libpq.objection(inner, text):
                    return f"of its {inner!r}: {words}"
        return ""

    def connect(self, where: Mapping[str, Any] = MappingProxyType({})) -> Any:
        if self._sets_limit:
            where = {"connect_timeout": self._limit({**self._where, **where}), **where}
        return super().connect(where)

    def introduction(self) -> Mapping[str, Any]:
        # libpq takes it unless it finds an application_name: in the arguments, in PGAPPNAME, or in
        # the file of a service.
        has_own = _FALLBACK in _parse(self._arguments.get("conninfo"))
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

    def _limit(self, where: Mapping[str, Any]) -> int:
        """Return how long one address may take, for psycopg tries each that a name has. It takes
        whole seconds, and two at least.
        """
        addresses = _count_addresses(where)
        share = self.connect_timeout / addresses
        return max(math.ceil(share) if addresses == 1 else int(share), 1)

    def is_transient(self, error: BaseException) -> bool:
        is_refusal = isinstance(error, self.Error) and libpq.is_refusal(error)
        return super().is_transient(error) and not is_refusal

    def set_up(self, raw: Any) -> None:
        raw.autocommit = False  # the application's own creator may have set it

    def fileno(self, raw: Any) -> int | None:
        return None if raw.closed else int(raw.fileno())

    def look(self, raw: Any) -> Look:
        # The server may send notices, notifications and changed settings at any time:
        # https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC
        return look_at_talkative(self.fileno(raw))

    def ping(self, raw: Any) -> None:
        was_open = self.in_transaction(raw)
        raw.execute("")
        if not was_open:
            raw.rollback()

    def classify(self, raw: Any, error: BaseException) -> Failure:
        if raw.closed:
            return Failure.LOST
        if not isinstance(error, self.Error):
            # It came before anything was sent, or after all was read, unless a statement runs.
            return Failure.STATEMENT if self._is_in_step(raw) else Failure.LOST
        if isinstance(error, cast("Any", self.dbapi).errors.PipelineAborted):
            return Failure.STATEMENT  # was skipped, after another one that failed
        state = getattr(error, "sqlstate", None)
        if state:
            return Failure.LOST if state.startswith(UNKNOWN_STATES) else Failure.STATEMENT
        # psycopg's own refusals are of these classes. Others come from a broken answer.
        refusals = (*self.statement_errors, cast("Any", self.dbapi).InterfaceError)
        return Failure.STATEMENT if isinstance(error, refusals) else Failure.LOST

    def _is_in_step(self, raw: Any) -> bool:
        return raw.info.transaction_status in (_IDLE, _IN_TRANSACTION, _IN_ERROR)

    def is_retryable(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) in RETRYABLE_STATES

    def limit_transactions(self, raw: Any, seconds: float) -> None:
        names = ["idle_in_transaction_session_timeout"]
        if raw.info.server_version >= _LIMITS_TRANSACTIONS:
            names.append("transaction_timeout")
        milliseconds = math.ceil(seconds * 1000)
        self.run_batch(raw, "; ".join(f"SET {name}={milliseconds}" for name in names))

    def is_interruption(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == _QUERY_CANCELED

    def ending(self, raw: Any) -> Callable[[Callable[[], Any]], object] | None:
        cancel = raw.pgconn.get_cancel()  # the connection may be closed by then
        return lambda _: cancel.cancel()

    def time_is_up(self, seconds: float, error: Exception | None = None) -> Exception:
        # It has to have its number: an error without one counts as a lost connection.
        text = str(super().time_is_up(seconds))
        return error or cast("Any", self.dbapi).errors.QueryCanceled(text)

    # A function that a statement calls may change the search path, as may an UPDATE of a view, and
    # make temporary tables, which are found before all others.
    hides_schema = True
    why_no_schemas = ""

    def own_schema(self, raw: Any) -> str:
        return self.run_batch(raw, _SHOW_PATH)[0] or ""

    def enter_schema(self, raw: Any, schema: str | None, own: str) -> None:
        # A statement that is prepared with one tenant's tables may fail with another's.
        raw.prepare_threshold = None
        sql = cast("Any", importlib.import_module("psycopg.sql"))
        path = own if schema is None else sql.Identifier(schema).as_string(raw)
        # It is committed, for a ROLLBACK undoes it. The transaction after it is the one that
        # psycopg would begin in a round trip of its own.
        begin = "BEGIN" if _has_usual_transactions(raw) else ""
        set_path = _SET_PATH.format(sql.Literal(path).as_string(raw))
        *_, current = self.run_batch(raw, f"{set_path}; {begin}")
        if schema is not None and current != schema:  # the search path is silent about that
            raw.rollback()
            text = f'schema "{schema}" does not exist, or may not be used'
            raise cast("Any", self.dbapi).errors.InvalidSchemaName(text)

    def run_batch(self, raw: Any, sql: str) -> list[str | None]:
        """Run statements in one round trip, in no transaction of psycopg's. Returns the first value
        of each that has one.
        """
        api, pgconn = cast("Any", self.dbapi), raw.pgconn
        is_queueing = self.is_queueing(raw)  # a block that has not sent anything
        with raw.lock:
            if is_queueing:
                pgconn.exit_pipeline_mode()
            pgconn.send_query(sql.encode(raw.info.encoding))
            results = raw.wait(api.generators.execute(pgconn))
            if is_queueing:
                pgconn.enter_pipeline_mode()
        status = api.pq.ExecStatus
        for result in results:
            if result.status not in (status.COMMAND_OK, status.TUPLES_OK, status.EMPTY_QUERY):
                raise api.errors.error_from_result(result, raw.info.encoding)
        values = [result.get_value(0, 0) for result in results if result.ntuples]
        return [value and value.decode(raw.info.encoding) for value in values]

    # A procedure may commit, but not in a transaction that was open before.
    routines_end_nothing = True

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.info.transaction_status != _IDLE)

    def open_transaction(self, raw: Any) -> None:
        if not self.in_transaction(raw):
            self.execute(raw, "")  # psycopg begins one before

    def is_bare(self, raw: Any, thing: Any) -> bool:
        return thing is raw.pgconn

    def is_intact(self, raw: Any, session: Session) -> bool:
        return not self.in_transaction(raw)

    def has_unread_rows(self, raw: Any) -> bool:
        # While it streams, copies or waits for notifications, psycopg would let every other
        # statement wait for good. It holds its lock while anybody reads on.
        return bool(raw.lock.locked() or self._is_active(raw))

    def _is_active(self, raw: Any) -> bool:
        return raw.info.transaction_status == _ACTIVE and not self.is_queueing(raw)

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
        return bool(raw.info.pipeline_status)

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
        return bool(raw.info.transaction_status == _IN_ERROR)


_LIMITS_TRANSACTIONS = 170000
"""The first version that limits whole transactions, also those that are at work."""

_SHOW_PATH = "SELECT pg_catalog.current_setting('search_path')"
_SET_PATH = (
    "BEGIN; SELECT pg_catalog.set_config('search_path', {}, false); DISCARD TEMP;"
    " SELECT pg_catalog.current_schema(); COMMIT"
)


def _has_usual_transactions(raw: Any) -> bool:
    """Return whether psycopg begins transactions by BEGIN and nothing else."""
    return raw.isolation_level is None and raw.read_only is None and raw.deferrable is None


_WHERE = ("host", "hostaddr", "connect_timeout")


def _params(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return libpq's parameters that say where to connect, and for how long to try."""
    params = {**_parse(arguments.get("conninfo")), **arguments}
    return {name: params[name] for name in _WHERE if params.get(name) is not None}


def _parse(conninfo: str | None) -> dict[str, Any]:
    if not conninfo:
        return {}
    module = importlib.import_module("psycopg.conninfo")  # only if it is used
    return dict(module.conninfo_to_dict(conninfo))


def _count_addresses(where: Mapping[str, Any]) -> int:
    """Return how many addresses psycopg may try."""
    if "hostaddr" in where:
        return len(str(where["hostaddr"]).split(","))
    return sum(map(_count_addresses_of, str(where.get("host", "")).split(",")))


def _count_addresses_of(host: str) -> int:
    try:
        return len(set(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    except (OSError, ValueError):  # the path of a socket; a name that psycopg can't resolve either
        return 1


@functools.lru_cache(maxsize=8)
def _names_of_arguments(dbapi: ModuleType) -> Collection[str]:
    api = cast("Any", dbapi)
    of_libpq = {option.keyword.decode() for option in api.pq.Conninfo.get_defaults()}
    return of_libpq.union(inspect.signature(api.Connection.connect).parameters)
