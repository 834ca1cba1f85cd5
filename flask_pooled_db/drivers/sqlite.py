"""sqlite3, which here takes the placeholders of MariaDB's drivers."""

from __future__ import annotations

import functools
import os
import re
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar

from flask_pooled_db.config import DatabaseURL, checks
from flask_pooled_db.drivers.base import AUTOCOMMIT_REFUSED, Driver, Failure, Session, keep_forever
from flask_pooled_db.drivers.effects import of_sqlite
from flask_pooled_db.drivers.sqlite_connection import Connection, is_blocked
from flask_pooled_db.errors import ConfigError

_PLACEHOLDER = re.compile(r"%(?:\((?P<name>\w+)\)s|(?P<other>.)|$)", re.DOTALL)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_BUSY_TIMEOUT = 5.0

_POOL_SETS_IT = "can't be set: the pool sets it"

_HAZARD_OF_SHARING = (
    "threads that share one and run the same SQL get wrong rows, seen from Python 3.12 "
    "on: https://github.com/python/cpython/issues/118172"
)


class ForeignSQLiteDriver(Driver):
    """Any other module for SQLite, and connections that the application's own creator makes."""

    hazard_of_sharing = _HAZARD_OF_SHARING
    forgets = False

    @classmethod
    def accepts(cls, creator: Any, dbapi: ModuleType) -> bool:
        return hasattr(dbapi, "sqlite_version")


