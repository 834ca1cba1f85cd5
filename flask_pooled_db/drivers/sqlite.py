"""sqlite3, which here takes the placeholders of MariaDB's drivers."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar

from flask_pooled_db.config import DatabaseURL, checks
from flask_pooled_db.drivers import sqlite_checkpoints, sqlite_creators, sqlite_uris
from flask_pooled_db.drivers.base import AUTOCOMMIT_REFUSED, Driver, Failure, Session
from flask_pooled_db.drivers.effects import of_sqlite
from flask_pooled_db.drivers.sqlite_connection import (
    Connection,
    WatchedConnection,
    code_of,
    is_blocked,
)
from flask_pooled_db.drivers.sqlite_facts import SQLITE_FILE
from flask_pooled_db.drivers.sqlite_memory import Memory
from flask_pooled_db.drivers.sqlite_placeholders import to_sqlite
from flask_pooled_db.drivers.sqlite_scripts import SQLITE
from flask_pooled_db.drivers.sqlite_settings import SETTINGS, setting_problems, take_settings
from flask_pooled_db.errors import ConfigError

_IS_QUERY = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|VALUES)\b", re.ASCII | re.IGNORECASE
)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_BUSY_TIMEOUT = 5.0

_POOL_SETS_IT = "can't be set: the pool sets it"

_HAZARD_OF_SHARING = (
    "threads that share one and run the same SQL get wrong rows, seen from Python 3.12 "
    "on: https://github.com/python/cpython/issues/118172"
)


class ForeignSQLiteDriver(Driver):
    """Any other module for SQLite."""

    hazard_of_sharing = _HAZARD_OF_SHARING
    dialect = SQLITE
    forgets = False

    @classmethod
    def accepts(cls, creator: Any, dbapi: ModuleType) -> bool:
        return hasattr(dbapi, "sqlite_version")


class SQLiteDriver(Driver):
    """sqlite3.

    The database is in WAL mode if it may be written to (`journal_mode`), foreign keys are enforced
    (`foreign_keys`), and a statement that finds the database locked waits (`timeout`, 5 s). A
    transaction begins with the first statement that may write, and takes the write lock at once, so
    that it never fails half-way because it has read an old state. Only what certainly reads runs
    outside of one.
    `:memory:` is one database for all connections of the pool in one process.
    """

    module = "sqlite3"
    schemes = ("sqlite", "sqlite+pysqlite")
    how_to_install = "install a Python that has it"
    hazard_of_sharing = _HAZARD_OF_SHARING
    has_readonly = True
    server: ClassVar = SQLITE_FILE
    why_no_schemas = "SQLite has none: give each tenant a file of its own, by a URL"
    forgets = False
    tells_transactions = True
    closed_error_name = "ProgrammingError"
    harmless = Driver.harmless | {"getconfig", "getlimit"}
    interrupts_late: ClassVar = False
    connection_class: type[WatchedConnection] = Connection
    refused_arguments: ClassVar = {
        "autocommit": AUTOCOMMIT_REFUSED,
        "isolation_level": "can't be set: the pool sets it, so that a transaction takes the write "
        "lock at its first write",
        "check_same_thread": _POOL_SETS_IT,
        "factory": _POOL_SETS_IT,
    }

    own_arguments: ClassVar = SETTINGS
    given_to_functions: ClassVar = frozenset({"factory"})
    number_arguments: ClassVar = frozenset({"timeout", "detect_types", "cached_statements"})
    known_arguments: ClassVar = number_arguments | {
        *("database", "uri"),
        *own_arguments,
        *refused_arguments,
    }

    def __init__(
        self, creator: Any, dbapi: ModuleType, arguments: dict[str, Any], timeout: float
    ) -> None:
        self._settings = take_settings(arguments)
        self._module = dbapi
        super().__init__(creator, dbapi, arguments, timeout)
        database = arguments.get("database", "")
        self._memory = self._is_module_connect and database in (":memory:", "")
        if not self._memory:
            # SQLite keeps a table of the locks that the process holds on files. A child inherits
            # the table but not the locks: https://www.sqlite.org/howtocorrupt.html, 2.6.
            self.suffers_from_forks = True
        self._folder: Path | None = None  # to be made when it is needed
        self._shared = Memory()

    @classmethod
    def accepts(cls, creator: Any, dbapi: ModuleType) -> bool:
        return dbapi.__name__ in ("sqlite3", "sqlite3.dbapi2")

    @classmethod
    def arguments_from(cls, url: DatabaseURL) -> dict[str, Any]:
        cls.refuse_server(url)
        arguments = {"database": ":memory:"} | cls.with_query(url, {"database": url.database})
        # As in SQLAlchemy, what SQLite's own URIs take is part of the URI.
        if _names_uri(arguments):
            own = {name: url.query[name] for name in url.query if name in sqlite_uris.PARAMETERS}
            arguments["database"] = sqlite_uris.with_parameters(arguments["database"], own)
            arguments = {name: arguments[name] for name in arguments if name not in own}
        return arguments

    @classmethod
    def refuse_server(cls, url: DatabaseURL) -> None:
        """Raise if a URL has a part that names no file."""
        if url.host or url.username or url.password:
            forms = "sqlite:///file is in the app's instance folder, sqlite:////file absolute"
            raise ConfigError([f"an SQLite URL names no host and no user: {forms}"])

    def follow(self, earlier: Any) -> None:
        super().follow(earlier)
        self._shared = earlier._shared

    def place(self, folder: str) -> None:
        name = self._arguments["database"]
        if _names_uri(self._arguments):
            name, self._folder = sqlite_uris.placed(name, folder)
        elif not (self._memory or Path(name).is_absolute()):
            path = Path(folder, name)
            name, self._folder = str(path), path.parent
        self._arguments = {**self._arguments, "database": name}

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        # Refuse an argument that is named at all: False and None have meanings here.
        return super().problems(dict.fromkeys(arguments, True)) + setting_problems(arguments)

    @classmethod
    def names_of_arguments(
        cls, dbapi: ModuleType, given: Collection[str]
    ) -> Collection[str] | None:
        return cls.known_arguments

    @classmethod
    def from_text(cls, name: str, text: str) -> Any:
        return checks.seconds(float(text)) if name == "timeout" else super().from_text(name, text)

    def connect(self, where: Mapping[str, Any] = MappingProxyType({})) -> Any:
        secret = self.secret()  # first: to open a file that is not there makes it
        raw = self._open()
        try:
            self.unlock(raw, secret)
            raw.adopt()
            self.store_at_once(raw, True)  # a journal mode is not changed in a transaction
            raw.run(f"PRAGMA foreign_keys={self._settings.foreign_keys:d}")
            _check_compiling(raw)
            if not self._memory:
                self._set_journal_mode(raw)
            self.store_at_once(raw, False)
            raw.is_set_up = True
        except BaseException:
            raw.close()
            raise
        return raw

    def secret(self) -> str | bytes | None:
        """Return what a new connection needs to read the file, or None."""
        return None

    def unlock(self, raw: Any, secret: str | bytes | None) -> None:
        """Make a new connection able to read the file."""

    def _set_journal_mode(self, raw: Any) -> None:
        wanted = self._settings.journal_mode
        # Two connections that switch a new file to WAL at once fail: SQLite does not wait there.
        with self._shared.lock:
            if raw.run("PRAGMA journal_mode").fetchall() == [(wanted,)]:
                return
            try:
                raw.run(f"PRAGMA journal_mode={wanted}").fetchall()
            except self.Error as error:
                if code_of(error) != sqlite3.SQLITE_READONLY:
                    raise  # one that may only be read stays as it is

    def _open(self) -> Any:
        if not self._is_module_connect:
            own = self.connection_class
            return sqlite_creators.connect(self._create, self._arguments, self._module, own)
        if self._folder is not None:
            with contextlib.suppress(OSError):  # connecting will say what is wrong
                self._folder.mkdir(parents=True, exist_ok=True)
        arguments = {"timeout": _BUSY_TIMEOUT, **self._arguments}
        if self._memory:
            name = self._shared.name(self._create, self.connection_class)
            arguments |= {"database": name, "uri": True}
        return self._create(**arguments, factory=self.connection_class)

    def is_transient(self, error: BaseException) -> bool:
        # Don't look for "locked" in the text, which holds names of tables.
        return code_of(error) in _LOCKED

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

    stores_at_once: ClassVar = True
    scripts: ClassVar = frozenset({"executescript"})

    def store_at_once(self, raw: Any, is_wanted: bool) -> None:
        raw.stores_at_once, raw.has_stored = is_wanted, False

    def has_stored(self, raw: Any) -> bool:
        stored, raw.has_stored = raw.has_stored, False
        return bool(stored)

    effects = staticmethod(of_sqlite)
    routines_end_nothing = True
    dialect = SQLITE
    texts_tell_changes = False  # the connection does, for each statement of a text

    inserts_many_by_text = False

    def with_comment(self, sql: Any, comment: str, *, many: bool) -> Any:
        # The others are known by their whole text, as a PRAGMA is.
        is_query = isinstance(sql, str) and _IS_QUERY.match(sql)
        return super().with_comment(sql, comment, many=many) if is_query else sql

    def has_changed(self, raw: Any) -> bool:
        return bool(raw.is_changed)

    def session_is_set(self, raw: Any) -> None:
        raw.is_changed, raw.is_lent = False, True

    def translate(self, sql: Any, parameters: Any = None) -> Any:
        if not isinstance(sql, str) or "%" not in sql:
            return sql
        has_none = isinstance(parameters, tuple | list) and not parameters
        return sql if has_none else to_sqlite(sql)

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
        except self.Error as error:
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

    keeps_time = sets_time_for_free = True

    def is_time_limit(self, error: BaseException) -> bool:
        # A statement that waits for another's lock does not wait for longer than it may run.
        return self.is_interruption(error) or self.is_transient(error)

    def is_interruption(self, error: BaseException) -> bool:
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT

    def needs_interrupting(self, raw: Any) -> bool:
        return False  # Connection.set_statement_timeout enforces it

    def stop(self, raw: Any) -> None:
        raw.interrupt()

    def ending(self, raw: Any) -> None:
        """Return None: there is no server."""

    def isolation_statement(self, level: str) -> None:
        """Return None: SQLite's transactions are serializable, which includes every level."""

    def checkpoint(self, raw: Any) -> None:
        sqlite_checkpoints.empty_log(raw)

    def close(self, raw: Any) -> None:
        # With a statement that some cursor still keeps, SQLite puts the end of a connection off,
        # and with it that of its transaction and its locks: https://www.sqlite.org/c3ref/close.html
        try:
            raw.rollback()
        finally:
            raw.close()

    @property
    def outlives_connections(self) -> bool:
        is_uri = _names_uri({"database": "", **self._arguments})
        return not (is_uri and sqlite_uris.is_in_memory(self._arguments["database"]))

    @property
    def holds_anything(self) -> bool:
        return self._shared.anchor is not None

    def close_all(self) -> None:
        self._shared.close()

    def after_fork(self) -> None:
        super().after_fork()
        self._shared.after_fork()


def _names_uri(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments.get("uri")) and sqlite_uris.is_uri(arguments["database"])


def _check_compiling(raw: WatchedConnection) -> None:
    """Raise if the connection did not see its first statement, which sets its session."""
    if not raw.is_changed:
        what = "this Python's sqlite3 does not have its connections compile statements"
        raise ConfigError([f"{what}: use another Python, for what writes might not be rolled back"])
