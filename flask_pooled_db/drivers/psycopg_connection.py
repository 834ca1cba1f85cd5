"""psycopg's connections, which can begin a transaction in the round trip of its first statement.

psycopg sends BEGIN and waits for its answer, and then sends the statement. In pipeline mode both go
out together. psycopg waits there too, unless it takes the transaction for begun.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any

from flask_pooled_db.drivers.effects import Effect, of_postgresql

_RUNS = frozenset({"execute", "executemany"})
_ACTIVE = 1  # libpq's status of a transaction whose statement is under way
# A pipeline takes one statement at a time, and none that copies.
_TAKES = re.compile(r"[\s(]*+(?i:select|insert|update|delete|merge|with|values|table)\b")
# What psycopg's classes are relied upon for.
_OF_CONNECTIONS = frozenset({"_exec_command", "_start_query"})
_OF_PIPELINES = frozenset({"_enqueue_sync", "_communicate_gen", "_exit", "_exit_gen", "_fetch_gen"})


def fits(dbapi: Any) -> bool:
    """Return whether this release begins transactions and ends pipelines as is expected here."""
    pipelines = getattr(dbapi, "Pipeline", None)
    return all(
        inspect.isfunction(getattr(kind, name, None))
        for kind, names in ((dbapi.Connection, _OF_CONNECTIONS), (pipelines, _OF_PIPELINES))
        for name in names
    )


def _pipeline_class(dbapi: Any) -> Any:
    """Make the class of pipelines that a transaction begins in."""

    class Together(dbapi.Pipeline):  # type: ignore[misc]
        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            if self._conn.closed:  # psycopg would log that it can't wait for anything
                self._exit(error)
            else:
                super().__exit__(kind, error, traceback)

        def _exit_gen(self) -> Any:
            # psycopg sends a Flush after the Sync. The server does not count the time any more then
            # for which the transaction is idle, and never ends it for that (seen with 15).
            if self._conn.closed:
                return
            try:
                self._enqueue_sync()
                yield from self._communicate_gen()
            except Exception:
                with contextlib.suppress(Exception):  # the first error tells what has happened
                    yield from self._fetch_gen(flush=False)
                raise
            yield from self._fetch_gen(flush=False)

        def _exit(self, exc: BaseException | None) -> None:
            if self.pgconn.transaction_status == _ACTIVE:  # an interruption has left answers unread
                self._conn.close()
            super()._exit(exc)

    return Together


@functools.lru_cache(maxsize=8)
def connection_class(dbapi: Any, _of: type) -> Any:
    """Return the module's class of connections, extended; its own if this release does not fit."""
    if not fits(dbapi):
        return dbapi.Connection

    together = _pipeline_class(dbapi)

    class Connection(dbapi.Connection):  # type: ignore[misc]
        is_to_begin = is_begun = False  # a BEGIN is to go with the next statement; is on its way

        def _start_query(self) -> Any:
            if self.is_to_begin:
                self.is_to_begin = False
                yield from self._exec_command(b"BEGIN")  # only queues it, in a pipeline
            elif not self.is_begun:
                yield from super()._start_query()

        def begin_with(self, function: Callable[..., Any], *args: Any) -> Any:
            """Call what runs a statement, and begin a transaction with it."""
            self._pipeline = together(self)
            with self.pipeline():
                self.is_to_begin = self.is_begun = True
                try:
                    return function(*args)
                except Exception:
                    raise  # the end of the pipeline reads what was answered
                except BaseException:
                    self.close()  # and would wait for the statement that this has interrupted
                    raise
                finally:
                    self.is_to_begin = self.is_begun = False

    return Connection


def can_begin_with(dbapi: Any, raw: Any, function: Any, text: object) -> bool:
    """Return whether a call of psycopg's is one of a single statement that may follow a BEGIN in
    one round trip, where no transaction is open.
    """
    if type(text) is not str or not _TAKES.match(text):
        return False
    method = getattr(function, "func", function)
    if getattr(method, "__name__", "") not in _RUNS:
        return False
    of: Any = getattr(method, "__self__", None)
    kind = raw.cursor_factory if of is raw else type(of)
    # What another class does in its `execute()`, nobody knows.
    is_plain = kind in (dbapi.Cursor, dbapi.ClientCursor, getattr(dbapi, "RawCursor", None))
    return is_plain and of_postgresql(text) is Effect.NONE


def forgetting_prepared(raw: Any) -> Callable[..., object] | None:
    """Return what has a connection forget the statements that psycopg has prepared; None if this
    release keeps them in another way.

    psycopg does so itself after DISCARD ALL, but not each time that it sends it.
    """
    kept = getattr(raw, "_prepared", None)
    to_flush = getattr(kept, "_to_flush", None)
    clear = getattr(kept, "clear", None)
    if to_flush is None or clear is None:
        return None

    def forget(*, is_gone: bool) -> None:
        clear()
        if is_gone:  # the server has none of them: there is nothing to deallocate
            to_flush.clear()

    return forget
