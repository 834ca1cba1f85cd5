"""A connection of sqlite3 on which nothing but reading is done outside a transaction."""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from flask_pooled_db.drivers.sqlite_statements import (
    CHANGES,
    CHANGES_ROWS,
    READS,
    WRITES,
    Effect,
    effect_of,
)
from flask_pooled_db.errors import UsageError
from flask_pooled_db.runtime import Job, housekeeper

_INSTRUCTIONS_PER_CHECK = 1000
_CACHED_STATEMENTS = 128  # sqlite3's own default
_PARAMETERS = (
    *("database", "timeout", "detect_types", "isolation_level", "check_same_thread", "factory"),
    *("cached_statements", "uri"),
)
"""Those of sqlite3's connections that may be given by position."""

_ON = ("on", "true", "yes", "1")
_SETS_FOREIGN_KEYS = re.compile(
    rf"\s*+PRAGMA\s++foreign_keys\s*+(?:=|\()\s*+(?P<value>{'|'.join(_ON)}|off|false|no|0)"
    r"\s*+\)?\s*+;?\s*+",
    re.ASCII | re.IGNORECASE,
)

# Called in each block: super() takes its time.
_commit = sqlite3.Connection.commit
_cursor = sqlite3.Connection.cursor


def is_blocked(error: BaseException) -> bool:
    """Return whether a statement failed because another one that writes is not through."""
    return isinstance(error, sqlite3.OperationalError) and "statements in progress" in str(error)


