"""OpenTelemetry's spans: of checkouts, statements, COMMIT and ROLLBACK.

Names and attributes are those of the semantic conventions:
https://opentelemetry.io/docs/specs/semconv/db/database-spans/
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, get_tracer

from flask_pooled_db.runtime import guard, housekeeper, reporter, workers
from flask_pooled_db.telemetry.conventions import SCHEMA_URL, SCOPE, version
from flask_pooled_db.telemetry.site import Attributes

logger = logging.getLogger("flask_pooled_db")

LONGEST = 10_000
"""Characters of a statement's text that a span has."""

_SUPPRESSED = getattr(contexts, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
_SDK = ("opentelemetry.sdk", "opentelemetry.exporter")

_IS_CODE = re.compile(r"[0-9]{1,10}|[0-9A-Z]{5}|SQLITE_[A-Z_]{1,40}")

# As few names of spans as possible: what is none of these verbs has no operation.
_VERB = re.compile(r"(?:\s++|/\*.*?\*/|--[^\n]*+|[(;])*+([A-Za-z]++)", re.DOTALL)
_VERBS = frozenset(
    {
        *("ALTER", "ANALYZE", "ATTACH", "BEGIN", "CALL", "COMMIT", "COPY", "CREATE", "DECLARE"),
        *("DELETE", "DESCRIBE", "DETACH", "DO", "DROP", "EXECUTE", "EXPLAIN", "FETCH", "FLUSH"),
        *("GRANT", "HANDLER", "INSERT", "KILL", "LISTEN", "LOAD", "LOCK", "MERGE", "NOTIFY"),
        *("OPTIMIZE", "PRAGMA", "PREPARE", "REFRESH", "REINDEX", "RELEASE", "RENAME", "REPLACE"),
        *("REVOKE", "ROLLBACK", "SAVEPOINT", "SELECT", "SET", "SHOW", "START", "TABLE"),
        *("TRUNCATE", "UNLOCK", "UPDATE", "USE", "VACUUM", "VALUES", "WITH"),
    }
)


class Told(NamedTuple):
    """What a span is made of. Its times are nanoseconds of the wall clock."""

    name: str
    context: Context
    attributes: Attributes
    began: int
    ended: int
    has_failed: bool


class Spans:
    """Makes the spans of one app."""

    def __init__(self) -> None:
        self._tracer = get_tracer(SCOPE, version(), schema_url=SCHEMA_URL)
        self.forked()

    def forked(self) -> None:
        """In a forked child, forget what waits: it is the parent's."""
        self._pending: deque[Told] = deque()

    def tell(
        self, name: str, attributes: Attributes, seconds: float, error: BaseException | None
    ) -> None:
        """Make a span of what has ended now, and took so many seconds; a part of the current one.

        Where the SDK, or the pool, was interrupted, or nothing may block, it is made elsewhere: the
        SDK holds locks that its own thread can't take again.
        """
        context = contexts.get_current()
        if contexts.get_value(_SUPPRESSED, context):
            return
        if error is not None:
            attributes |= _attributes_of_error(error)
        ended = time.time_ns()
        began = ended - int(seconds * 1e9)
        told = Told(name, context, attributes, began, ended, error is not None)
        if guard.is_inside() or housekeeper.is_current or _is_inside_sdk():
            self._pending.append(told)
            with suppress(RuntimeError):  # without threads, it waits for the next one
                workers.start("spans", self.make_pending)
        else:
            self._make(told)

    def make_pending(self) -> None:
        """Make the spans that could not be made where they ended."""
        with suppress(IndexError):
            while True:
                self._make(self._pending.popleft())

    def _make(self, told: Told) -> None:
        try:
            span = self._tracer.start_span(
                told.name,
                told.context,
                SpanKind.CLIENT,
                told.attributes,
                start_time=told.began,
            )
            if told.has_failed:
                span.set_status(Status(StatusCode.ERROR))
            span.end(told.ended)
        except Exception as failure:  # noqa: BLE001  what the span tells of has not failed
            text = "An observer of statements failed: %s"
            reporter.tell(logger.error, text, type(failure).__name__)


def _is_inside_sdk() -> bool:
    """Return whether this thread was interrupted inside the SDK."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__")
        # Most often the first comparison is enough, and takes a third of the time.
        if name is not None and name[:13] == "opentelemetry" and name.startswith(_SDK):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def operation_of(text: str) -> str | None:
    """Return the verb of a statement, if it is a known one."""
    found = _VERB.match(text[:LONGEST])
    verb = "" if found is None else found[1].upper()
    return verb if verb in _VERBS else None


def _attributes_of_error(error: BaseException) -> Attributes:
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"
    status = _status_of(error)
    return {"error.type": name} | ({} if status is None else {"db.response.status_code": status})


def _status_of(error: BaseException) -> str | None:
    """Return what a database calls an error: its number, or its SQLSTATE, and never its text."""
    numbers = getattr(error, "errno", None), *error.args[:1]
    names = [getattr(error, name, None) for name in ("sqlstate", "pgcode", "sqlite_errorname")]
    for found in (*numbers, *names):
        if isinstance(found, int | str) and not isinstance(found, bool):
            text = str(found)
            if _IS_CODE.fullmatch(text):
                return text
    return None
