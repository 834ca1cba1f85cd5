"""What is observed of an app's pools and statements, and what a request says of itself in them."""

from __future__ import annotations

import functools
import importlib
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flask import Flask, g, has_request_context, request
from flask.globals import app_ctx

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver
from flask_pooled_db.flask.telling import Announcements, Teller
from flask_pooled_db.pool.statements import Observer, observer_of
from flask_pooled_db.pool.watchers import Watchers
from flask_pooled_db.telemetry.comments import (
    comment_of,
    current_traceparent,
    has_spans,
    valid_traceparent,
)
from flask_pooled_db.telemetry.openfiles import open_files
from flask_pooled_db.telemetry.recording import RecordedStatement, Recorder, Recording
from flask_pooled_db.telemetry.seen import Seen
from flask_pooled_db.telemetry.slow import SlowLog
from flask_pooled_db.telemetry.slow_acquire import SlowAcquire
from flask_pooled_db.telemetry.usage import PoolUsage

if TYPE_CHECKING:
    from flask_pooled_db.telemetry.opentelemetry import PoolTelemetry, Telemetry

_RECORDING = "_pooled_db_recording"
_TAGS = "_pooled_db_tags"


class Watch:
    """What observes the pools and the statements of an app. It does not keep the app alive."""

    def __init__(
        self, app: Flask, records: bool | None, telemetry: Telemetry | None = None
    ) -> None:
        """`records`: whether statements are recorded; None: while the app is tested or debugged.
        `telemetry`: what OpenTelemetry is told, if it is.
        """
        self.teller = Teller(app)
        self._app = weakref.ref(app)
        self._records = records
        self.telemetry = telemetry
        self.seen = Seen()
        self.in_use: Callable[[], object] | None = None  # called when a pool is used
        self._holders: dict[bool, PoolUsage] = {}
        self._recorder = None
        if records is not False:
            self._recorder = Recorder(self._is_recorded, self._recording)

    def watchers(self, bind: str, config: PoolConfig, driver: Driver) -> Watchers:
        """Return who watches the pool of a bind, with this configuration and driver."""
        told = None if self.telemetry is None else self.telemetry.of_pool(bind, config, driver)
        slow_acquire = [SlowAcquire(config.slow_acquire, bind)] if config.slow_acquire else []
        holders = self._holders_of(config)
        return Watchers(
            events=(
                *(Announcements(self.teller, bind), open_files, *slow_acquire),
                *([] if told is None else [told.events]),
                holders,
            ),
            observer=self._observer_of(config, told),
            tags=_comment if config.tag_statements else None,
            holders=holders,
            in_use=self.in_use,
            checkouts=None if told is None else told.checkouts,
        )

    def _holders_of(self, config: PoolConfig) -> PoolUsage:
        is_wanted = bool(config.leak_threshold or config.slow_acquire)
        if is_wanted not in self._holders:  # one for all such pools: there may be thousands
            wanted = functools.partial(self._is_usage_wanted, is_wanted)
            self._holders[is_wanted] = PoolUsage(self.seen.usage, wanted, self._forked)
        return self._holders[is_wanted]

    def _is_usage_wanted(self, by_pool: bool) -> bool:
        return by_pool or self.seen.wants_usage

    def _observer_of(self, config: PoolConfig, told: PoolTelemetry | None) -> Observer:
        slow = SlowLog(config.slow_statement, self.seen.slow) if config.slow_statement else None
        spans = None if told is None else told.observer
        return observer_of([one for one in (slow, self._recorder, spans) if one is not None])

    def _forked(self) -> None:
        self.seen.forked()
        if self.telemetry is not None:
            self.telemetry.forked()

    def slow_statements(self) -> Mapping[str, int]:
        """Return how many slow statements there were, by who ran them."""
        return self.seen.slow.counts()

    def _is_recorded(self) -> bool:
        if self._records is not None:
            return self._records
        app = self._app()
        return app is not None and (app.debug or app.testing)

    def _recording(self) -> Recording | None:
        if not app_ctx or app_ctx.app is not self._app():
            return None
        values = app_ctx.g.__dict__
        recording: Recording | None = values.get(_RECORDING)
        return recording or values.setdefault(_RECORDING, Recording())


def telemetry_of(otel: str | None, problems: list[str]) -> Telemetry | None:
    """Return what tells OpenTelemetry of an app, as POOLED_DB_OTEL has it."""
    if otel is None:
        return None
    try:
        module = importlib.import_module("flask_pooled_db.telemetry.opentelemetry")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        problems.append(
            "POOLED_DB_OTEL needs opentelemetry-api: pip install 'flask-pooled-db[otel]'"
        )
        return None
    telemetry: Telemetry = module.Telemetry(has_spans=otel == "all")
    return telemetry


def recorded() -> list[RecordedStatement]:
    """Return what the current app context has on record."""
    recording: Recording | None = g.get(_RECORDING)
    return [] if recording is None else recording.statements()


def report_repeats() -> None:
    """Log what the app context, which is about to end, ran again and again."""
    recording: Recording | None = g.get(_RECORDING)
    if recording is not None:
        recording.report()


def _comment(may_change: bool) -> str:
    """Return the comment of the current request; "" outside of one.

    `may_change` says whether it may hold what is another one in each request.
    """
    if not has_request_context():
        return ""
    own = request._get_current_object().__dict__  # type: ignore[attr-defined]
    known: dict[bool, str] = own.setdefault(_TAGS, {})
    comment = known.get(may_change)
    if comment is None:
        header = valid_traceparent(request.headers.get("traceparent")) if may_change else None
        trace = header or (current_traceparent() if may_change else None)
        rule = request.url_rule
        route = None if rule is None else rule.rule
        comment = comment_of({"route": route, "method": request.method, "traceparent": trace})
        if header or not (may_change and has_spans()):
            known[may_change] = comment
    return comment
