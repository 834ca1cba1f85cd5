"""`/metrics`: what Prometheus scrapes. It uses no database."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

from flask_pooled_db.flask.numbers import merge
from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.prometheus import PoolCollector


class Joined(Collector):
    """Several collectors as one. A name that an earlier one has is left out of the later ones."""

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterable[Family]:
        """Return what they know at this moment."""
        names: set[str] = set()
        for collector in self._collectors:
            told = list(collector.collect())
            yield from (family for family in told if family.name not in names)
            names.update(family.name for family in told)


def collector_of(read: Callable[[], HostStats | None], *, worker_label: bool) -> PoolCollector:
    """Return what collects the numbers that are read in this way."""
    return PoolCollector(read, lambda numbers: merge({}, dict(numbers)), worker_label=worker_label)


def read_weakly(state: Any) -> Callable[[], HostStats | None]:
    """Return a function that reads the numbers of an app, and does not keep it alive."""
    reference = weakref.ref(state)

    def read() -> HostStats | None:
        known = reference()
        return None if known is None else known.read_host()

    return read


def make_blueprint(
    read: Callable[[], HostStats],
    registered: Callable[[Any], object],
    *,
    worker_label: bool,
    registry: Collector | None,
) -> Blueprint:
    """Return the blueprint with `/metrics`. `read` reads the numbers of the current app;
    `registered` is given each app that it is registered on.
    """
    blueprint = Blueprint("pooled_db_metrics", __name__)
    own = collector_of(read, worker_label=worker_label)
    joined = Joined([own] if registry is None else [own, registry])

    @blueprint.get("/metrics")
    def metrics() -> Response:
        encode, content_type = _encoder(request.headers.get("Accept", ""))
        response = Response(encode(joined), content_type=content_type)
        response.headers["Cache-Control"] = "no-store"
        return response

    @blueprint.record
    def record(setup: BlueprintSetupState) -> None:
        registered(setup.app)

    return blueprint


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Return what writes the format that a client accepts."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # its version is none
        return generate_latest, CONTENT_TYPE_PLAIN_0_0_4
