"""What is told of pools to Prometheus and OpenTelemetry, and under which names.

Names, units and attributes of connections are those of OpenTelemetry's semantic conventions (1.44);
Prometheus' names follow from them:
https://opentelemetry.io/docs/specs/semconv/db/database-metrics/
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, Literal, NamedTuple

from flask_pooled_db.pool.evictions import KINDS

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "flask_pooled_db"
"""What OpenTelemetry calls the package."""

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
REASON = "reason"

Numbers = Mapping[str, Any]
"""Of one pool, as it publishes them."""


class Metric(NamedTuple):
    """Something that is measured."""

    name: str
    unit: str
    kind: Literal["gauge", "counter", "histogram"]
    field: str
    """Its name among the numbers of a pool."""
    text: str
    attribute: str | None = None
    """What tells its parts from each other, if it has any."""
    has_no_limit_at_0: bool = False

    def points(self, numbers: Numbers) -> Iterator[tuple[str | None, Any]]:
        """Return its values among the numbers of a pool, each with its attribute's. What has no
        limit has none.
        """
        if self.attribute == STATE:
            yield "idle", numbers["idle"]
            yield "used", numbers["in_use"]
        elif self.attribute == REASON:
            # From the beginning: the first one of a kind would not be seen to happen otherwise.
            yield from {**dict.fromkeys(KINDS, 0), **numbers.get(self.field, {})}.items()
        elif self.field in numbers and (numbers[self.field] or not self.has_no_limit_at_0):
            yield None, numbers[self.field]


def _gauge(name: str, field: str, text: str, unit: str = "{connection}", **more: Any) -> Metric:
    return Metric(f"db.client.connection.{name}", unit, "gauge", field, text, **more)


def _time(name: str, field: str, text: str) -> Metric:
    return Metric(f"db.client.connection.{name}", "s", "histogram", field, text)


def _counter(name: str, field: str, unit: str, text: str, **more: Any) -> Metric:
    return Metric(f"pooled_db.{name}", unit, "counter", field, text, **more)


GAUGES = (
    _gauge("count", "in_use", "Connections that are idle, or lent.", attribute=STATE),
    _gauge("max", "maxconnections", "Connections that may be open.", has_no_limit_at_0=True),
    _gauge("idle.max", "maxcached", "Connections that may be idle.", has_no_limit_at_0=True),
    _gauge("idle.min", "mincached", "Connections that are kept open."),
    _gauge("pending_requests", "waiting", "Callers that wait for a connection.", "{request}"),
)

COUNTERS = (
    Metric(
        "db.client.connection.timeouts",
        "{timeout}",
        "counter",
        "timeouts",
        "Callers that got no connection in time.",
    ),
    _counter("commits", "commits", "{transaction}", "Transactions that were committed."),
    _counter(
        "rollbacks",
        "rollbacks",
        "{transaction}",
        "Transactions that were rolled back, by their caller or an exception.",
    ),
    _counter(
        "aborted",
        "aborted",
        "{transaction}",
        "Transactions that were lost, or could not be committed.",
    ),
    _counter(
        "evictions",
        "evictions",
        "{connection}",
        "Connections that the pool has closed.",
        attribute=REASON,
    ),
    _counter("leaks", "leaked", "{lease}", "Leases that nobody gave back."),
    _counter("implicit_commits", "implicit_commits", "{transaction}", "Commits by SQL text."),
)

CREATE_TIME = _time("create_time", "connect_time", "How long it took to open a connection.")
WAIT_TIME = _time("wait_time", "wait_time", "How long callers waited for a connection.")
USE_TIME = _time("use_time", "use_time", "How long connections were lent.")
TIMES = (CREATE_TIME, WAIT_TIME, USE_TIME)


def prometheus_name(name: str, unit: str = "") -> str:
    """Return what Prometheus calls a metric. A counter's samples have `_total` after that."""
    return name.replace(".", "_") + ("_seconds" if unit == "s" else "")


@functools.cache
def version() -> str:
    """Return the version of the package."""
    try:
        return metadata.version("flask-pooled-db")
    except metadata.PackageNotFoundError:  # it runs from a folder
        return "unknown"