class SQLiteDriver(Driver):
    """sqlite3.

    The database is in WAL mode if it may be written to, foreign keys are enforced, and a statement
    that finds the database locked waits (`timeout`, 5 s). A transaction begins with the first
    statement that may write, and takes the write lock at once, so that it never fails half-way
    because it has read an old state. Only what certainly reads runs outside of one.
    `:memory:` is one database for all connections of the pool in one process.
    """

    module = "sqlite3"
    schemes = ("sqlite", "sqlite+pysqlite")
    how_to_install = "install a Python that has it"
    hazard_of_sharing = _HAZARD_OF_SHARING
    forgets = False
    tells_transactions = True
    closed_error_name = "ProgrammingError"
    harmless = Driver.harmless | {"getconfig", "getlimit"}
    interrupts_late: ClassVar = False
    refused_arguments: ClassVar = {
        "autocommit": AUTOCOMMIT_REFUSED,
        "isolation_level": "can't be set: the pool sets it, so that a transaction takes the write "
        "lock at its first write",
        "check_same_thread": _POOL_SETS_IT,
        "factory": _POOL_SETS_IT,
    }

    def __init__(
        self, creator: Any, dbapi: ModuleType, arguments: dict[str, Any], timeout: float
    ) -> None:
        super().__init__(creator, dbapi, arguments, timeout)
        database = arguments.get("database", "")
        self._memory = isinstance(database, str) and database in (":memory:", "")
        if not self._memory:
            # SQLite keeps a table of the locks that the process holds on files. A child inherits
            # the table but not the locks: https://www.sqlite.org/howtocorrupt.html, 2.6.
            self.suffers_from_forks = True
        # A connection that keeps a database in memory alive while the pool has no other.
        self._anchor: sqlite3.Connection | None = None
        self._anchor_lock = threading.RLock()  # guards it, and the switch of a new file to WAL

    @classmethod
    def accepts(cls, creator: Any, dbapi: ModuleType) -> bool:
        # Another creator's connections would not be of this module's class.
        return super().accepts(creator, dbapi) and (creator is dbapi or creator is dbapi.connect)

    @classmethod
    def arguments_from(cls, url: DatabaseURL) -> dict[str, Any]:
        if url.host or url.username:
            forms = "sqlite:///file is relative, sqlite:////file absolute"
            raise ConfigError([f"an SQLite URL names no host: {forms}"])
        return {"database": url.database or ":memory:"} | cls.query_arguments(url)

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        # Refuse an argument that is named at all: False and None have meanings here.
        return super().problems(dict.fromkeys(arguments, True))

    @classmethod
    def from_text(cls, name: str, text: str) -> Any:
        return checks.seconds(float(text)) if name == "timeout" else super().from_text(name, text)

    def connect(self, where: Mapping[str, Any] = MappingProxyType({})) -> Any:
        arguments = {"timeout": _BUSY_TIMEOUT, **self._arguments}
        if self._memory:
            arguments |= {"database": self._shared_memory(), "uri": True}
        raw = self._open(arguments)
        try:
            raw.execute("PRAGMA foreign_keys=ON")
            _check_compiling(raw)
            if not self._memory:
                self._use_wal(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def _use_wal(self, raw: Any) -> None:
        # Two connections that switch a new file to WAL at once fail: SQLite does not wait there.
        with self._anchor_lock:
            if raw.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                return
            try:
                raw.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if _primary_code(error) != sqlite3.SQLITE_READONLY:
                    raise  # one that may only be read stays as it is

    def _open(self, arguments: dict[str, Any]) -> Any:
        return self._create(
            **arguments,
            isolation_level=None,  # the connection begins transactions
            check_same_thread=False,
            factory=Connection,
        )

    def _shared_memory(self) -> str:
        """Return the name of a database in memory. It exists while a connection to it is open."""
        with self._anchor_lock:
            name = f"file:/flask_pooled_db-{os.getpid()}-{id(self)}?vfs=memdb"
            if self._anchor is None:
                self._anchor = self._open({"database": name, "uri": True})
            return name

    def is_transient(self, error: BaseException) -> bool:
        # Don't look for "locked" in the text, which holds names of tables.
        return _primary_code(error) in _LOCKED

    def ping(self, raw: Any) -> None:
        raw.execute("SELECT 1").close()

    def classify(self, raw: Any, error: BaseException) -> Failure:
        if not isinstance(error, Exception):
            return Failure.LOST
        # Some errors (a full disk, an interrupt) end the transaction in SQLite by themselves:
        # https://www.sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction
        if raw.was_in_transaction and not raw.in_transaction:
            return Failure.ROLLED_BACK
        return Failure.STATEMENT

    def is_retryable(self, error: BaseException) -> bool:
        return self.is_transient(error)  # another transaction held the lock for too long

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.in_transaction)

    def is_intact(self, raw: Any, session: Session) -> bool:
        return not (raw.in_transaction or raw.is_changed)

    effects = staticmethod(of_sqlite)
    texts_tell_changes = False  # the connection does, for each statement of a text

    def has_changed(self, raw: Any) -> bool:
        return bool(raw.is_changed)

    def session_is_set(self, raw: Any) -> None:
        raw.is_changed = False

    def translate(self, sql: Any) -> Any:
        return to_sqlite(sql) if isinstance(sql, str) and "%" in sql else sql

    def execute(self, raw: Any, sql: str) -> None:
        raw.run(sql)

    def set_savepoint(self, raw: Any, name: str) -> None:
        # Not before something is written: it would take the write lock.
        raw.savepoints.append(name)

    def before_step(self, raw: Any) -> None:
        raw.prepare_step()

    def end_savepoint(self, raw: Any, name: str, *, roll_back: bool) -> None:
        if name in raw.savepoints:  # nothing was written since
            while raw.savepoints.pop() != name:
                pass
            return
        raw.savepoints.clear()
        try:
            super().end_savepoint(raw, name, roll_back=roll_back)
        except sqlite3.OperationalError as error:
            if not is_blocked(error):
                raise  # else it ends with the transaction

    def unblock_commit(self, raw: Any, error: BaseException, cursors: Iterable[Any]) -> bool:
        if not is_blocked(error):
            return False
        for cursor in cursors:  # their statements are done; what they have left is rows
            cursor.close()
        raw.close_blobs()
        return True

    def apply_session(self, raw: Any, old: Session, new: Session) -> None:
        if new.readonly != old.readonly:
            raw.set_readonly(new.readonly)
        raw.set_statement_timeout(new.statement_timeout)

    def is_interruption(self, error: BaseException) -> bool:
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT

    def needs_interrupting(self, raw: Any) -> bool:
        return False  # Connection.set_statement_timeout enforces it

    def isolation_statement(self, level: str) -> None:
        """Return None: SQLite's transactions are serializable, which includes every level."""

    def close(self, raw: Any) -> None:
        # With a statement that some cursor still keeps, SQLite puts the end of a connection off,
        # and with it that of its transaction and its locks: https://www.sqlite.org/c3ref/close.html
        try:
            raw.rollback()
        finally:
            raw.close()

    def close_all(self) -> None:
        with self._anchor_lock:
            if self._anchor is not None:
                self._anchor.close()
                self._anchor = None

    def after_fork(self) -> None:
        super().after_fork()
        self._anchor_lock = threading.RLock()
        if self._anchor is not None:
            keep_forever(self._anchor)
            self._anchor = None


@functools.lru_cache(maxsize=1024)
def to_sqlite(sql: str) -> str:
    """Return `sql` with `%s` as `?`, `%(name)s` as `:name` and `%%` as a percent sign."""
    return _PLACEHOLDER.sub(_placeholder, sql)


def _placeholder(match: re.Match[str]) -> str:
    if match["name"]:
        return f":{match['name']}"
    if match["other"] == "s":
        return "?"
    if match["other"] == "%":
        return "%"
    raise sqlite3.ProgrammingError(
        f"{match[0]!r} is not a placeholder: with parameters, %s and %(name)s are, "
        "and a percent sign is written %%"
    )


def _check_compiling(raw: Connection) -> None:
    """Raise if the connection did not see its first statement, which sets its session."""
    if not raw.is_changed:
        what = "this Python's sqlite3 does not have its connections compile statements"
        raise ConfigError([f"{what}: use another Python, for what writes might not be rolled back"])


def _primary_code(error: BaseException) -> int:
    """Return SQLite's code of an error, without what extends it; 0 if there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # https://www.sqlite.org/rescode.html
