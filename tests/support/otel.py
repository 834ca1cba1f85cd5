"""OpenTelemetry's SDK, which keeps in memory what it is told."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Seen:
    """What the SDK was told."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.exporter = spans
        self.exporter.clear()

    def metrics(self) -> dict[str, Any]:
        """Collect the metrics, by their names."""
        data = self.reader.get_metrics_data()
        found: dict[str, Any] = {}
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                assert scope.scope.name == "flask_pooled_db"
                assert not found.keys() & {metric.name for metric in scope.metrics}
                found |= {metric.name: metric for metric in scope.metrics}
        return found

    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended since this was asked before."""
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found

    def own_spans(self) -> dict[str, ReadableSpan]:
        """The package's own among them, by name."""
        scopes = [(one, one.instrumentation_scope) for one in self.spans()]
        own = [one for one, scope in scopes if scope and scope.name == "flask_pooled_db"]
        assert len({one.name for one in own}) == len(own)
        return {one.name: one for one in own}


spans = InMemorySpanExporter()


@functools.cache
def providers() -> tuple[MeterProvider, TracerProvider]:
    """The global providers, which a process sets once."""
    pair = MeterProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    pair[1].add_span_processor(SimpleSpanProcessor(spans))
    metrics.set_meter_provider(pair[0])
    trace.set_tracer_provider(pair[1])
    return pair


@contextmanager
def recording() -> Iterator[Seen]:
    """Have the global providers keep what they are told in the block."""
    meters, _ = providers()
    gc.collect()  # the apps of other tests, which would be told of too
    seen = Seen()
    meters.add_metric_reader(seen.reader)
    try:
        yield seen
    finally:
        meters.remove_metric_reader(seen.reader)


def points(metric: Any) -> dict[tuple[Any, ...], Any]:
    """The values of a metric by those of its attributes, without the pool's name; of a histogram,
    how many there were and their sum.
    """
    found = {}
    for point in metric.data.data_points:
        attributes = dict(point.attributes)
        attributes.pop("db.client.connection.pool.name")
        has_value = hasattr(point, "value")
        found[tuple(attributes.values())] = point.value if has_value else (point.count, point.sum)
    return found
