"""The session of a psycopg connection: what scopes and the pool set in it, and how it is made as
good as new.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, cast

from flask_pooled_db.drivers import psycopg_connection
from flask_pooled_db.drivers.base import Driver, Session
from flask_pooled_db.drivers.psycopg_connection import forgetting_prepared

# libpq's transaction status: https://www.postgresql.org/docs/current/libpq-status.html
IDLE, ACTIVE, IN_TRANSACTION, IN_ERROR = range(4)

_LIMITS_TRANSACTIONS = 170000
"""The first version that limits whole transactions, also those that are at work."""

_READ_ONLY = "default_transaction_read_only"
_SHOW_PATH = "SELECT pg_catalog.current_setting('search_path')"
_SET_PATH = (
    "BEGIN; SELECT pg_catalog.set_config('search_path', {}, false); DISCARD TEMP;"
    " SELECT pg_catalog.current_schema(); COMMIT"
)
# A server of version 14 or newer tells both by itself. A pooler in between may keep that.
_REPORTS = (b"in_hot_standby", _READ_ONLY.encode())
_ASK = (
    "SELECT pg_catalog.pg_is_in_recovery()"
    f" OR pg_catalog.current_setting('{_READ_ONLY}')::pg_catalog.bool"
)
_ASK_RECOVERY = "SELECT pg_catalog.pg_is_in_recovery()"


class WithSessions(Driver):
    """The part of psycopg's driver that sets sessions up, and tells what became of them."""

    has_readonly = True
    recognizes_primary = True

    def run_batch(self, raw: Any, sql: str) -> list[str | None]:
        """Run statements in one round trip, in no transaction of psycopg's. Returns the first value
        of each that has one.
        """
        api, pgconn = cast("Any", self.dbapi), raw.pgconn
        is_queueing = bool(pgconn.pipeline_status)  # a block that has not sent anything
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

    def extend_connections(self) -> None:
        """Have the module's own `connect()` make connections that begin late."""
        api = cast("Any", self.dbapi)
        # One that has been replaced, by a tracer for example, is called.
        if self._is_module_connect and self._create == api.Connection.connect:
            self._create = psycopg_connection.connection_class(api, api.Connection).connect

    def set_up(self, raw: Any) -> None:
        raw.autocommit = False  # the application's own creator may have set it
        if self.wants_primary:
            told = [raw.pgconn.parameter_status(name) for name in _REPORTS]
            is_read_only = b"on" in told
            if not is_read_only and None in told:
                is_read_only = self.run_batch(raw, _ASK) == ["t"]
            self._refuse(is_read_only=is_read_only)

    def ping(self, raw: Any) -> None:
        if raw.pgconn.pipeline_status:
            raw.execute("")
            return
        told = self.run_batch(raw, _ASK_RECOVERY if self.wants_primary else "")
        self._refuse(is_read_only=told == ["t"])

    def _refuse(self, *, is_read_only: bool) -> None:
        if is_read_only:
            text = "the server is read-only: it is not the primary"
            raise cast("Any", self.dbapi).errors.ReadOnlySqlTransaction(text)

    # Transactions

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.pgconn.transaction_status != IDLE)

    def open_transaction(self, raw: Any) -> None:
        if raw.autocommit or self.in_transaction(raw):
            return  # a readonly block has none but those that psycopg's own blocks begin
        if _has_usual_transactions(raw):
            self.run_batch(raw, "BEGIN")
        else:
            self.execute(raw, "")  # psycopg begins one before

    def isolation_statement(self, level: str) -> str:
        return f"ISOLATION LEVEL {level}"

    def begin(self, raw: Any, statement: str) -> None:
        # A tenant's schema is set in the round trip that has begun the transaction already.
        verb = "SET TRANSACTION" if self.in_transaction(raw) else "BEGIN"
        self.run_batch(raw, f"{verb} {statement}")

    def begins_late(self, raw: Any) -> bool:
        return hasattr(raw, "is_begun")

    def can_begin_with(self, raw: Any, function: Any, text: object) -> bool:
        return self._begins_next(raw) and psycopg_connection.can_begin_with(
            self.dbapi, raw, function, text
        )

    def begin_with(self, raw: Any, function: Callable[..., Any], *args: Any) -> Any:
        if not self._begins_next(raw):  # what had to come before the statement has begun it
            return function(*args)
        return raw.begin_with(function, *args)

    def _begins_next(self, raw: Any) -> bool:
        pgconn = raw.pgconn
        is_outside = pgconn.transaction_status == IDLE and not pgconn.pipeline_status
        return is_outside and not raw.autocommit and _has_usual_transactions(raw)

    def set_savepoint(self, raw: Any, name: str) -> None:
        if self.in_transaction(raw) or not _has_usual_transactions(raw):
            super().set_savepoint(raw, name)
        else:
            self.run_batch(raw, f"BEGIN; SAVEPOINT {name}")

    # What scopes and the pool set

    def apply_session(self, raw: Any, old: Session, new: Session) -> None:
        if new.readonly != old.readonly:
            # The server's own default may be another one than "off".
            self.run_batch(raw, f"SET {_READ_ONLY}=on" if new.readonly else f"RESET {_READ_ONLY}")
            raw.autocommit = new.readonly

    def is_intact(self, raw: Any, session: Session) -> bool:
        return not self.in_transaction(raw) and raw.autocommit == session.readonly

    def limit_transactions(self, raw: Any, seconds: float) -> None:
        names = ["idle_in_transaction_session_timeout"]
        if raw.info.server_version >= _LIMITS_TRANSACTIONS:
            names.append("transaction_timeout")
        milliseconds = math.ceil(seconds * 1000)
        self.run_batch(raw, "; ".join(f"SET {name}={milliseconds}" for name in names))

    def reset_session(self, raw: Any, fresh: Any) -> bool:
        if not self._is_module_connect:
            return False  # nobody knows what the application's function did after connecting
        forget = forgetting_prepared(raw)
        if forget is None:
            return False  # psycopg would run what the server has forgotten
        # What was asked for at the connect is what RESET ALL, a part of it, goes back to.
        self.run_batch(raw, "DISCARD ALL")
        forget(is_gone=True)
        raw.autocommit = False
        return True

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
        begin = "BEGIN" if _has_usual_transactions(raw) and not raw.autocommit else ""
        set_path = _SET_PATH.format(sql.Literal(path).as_string(raw))
        *_, current = self.run_batch(raw, f"{set_path}; {begin}")
        if schema is not None and current != schema:  # the search path is silent about that
            raw.rollback()
            text = f'schema "{schema}" does not exist, or may not be used'
            raise cast("Any", self.dbapi).errors.InvalidSchemaName(text)


def _has_usual_transactions(raw: Any) -> bool:
    """Return whether psycopg begins transactions by BEGIN and nothing else."""
    return raw.isolation_level is None and raw.read_only is None and raw.deferrable is None
