"""The numbers of all processes of an app on this host, for Prometheus.

The only module, beside the one that serves them, that imports prometheus-client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flask_pooled_db.host import HostStats
from flask_pooled_db.pool.histogram import BOUNDS
from flask_pooled_db.telemetry.conventions import (
    COUNTERS,
    GAUGES,
    POOL_NAME,
    TIMES,
    Metric,
    prometheus_name,
)

WORKER = "worker"
ENDED = "ended"
"""The worker of what those have counted that have ended."""

ENDPOINT = "endpoint"

LEASE_SECONDS = "pooled_db_lease_seconds"
LEASE_IDLE_SECONDS = "pooled_db_lease_idle_seconds"
SLOW_STATEMENTS = "pooled_db_slow_statements"
OWN_NUMBERS_ONLY = "pooled_db_own_numbers_only"

_LE = [*map(floatToGoString, BOUNDS), "+Inf"]

Numbers = Mapping[str, Any]
Part = tuple[tuple[str, ...], Numbers]
"""What belongs to one worker, with its label; or to all, without one."""


class PoolCollector(Collector):
    """Collects what an app's processes on this host have published. Register it with a registry."""

    def __init__(
        self,
        read: Callable[[], HostStats | None],
        counters_of: Callable[[Numbers], Numbers],
        *,
        worker_label: bool = False,
    ) -> None:
        """`read` returns what they have published; None if the app is gone. `counters_of` returns
        the counters among the numbers of one process.
        """
        self._read = read
        self._counters_of = counters_of
        self._has_workers = worker_label

    def describe(self) -> Iterable[Family]:
        """Return the families without samples: a registry asks for their names."""
        return self._families(HostStats())

    def collect(self) -> Iterable[Family]:
        """Return what is known at this moment."""
        stats = self._read()
        return [] if stats is None else self._families(stats)

    def _families(self, stats: HostStats) -> Iterator[Family]:
        labels = [WORKER] if self._has_workers else []
        gauges, counters = self._gauges_in(stats), self._counters_in(stats)
        for metric in GAUGES:
            yield _gauge(metric, gauges, labels)
        for metric in COUNTERS:
            yield _counter(metric, counters, labels)
        for metric in TIMES:
            yield _histogram(metric, counters, labels)
        yield from _endpoints(counters, labels)
        yield GaugeMetricFamily(
            OWN_NUMBERS_ONLY,
            "1 if the other processes can't be read, so that these numbers are one process's own.",
            value=float(stats.is_alone),
        )

    def _gauges_in(self, stats: HostStats) -> list[Part]:
        names = self._names_in(stats)
        return [(names[one.token], one.numbers) for one in stats.processes]

    def _counters_in(self, stats: HostStats) -> list[Part]:
        if not self._has_workers:
            return [((), stats.totals)]
        names, counters_of = self._names_in(stats), self._counters_of
        living = [(names[one.token], counters_of(one.numbers)) for one in stats.processes]
        return [*living, ((ENDED,), stats.ended)]

    def _names_in(self, stats: HostStats) -> dict[str, tuple[str, ...]]:
        """Return the label of each process. In containers that share a directory, several have the
        same process id.
        """
        if not self._has_workers:
            return {one.token: () for one in stats.processes}
        count = Counter(one.pid for one in stats.processes)
        return {
            one.token: (str(one.pid) if count[one.pid] == 1 else f"{one.pid}-{one.token}",)
            for one in stats.processes
        }


def _label(text: str) -> str:
    """Return a text as a label that can be sent: UTF-8 has no lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _summed(metric: Metric, parts: Iterable[Part]) -> Counter[tuple[str, ...]]:
    """Return the values of a metric by their labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for worker, numbers in parts:
        for bind, of_pool in numbers.get("pools", {}).items():
            for attribute, value in metric.points(of_pool):
                more = () if attribute is None else (_label(attribute),)
                found[(_label(bind), *more, *worker)] += value
    return found


def _labels_of(metric: Metric, labels: list[str]) -> list[str]:
    own = [POOL_NAME] if metric.attribute is None else [POOL_NAME, metric.attribute]
    return [prometheus_name(name) for name in own] + labels


def _gauge(metric: Metric, parts: Iterable[Part], labels: list[str]) -> Family:
    names = _labels_of(metric, labels)
    family = GaugeMetricFamily(prometheus_name(metric.name), metric.text, labels=names)
    for values, number in _summed(metric, parts).items():
        family.add_metric(values, number)
    return family


def _counter(metric: Metric, parts: Iterable[Part], labels: list[str]) -> Family:
    names = _labels_of(metric, labels)
    family = CounterMetricFamily(prometheus_name(metric.name), metric.text, labels=names)
    for values, number in _summed(metric, parts).items():
        family.add_metric(values, number)
    return family


def _histogram(metric: Metric, parts: Iterable[Part], labels: list[str]) -> Family:
    name = prometheus_name(metric.name, metric.unit)
    family = HistogramMetricFamily(name, metric.text, labels=_labels_of(metric, labels))
    found: dict[tuple[str, ...], tuple[list[int], float]] = {}
    for worker, numbers in parts:
        for bind, of_pool in numbers.get("pools", {}).items():
            if metric.field in of_pool:
                values, key = of_pool[metric.field], (_label(bind), *worker)
                counts, seconds = found.get(key, ([0] * len(_LE), 0.0))
                counts = [a + b for a, b in zip(counts, values["counts"], strict=True)]
                found[key] = counts, seconds + values["sum"]
    for key, (counts, seconds) in found.items():
        family.add_metric(key, list(zip(_LE, accumulate(counts), strict=True)), seconds)
    return family


def _endpoints(parts: list[Part], labels: list[str]) -> Iterator[Family]:
    """Return what is counted by the endpoint, or by the command, task or thread."""
    seconds: Counter[tuple[str, ...]] = Counter()
    idle: Counter[tuple[str, ...]] = Counter()
    slow: Counter[tuple[str, ...]] = Counter()
    for worker, numbers in parts:
        for name, use in numbers.get("callers", {}).items():
            seconds[(_label(name), *worker)] += use["seconds"]
            idle[(_label(name), *worker)] += use["idle"]
        for name, count in numbers.get("slow_statements", {}).items():
            slow[(_label(name), *worker)] += count
    told = {
        LEASE_SECONDS: ("Seconds for which an endpoint had connections.", seconds),
        LEASE_IDLE_SECONDS: ("Seconds of these in which none of its statements ran.", idle),
        SLOW_STATEMENTS: ("Statements that took POOLED_DB_SLOW_STATEMENT or longer.", slow),
    }
    for name, (text, found) in told.items():
        family = CounterMetricFamily(name, text, labels=[ENDPOINT, *labels])
        for key, value in found.items():
            family.add_metric(key, value)
        yield family
