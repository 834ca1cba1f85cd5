"""A connection to SQLite on which nothing but reading is done outside a transaction.

What is here is mixed into the classes of sqlite3, and of whichever module is built like it.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from flask_pooled_db.drivers.comments import without_tags
from flask_pooled_db.drivers.sqlite_cursors import WatchedCursor, with_scripts
from flask_pooled_db.drivers.sqlite_statements import (
    CHANGES,
    CHANGES_ROWS,
    READS,
    WRITES,
    Effect,
    Pragma,
    effect_of,
    pragma_in,
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

if TYPE_CHECKING:
    from sqlite3 import Connection as PlainConnection
else:
    PlainConnection = object


def code_of(error: BaseException) -> int:
    """Return SQLite's code of an error, without what extends it; 0 if there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # https://www.sqlite.org/rescode.html


def is_blocked(error: BaseException) -> bool:
    """Return whether a statement failed because another one that writes is not through."""
    return code_of(error) != 0 and "statements in progress" in str(error)


class WatchedConnection(PlainConnection):
    """A connection that begins a transaction before each statement that may write, once it was
    adopted. Until then it works as whoever connects has set it up.

    sqlite3 calls the connection to have a statement compiled, whatever class of cursor runs it. It
    would not do so for those that it keeps, so they are kept here instead.
    """

    was_in_transaction = False  # when its last statement came
    is_readonly = False  # as the scope has it
    is_set_up = False  # as the driver's settings say
    is_lent = False  # from then on, when SETSESSION was run
    is_changed = False  # so that the session must not reach another lease
    stores_at_once = False  # what sqlite3 itself would store without a transaction
    has_stored = False  # a statement that may write came in none
    is_adopted = False
    _statement_timeout = 0.0
    _own_patience: int | None = None  # milliseconds that it waits for locks; known once limited
    _patience: int | None = None  # what it is now
    _limit: Job | None = None
    """What ends the current statement at its time limit."""
    plain: ClassVar[type[sqlite3.Connection]]
    """The module's own class of connections."""
    own_cursor: ClassVar[Any]  # ours
    # Methods of the plain class. They are called in each block: super() takes its time.
    own_commit: ClassVar[Callable[[sqlite3.Connection], None]]
    make_cursor: ClassVar[Callable[..., Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(_PARAMETERS, args, strict=False)) | kwargs
        cached_statements = given.pop("cached_statements", _CACHED_STATEMENTS)
        self.savepoints: list[str] = []  # to be set before the next statement that writes
        self._blobs: list[weakref.ref[Any]] = []  # opened for writing
        self._compiled = functools.lru_cache(cached_statements)(self._compile)
        given |= {"cached_statements": 0, "check_same_thread": False}
        super().__init__(**given)
        self.run = self.own_cursor(self).execute  # what the pool itself sends
        # Outside of a transaction this commits nothing, and it does not call the connection.
        self._begin: Callable[[], object] = functools.partial(
            self.own_cursor.plain(self).executescript, "BEGIN IMMEDIATE"
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
        effect = effect_of(without_tags(sql)) if self.is_adopted else READS
        if effect is not CHANGES_ROWS:  # which begins nothing if it can't be compiled
            self._prepare(effect, sql)  # compiling alone runs some pragmas
        self.was_in_transaction = self.in_transaction
        return effect, super().__call__(sql)

    def _prepare(self, effect: Effect, sql: str = "") -> None:
        """Do what has to be done before a statement."""
        if effect.changes_session:
            self.check_change(sql)
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

    def check_change(self, sql: str) -> None:
        """Raise if a statement changes of its session what no lease may change."""
        if self.is_readonly and "query_only" in sql.lower():
            raise UsageError("PRAGMA query_only is the scope's: it has readonly=True")
        pragma = pragma_in(sql)
        if pragma is not None:
            self.check_pragma(pragma)

    def check_pragma(self, pragma: Pragma) -> None:
        """Raise if a PRAGMA sets what is not the lease's. SETSESSION may set what all share."""
        if pragma.is_of_process and self.is_lent:
            raise UsageError(
                f"PRAGMA {pragma.name} is a setting of the whole process, and not of a lease: set "
                "it once, when the process starts, on a connection of your own"
            )

    def _keeps_foreign_keys(self, sql: str) -> bool:
        """Return whether a statement only sets what is set already, as many applications do for
        each connection that they take.
        """
        found = _SETS_FOREIGN_KEYS.fullmatch(sql)
        if found is None or not self.is_set_up:
            return False
        (is_on,) = self.own_cursor.plain(self).execute("PRAGMA foreign_keys").fetchone()
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
        except self.Error as error:
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
        own = self.own_cursor
        if factory is None:
            return self.make_cursor(own)
        if isinstance(factory, type):
            return super().cursor(with_scripts(factory, own))
        cursor: Any = super().cursor(factory)  # of a function
        if type(cursor) is own.plain:
            return super().cursor(own)
        cursor.__class__ = with_scripts(cursor.__class__, own)
        return cursor

    # sqlite3's own versions of these three don't call `cursor`.

    def execute(self, sql: str, *args: Any) -> Any:
        return self.cursor().execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> Any:
        return self.cursor().executemany(sql, *args)

    def executescript(self, sql_script: str) -> Any:
        return self.cursor().executescript(sql_script)

    def open_blob_of(
        self, open_blob: Callable[..., Any], *args: Any, readonly: bool = False, **kwargs: Any
    ) -> Any:
        """Open a blob by the module's own method, if it has one."""
        if not readonly and self.is_adopted:
            self._prepare(WRITES)
        self.was_in_transaction = self.in_transaction
        blob = open_blob(self, *args, readonly=readonly, **kwargs)
        if not readonly:
            open_ones = [other for other in self._blobs if other() is not None]
            self._blobs = [*open_ones, weakref.ref(blob)]
        return blob

    def prepare_step(self) -> None:
        """Do what has to be done before a blob is written to, which compiles no statement."""
        if self._blobs:
            self._prepare(WRITES)

    def commit(self) -> None:
        self.own_commit()
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
        if seconds or self._own_patience is not None:
            self._limit_patience(seconds)

    def _limit_patience(self, seconds: float) -> None:
        """Have no statement wait for another's lock for longer than it may run."""
        is_changed = self.is_changed
        if self._own_patience is None:
            (own,) = self.run("PRAGMA busy_timeout").fetchone()
            self._own_patience = self._patience = own
        wanted = self._own_patience or 0
        if seconds:
            wanted = min(wanted, math.ceil(seconds * 1000))
        if wanted != self._patience:
            self.run(f"PRAGMA busy_timeout={wanted}").fetchall()
            self._patience = wanted
        self.is_changed = is_changed

    def _limit_time(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        # SQLite calls the lock's own method. If it called a Python function, signal handlers would
        # run there, and what they raise (KeyboardInterrupt, a worker's SystemExit) would be lost.
        is_over = threading.Lock()
        self.set_progress_handler(is_over.locked, _INSTRUCTIONS_PER_CHECK)
        take = functools.partial(is_over.acquire, blocking=False)
        self._limit = housekeeper.call_later(self._statement_timeout, take)


# Classes for a module

_CHANGING = ("deserialize", "setconfig", "setlimit")
"""What changes a session; some of them depend on the versions of Python and SQLite."""


def _changing(plain: Any, name: str) -> Any:
    method = getattr(plain, name)

    @functools.wraps(method)
    def change(self: WatchedConnection, *args: Any, **kwargs: Any) -> Any:
        self.is_changed = True
        return method(self, *args, **kwargs)

    return change


def watched_class(
    dbapi: ModuleType,
    kind: type[WatchedConnection] = WatchedConnection,
    beneath_cursor: tuple[type, ...] = (),
) -> type[WatchedConnection]:
    """Return a class of connections of a module that is built like sqlite3.

    `beneath_cursor` comes between our own cursors and the module's.
    """
    plain: Any = dbapi.Connection
    own_cursor = type(
        "Cursor", (WatchedCursor, *beneath_cursor, dbapi.Cursor), {"plain": dbapi.Cursor}
    )
    fields: dict[str, Any] = {"plain": plain, "own_cursor": own_cursor}
    fields |= {"own_commit": plain.commit, "make_cursor": plain.cursor}
    fields |= {name: _changing(plain, name) for name in _CHANGING if hasattr(plain, name)}
    if hasattr(plain, "blobopen"):
        fields["blobopen"] = functools.partialmethod(kind.open_blob_of, plain.blobopen)
    return type("Connection", (kind, plain), fields)


Connection = watched_class(sqlite3)
"""The class for sqlite3."""
