"""OpenTelemetry's metrics of the pools of an app in this process.

What pools count anyway is read when it is collected. Times are recorded one by one, but not where
they are measured: a finalizer or a signal handler may end a lease in the middle of the SDK, which
holds locks there that its own thread can't take again. So they wait until they are collected, or
until there are many, for a thread of its own.
"""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from threading import RLock
from typing import Any, Protocol

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from flask_pooled_db.pool import NoEvents
from flask_pooled_db.pool.census import Census
from flask_pooled_db.pool.histogram import BOUNDS
from flask_pooled_db.runtime import guard, workers
from flask_pooled_db.telemetry.conventions import (
    COUNTERS,
    CREATE_TIME,
    GAUGES,
    POOL_NAME,
    SCHEMA_URL,
    SCOPE,
    TIMES,
    USE_TIME,
    WAIT_TIME,
    Metric,
    version,
)

MANY = 512
"""How many times wait to be recorded before a thread does that."""

Numbers = dict[str, Any]
Attributes = Mapping[str, str]


class Source(Protocol):
    """Where the numbers of this process come from."""

    def collect(self) -> Numbers:
        """Return them."""

    def merge(self, totals: Numbers, numbers: Numbers) -> Numbers:
        """Return the counters among them, added to totals."""

    def after_fork(self) -> None:
        """In a forked child, forget what was counted in the parent."""


class Measures:
    """The instruments of one app. They do not keep it alive."""

    def __init__(self) -> None:
        self.source: Source | None = None  # once there is one
        self.provider = get_meter_provider()
        meter = self.provider.get_meter(SCOPE, version(), SCHEMA_URL)
        self._times = {metric: _histogram(meter, metric) for metric in TIMES}
        self._begin()
        for metric in (*GAUGES, *COUNTERS):
            _observe(self.provider, meter, metric)
        _living.add(self)

    def _begin(self) -> None:
        self._pending: deque[tuple[Histogram, float, Attributes]] = deque()
        self._recording = RLock()  # held by who records what is pending
        self._has_recorder = False  # a thread, that is
        self._gauges: Mapping[str, Numbers] = {}
        self._counters: Mapping[str, Numbers] = {}
        self._asked: set[Metric] = set()  # for what they were taken

    def forked(self) -> None:
        """In a forked child, start afresh."""
        self._begin()
        if self.source is not None:
            self.source.after_fork()

    # Times

    def of_pool(self, bind: str) -> PoolMeasures:
        """Return what records the times of a pool."""
        return PoolMeasures(self, {POOL_NAME: bind})

    def histogram(self, metric: Metric) -> Histogram:
        """Return the instrument of a time."""
        return self._times[metric]

    def put(self, histogram: Histogram, seconds: float, attributes: Attributes) -> None:
        """Have a time recorded. It takes no lock."""
        pending = self._pending
        pending.append((histogram, seconds, attributes))
        if len(pending) >= MANY and not self._has_recorder and not guard.is_inside():
            self._has_recorder = True
            try:
                workers.start("measures", self._record_all)
            except BaseException as error:
                self._has_recorder = False  # the next one tries again
                if not isinstance(error, RuntimeError):  # that the system has no more threads
                    raise

    def _record_all(self) -> None:
        try:
            self.record_pending()
        finally:
            self._has_recorder = False

    def record_pending(self) -> None:
        """Record what is pending, here and now."""
        with self._recording:
            while True:
                try:
                    histogram, seconds, attributes = self._pending.popleft()
                except IndexError:
                    return
                with suppress(Exception):  # others are recorded all the same
                    histogram.record(seconds, attributes)

    # Numbers

    def observe(self, metric: Metric) -> Iterator[tuple[tuple[str, str | None], Any]]:
        """Return the values of an instrument at this moment, by the bind and what tells its parts
        from each other; and record what is pending.
        """
        self.record_pending()
        self._take_for(metric)
        numbers = self._gauges if metric.kind == "gauge" else self._counters
        for bind, of_pool in numbers.items():
            for value, number in metric.points(of_pool):
                yield (bind, value), number

    def _take_for(self, metric: Metric) -> None:
        """Take the numbers anew, unless they were taken for another instrument: a collection asks
        for each once.
        """
        if self.source is None or (self._asked and metric not in self._asked):
            self._asked.add(metric)
            return
        numbers = self.source.collect()
        self._gauges = numbers["pools"]
        self._counters = self.source.merge({}, numbers)["pools"]
        self._asked = {metric}


class PoolMeasures(NoEvents):
    """Records the times of one pool."""

    def __init__(self, measures: Measures, attributes: Attributes) -> None:
        put, of = measures.put, measures.histogram
        self._put = put
        self._create_time = of(CREATE_TIME)
        self._wait_time = of(WAIT_TIME)
        self._use_time = of(USE_TIME)
        self._attributes = attributes

    def opened(self, seconds: float) -> None:
        self._put(self._create_time, seconds, self._attributes)

    def lent(self, seconds: float) -> None:
        """A connection was lent to a caller who had waited for so long."""
        self._put(self._wait_time, seconds, self._attributes)

    def returned(self, seconds: float) -> None:
        """A connection was returned that had been lent for so long."""
        self._put(self._use_time, seconds, self._attributes)


def _histogram(meter: Meter, metric: Metric) -> Histogram:
    return meter.create_histogram(
        metric.name, metric.unit, metric.text, explicit_bucket_boundaries_advisory=BOUNDS
    )


# The SDK makes one instrument of a name, and ignores the callbacks of all further ones. So the one
# there is tells of all apps.
_living: Census[Measures] = Census()


def _observe(provider: MeterProvider, meter: Meter, metric: Metric) -> None:
    """Make the instrument of what is read when it is collected."""
    is_gauge = metric.kind == "gauge"
    make: Callable[..., object] = (
        meter.create_observable_up_down_counter if is_gauge else meter.create_observable_counter
    )
    call = functools.partial(_observations, provider, metric)
    make(metric.name, [call], metric.unit, metric.text)


def _observations(
    provider: MeterProvider, metric: Metric, options: CallbackOptions
) -> list[Observation]:
    """Return what the apps tell that were made with this provider, or before there was one."""
    if _stands_for_another(provider):
        provider = get_meter_provider()
    found: Counter[tuple[str, str | None]] = Counter()
    for measures in _living.members():
        if measures.provider is provider or _stands_for_another(measures.provider):
            for key, number in measures.observe(metric):
                found[key] += number
    return [Observation(number, _attributes(metric, *key)) for key, number in found.items()]


def _stands_for_another(provider: MeterProvider) -> bool:
    """Return whether a provider is the API's own, until the application sets one."""
    return type(provider).__module__.startswith("opentelemetry.metrics")


def _attributes(metric: Metric, bind: str, value: str | None) -> Attributes:
    if value is None or metric.attribute is None:
        return {POOL_NAME: bind}
    return {POOL_NAME: bind, metric.attribute: value}
