"""What an app can ask about the statements that it ran."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask
from flask.globals import app_ctx

from flask_pooled_db.config import check_flag, describe
from flask_pooled_db.errors import UsageError
from flask_pooled_db.flask.context import EXTENSION, OutsideAppContext
from flask_pooled_db.flask.health import make_blueprint as make_health_blueprint
from flask_pooled_db.flask.observing import recorded
from flask_pooled_db.flask.page.blueprint import check_page
from flask_pooled_db.flask.page.blueprint import make_blueprint as make_page
from flask_pooled_db.flask.serving import Serving
from flask_pooled_db.telemetry.recording import RecordedStatement

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


class Observed(Serving):
    """The part of the extension that tells what was observed."""

    def __init__(self) -> None:
        super().__init__()
        # What counts connections by endpoint, before this object has been initialised on it.
        self.counting: weakref.WeakSet[Flask] = weakref.WeakSet()

    def recorded_statements(self) -> list[RecordedStatement]:
        """Return the statements that the current app context ran, in the order in which they ended.

        They are recorded while the app is tested or debugged, or as POOLED_DB_RECORD_STATEMENTS
        says; an app that does not record has none. The first 1,000 are kept.
        """
        if not app_ctx:
            raise OutsideAppContext(
                "there is no application context, and statements are recorded in one: put the call "
                "into `with app.app_context():`, in the same block as the statements"
            )
        self.here()
        return recorded()

    def slow_statements(self) -> Mapping[str, int]:
        """Return how many statements took longer than POOLED_DB_SLOW_STATEMENT in this process, by
        the endpoint that ran them, or by the command, task or thread; the highest number first.

        200 names are told from each other; all further ones count as "other".
        """
        return self.here()[0].watch.slow_statements()

    def prometheus_collector(self, *, worker_label: bool = False) -> Collector:
        """Return a collector of prometheus-client, to be registered with any of its registries. It
        collects what `host_stats()` tells of this app, which it does not keep alive.

        `worker_label`: tell the workers from each other, by a label `worker`.
        """
        check_flag("worker_label", worker_label)
        metrics = _metrics("prometheus_collector")
        state = self.here()[0]
        state.watch.seen.wants_usage = True
        read = metrics.read_weakly(state)
        collector: Collector = metrics.collector_of(read, worker_label=worker_label)
        return collector

    def metrics_blueprint(
        self, *, worker_label: bool = False, registry: Collector | None = None
    ) -> Blueprint:
        """Return a blueprint with `/metrics`, for Prometheus: the numbers of all workers of this
        host. Register it on the app that it is to tell of.

        `worker_label`: tell the workers from each other, by a label `worker`. `registry`: one of
        prometheus-client, whose metrics are shown too.
        """
        check_flag("worker_label", worker_label)
        if registry is not None and not callable(getattr(registry, "collect", None)):
            raise UsageError(
                "registry must be a registry of prometheus-client, such as prometheus_client."
                f"REGISTRY, not {describe(registry)}"
            )
        blueprint: Blueprint = _metrics("metrics_blueprint").make_blueprint(
            self.host_stats, self._count_endpoints, worker_label=worker_label, registry=registry
        )
        return blueprint

    def health_blueprint(
        self, *, binds: Iterable[str] | None = None, timeout: float = 1.0
    ) -> Blueprint:
        """Return a blueprint with `/healthz/live`, whether this process answers, and
        `/healthz/ready`, whether a connection of each bind can be had and answers.

        `binds`: names of the configuration; None: all of them but tenants. `timeout`: seconds that
        nobody who asks waits longer than. A database is asked once a second at most.
        """
        return make_health_blueprint(lambda: self.here()[0], binds, timeout)

    def page_blueprint(
        self,
        authorize: Callable[[], Any] | None = None,
        *,
        url_prefix: str = "/pooled-db",
    ) -> Blueprint:
        """Return a blueprint with a live page of the pools of all workers of this host. Register it
        on the app that it is to tell of.

        `authorize`: a function that is called for each request of the page. It returns True to let
        it in, False for a 403, or the response that is to be sent in its place; it may `abort()`,
        and it may be a coroutine function. `url_prefix`: where the page is.
        """
        checked = check_page(authorize, url_prefix)
        return make_page(self._page_data, checked, self._count_endpoints, url_prefix)

    def _page_data(self, before: str | None) -> bytes:
        state = self.here()[0]
        state.watch.seen.loads.look(state.registry.own_pools())
        return state.board.answer(state.read_host, before)

    def _count_endpoints(self, app: Flask) -> None:
        """Count the connections of an app by endpoint, from its first lease on."""
        state: Any = app.extensions.get(EXTENSION)
        if state is None:
            self.counting.add(app)  # which `init_app()` looks into
        else:
            state.watch.seen.wants_usage = True


def _metrics(name: str) -> ModuleType:
    """Return the module that serves Prometheus, for a method of this name."""
    try:
        return importlib.import_module("flask_pooled_db.flask.metrics")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("prometheus_client"):
            raise
        raise UsageError(
            f"{name}() needs prometheus-client: pip install 'flask-pooled-db[prometheus]'"
        ) from error
