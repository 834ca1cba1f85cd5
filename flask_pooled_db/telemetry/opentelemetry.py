"""What OpenTelemetry is told of the pools and the statements of an app: POOLED_DB_OTEL.

It is imported only if that is set; only this and the two modules of its parts import OpenTelemetry.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver
from flask_pooled_db.pool import Entry, Events
from flask_pooled_db.pool.statements import NoObserver, Observer, Statement
from flask_pooled_db.pool.watchers import Checkouts
from flask_pooled_db.telemetry.measures import Measures, PoolMeasures, Source
from flask_pooled_db.telemetry.site import Site
from flask_pooled_db.telemetry.spans import LONGEST, Spans, operation_of

CHECKOUT = "checkout"
"""What spans of checkouts are called."""


class PoolTelemetry(NamedTuple):
    """Who is told of one pool."""

    events: Events
    checkouts: Checkouts
    observer: Observer | None


class Telemetry:
    """What is told of one app, in this process."""

    def __init__(self, *, has_spans: bool) -> None:
        self._measures = Measures()
        self._spans = Spans() if has_spans else None

    def read_from(self, source: Source) -> None:
        """Read numbers from there."""
        self._measures.source = source

    def of_pool(self, bind: str, config: PoolConfig, driver: Driver) -> PoolTelemetry:
        """Return who is told of a pool with this driver."""
        measures, spans = self._measures.of_pool(bind), self._spans
        if spans is None:
            return PoolTelemetry(measures, PoolCheckouts(measures), None)
        site = Site(bind, config, driver)
        return PoolTelemetry(
            measures, TracedCheckouts(measures, spans, site), StatementSpans(spans, site)
        )

    def forked(self) -> None:
        """In a forked child, forget what is the parent's."""
        self._measures.forked()
        if self._spans is not None:
            self._spans.forked()

    def flush(self) -> None:
        """Hand over to the SDK what waits for that."""
        self._measures.record_pending()
        if self._spans is not None:
            self._spans.make_pending()


class PoolCheckouts:
    """Records how long the checkouts of one pool took."""

    def __init__(self, measures: PoolMeasures) -> None:
        self._measures = measures

    def lent(self, began: float, ended: float, entry: Entry | None) -> None:
        """A caller got a connection."""
        self._measures.lent(ended - began)

    def refused(self, began: float, ended: float, error: BaseException) -> None:
        """A caller got none."""

    def returned(self, seconds: float) -> None:
        """A connection was returned."""
        self._measures.returned(seconds)


class TracedCheckouts(PoolCheckouts):
    """Makes spans of them, too."""

    def __init__(self, measures: PoolMeasures, spans: Spans, site: Site) -> None:
        super().__init__(measures)
        self._tell = spans.tell
        self._site = site
        self._name = site.named(CHECKOUT)

    def lent(self, began: float, ended: float, entry: Entry | None) -> None:
        super().lent(began, ended, entry)
        where = {} if entry is None else entry.origin.where
        self._tell(self._name, self._site.at(where), ended - began, None)

    def refused(self, began: float, ended: float, error: BaseException) -> None:
        self._tell(self._name, self._site.at({}), ended - began, error)


class StatementSpans(NoObserver):
    """The observer of one pool that makes a span of each statement, COMMIT and ROLLBACK."""

    least = 0.0
    wants_ends = True

    def __init__(self, spans: Spans, site: Site) -> None:
        self._tell = spans.tell
        self._site = site

    def is_on(self) -> bool:
        """Return True."""
        return True

    def ran(self, statement: Statement) -> None:
        """Make the span of a statement."""
        text = statement.text[:LONGEST]
        self._make(statement, operation_of(text), {"db.query.text": text})

    def ended(self, statement: Statement) -> None:
        """Make the span of a COMMIT or a ROLLBACK."""
        self._make(statement, statement.text, {})

    def _make(self, statement: Statement, operation: str | None, more: dict[str, Any]) -> None:
        if operation is not None:
            more["db.operation.name"] = operation
        attributes = self._site.at(statement.where, **more)
        self._tell(self._site.named(operation), attributes, statement.duration, statement.error)