class Connection(sqlite3.Connection):
    """A connection that begins a transaction before each statement that may write, once it was
    adopted. Until then it works as whoever connects has set it up.

    sqlite3 calls the connection to have a statement compiled, whatever class of cursor runs it. It
    would not do so for those that it keeps, so they are kept here instead.
    """

    was_in_transaction = False  # when its last statement came
    is_readonly = False  # as the scope has it
    is_set_up = False  # as the driver's settings say
    is_changed = False  # so that the session must not reach another lease
    stores_at_once = False  # what sqlite3 itself would store without a transaction
    has_stored = False  # a statement that may write came in none
    is_adopted = False
    _statement_timeout = 0.0
    _limit: Job | None = None
    """What ends the current statement at its time limit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(_PARAMETERS, args, strict=False)) | kwargs
        cached_statements = given.pop("cached_statements", _CACHED_STATEMENTS)
        self.savepoints: list[str] = []  # to be set before the next statement that writes
        self._blobs: list[weakref.ref[sqlite3.Blob]] = []  # opened for writing
        self._compiled = functools.lru_cache(cached_statements)(self._compile)
        given |= {"cached_statements": 0, "check_same_thread": False}
        super().__init__(**given)
        self.run = sqlite3.Cursor(self).execute  # what the pool itself sends
        # Outside of a transaction this commits nothing, and it does not call the connection.
        self._begin: Callable[[], object] = functools.partial(
            sqlite3.Cursor(self).executescript, "BEGIN IMMEDIATE"
        )

    def adopt(self) -> None:
        """Begin to watch what is done. What is not committed by now is committed."""
        if hasattr(self, "autocommit"):  # from Python 3.12 on
            self.autocommit = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL
        if self.in_transaction:
            self.commit()
        self.isolation_level = None  # what begins transactions is this class
        self.is_adopted = True
        self._compiled.cache_clear()

    def __call__(self, sql: str) -> Any:
        """Return a statement that a cursor is about to run, compiled."""
        effect, statement = self._compiled(sql)
        if effect is CHANGES_ROWS and not self.savepoints:  # most often, beside reading
            if not self.in_transaction and not self.is_readonly:
                self.was_in_transaction = False
                self._begin()
        elif effect is not READS:
            self._prepare(effect, sql)
        self.was_in_transaction = self.in_transaction
        if self._statement_timeout:
            self._limit_time()
        return statement

    def _compile(self, sql: str) -> tuple[Effect, Any]:
        effect = effect_of(sql) if self.is_adopted else READS
        if effect is not CHANGES_ROWS:  # which begins nothing if it can't be compiled
            self._prepare(effect, sql)  # compiling alone runs some pragmas
        self.was_in_transaction = self.in_transaction
        return effect, super().__call__(sql)

    def _prepare(self, effect: Effect, sql: str = "") -> None:
        """Do what has to be done before a statement."""
        if effect.changes_session:
            if self.is_readonly and "query_only" in sql.lower():
                raise UsageError("PRAGMA query_only is the scope's: it has readonly=True")
            if not self._keeps_foreign_keys(sql):
                self.is_changed = True
        # In a readonly scope SQLite refuses what writes, except to some pragmas.
        is_refused = self.is_readonly and not effect.changes_session
        if effect.writes and not self.in_transaction and not is_refused:
            self.was_in_transaction = False
            if self.stores_at_once and not effect.is_dml:
                self._begin_nothing()
            else:
                self._begin()
        if self.savepoints and self.in_transaction and effect not in (READS, CHANGES):
            self._set_savepoints()

    def _keeps_foreign_keys(self, sql: str) -> bool:
        """Return whether a statement only sets what is set already, as many applications do for
        each connection that they take.
        """
        found = _SETS_FOREIGN_KEYS.fullmatch(sql)
        if found is None or not self.is_set_up:
            return False
        (is_on,) = sqlite3.Cursor(self).execute("PRAGMA foreign_keys").fetchone()
        return bool(is_on) is (found["value"].lower() in _ON)

    def _begin_nothing(self) -> None:
        self.has_stored = True

    @contextlib.contextmanager
    def in_script(self) -> Iterator[None]:
        """Run the statements of a script. As sqlite3 does, commit first, and begin no transaction,
        if what it would store is to be stored.
        """
        if not self.stores_at_once:
            yield
            return
        if self.in_transaction:
            self.commit()
        begin, self._begin = self._begin, self._begin_nothing
        try:
            yield
        finally:
            self._begin = begin

    def _set_savepoints(self) -> None:
        names, self.savepoints = self.savepoints, []
        try:
            while names:
                self.run(f"SAVEPOINT {names[0]}")
                del names[0]
        except sqlite3.OperationalError as error:
            if is_blocked(error):
                raise UsageError(
                    "a nested block writes while a cursor of an outer one has unread rows of "
                    "INSERT ... RETURNING, or the like, or a blob is open for writing: read the "
                    "rows to their end or close the cursor, and close the blob, before the block"
                ) from error
            raise
        finally:
            self.savepoints = names

    def cursor(self, factory: Any = None) -> Any:
        if factory is None:
            return _cursor(self, Cursor)
        if isinstance(factory, type):
            return super().cursor(_with_scripts(factory))
        cursor: Any = super().cursor(factory)  # of a function
        if type(cursor) is sqlite3.Cursor:
            return super().cursor(Cursor)
        cursor.__class__ = _with_scripts(cursor.__class__)
        return cursor

    # sqlite3's own versions of these three don't call `cursor`.

    def execute(self, sql: str, *args: Any) -> Any:
        return self.cursor().execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> Any:
        return self.cursor().executemany(sql, *args)

    def executescript(self, sql_script: str) -> Any:
        return self.cursor().executescript(sql_script)

    def blobopen(self, *args: Any, readonly: bool = False, **kwargs: Any) -> Any:
        if not readonly and self.is_adopted:
            self._prepare(WRITES)
        self.was_in_transaction = self.in_transaction
        blob = super().blobopen(*args, readonly=readonly, **kwargs)
        if not readonly:
            open_ones = [other for other in self._blobs if other() is not None]
            self._blobs = [*open_ones, weakref.ref(blob)]
        return blob

    def prepare_step(self) -> None:
        """Do what has to be done before a blob is written to, which compiles no statement."""
        if self._blobs:
            self._prepare(WRITES)

    def commit(self) -> None:
        _commit(self)
        self.was_in_transaction = False

    def rollback(self) -> None:
        self.savepoints.clear()
        super().rollback()
        self.was_in_transaction = False

    def close_blobs(self) -> None:
        """Close the blobs that keep COMMIT from being done."""
        for blob in [reference() for reference in self._blobs]:
            if blob is not None:
                blob.close()

    def close(self) -> None:
        # A statement that is kept would keep it open.
        for name in ("_compiled", "_begin", "run"):
            self.__dict__.pop(name, None)
        super().close()

    # What scopes change

    def set_readonly(self, is_readonly: bool) -> None:
        """Have SQLite refuse what writes, or not."""
        is_changed, self.is_readonly = self.is_changed, False
        self.run(f"PRAGMA query_only={is_readonly:d}")
        self.is_changed, self.is_readonly = is_changed, is_readonly

    def set_statement_timeout(self, seconds: float) -> None:
        """Interrupt every later statement that takes longer. 0 means no limit."""
        self._statement_timeout = seconds
        if not seconds:
            self.set_progress_handler(None, _INSTRUCTIONS_PER_CHECK)

    def _limit_time(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        # SQLite calls the lock's own method. If it called a Python function, signal handlers would
        # run there, and what they raise (KeyboardInterrupt, a worker's SystemExit) would be lost.
        is_over = threading.Lock()
        self.set_progress_handler(is_over.locked, _INSTRUCTIONS_PER_CHECK)
        take = functools.partial(is_over.acquire, blocking=False)
        self._limit = housekeeper.call_later(self._statement_timeout, take)


def _changing(name: str) -> Any:
    method = getattr(sqlite3.Connection, name)

    @functools.wraps(method)
    def change(self: Connection, *args: Any, **kwargs: Any) -> Any:
        self.is_changed = True
        return method(self, *args, **kwargs)

    return change


# Some of them depend on the versions of Python and SQLite.
for _name in ("deserialize", "setconfig", "setlimit"):
    if hasattr(sqlite3.Connection, _name):
        setattr(Connection, _name, _changing(_name))


# Up to a semicolon that is neither in a comment nor quoted. Each character is read once.
_UP_TO_SEMICOLON = re.compile(
    r"""
    (?: [^;'"`\[/\-]++
      | '[^']*+' | "[^"]*+" | `[^`]*+` | \[[^\]]*+\]
      | /(?!\*) | /\*.*?\*/ | -(?!-) | --[^\n]*+
    )*+;
    """,
    re.DOTALL | re.VERBOSE,
)
_IN_TRIGGER = "CREATE TRIGGER;"  # what `complete_statement` has to know of a trigger's beginning


def statements_of(script: str) -> Iterator[str]:
    """Return the statements of a script, the last one also without an end."""
    start, end, beginning = 0, 0, ""
    while part := _UP_TO_SEMICOLON.match(script, end):
        end = part.end()
        if sqlite3.complete_statement(beginning + part[0]):
            yield script[start:end]
            start, beginning = end, ""
        else:  # a semicolon does not end it: it is a trigger
            beginning = _IN_TRIGGER
    yield script[start:]


class Cursor(sqlite3.Cursor):
    """A cursor whose scripts are part of the transaction, or begin by ending it."""

    connection: Connection

    def executescript(self, sql_script: str) -> Any:
        """Run the statements one by one: sqlite3 would compile them itself."""
        if not self.connection.is_adopted:
            return super().executescript(sql_script)
        with self.connection.in_script():
            for statement in statements_of(sql_script):
                super().execute(statement)
                super().fetchall()  # some statements do their work row by row
        return self


@functools.lru_cache(maxsize=64)
def _with_scripts(kind: Any) -> Any:
    """Return an application's class of cursors with this module's `executescript` beneath it."""
    if not issubclass(kind, sqlite3.Cursor) or issubclass(kind, Cursor):
        return kind
    if kind is sqlite3.Cursor:
        return Cursor
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return types.new_class(kind.__name__, (kind, Cursor), exec_body=lambda body: body.update(names))
