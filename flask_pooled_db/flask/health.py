"""`/healthz/live` and `/healthz/ready`: what orchestrators and load balancers ask a process."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from flask import Blueprint, Response
from flask.blueprints import BlueprintSetupState

from flask_pooled_db.config import check_seconds, describe
from flask_pooled_db.errors import UsageError
from flask_pooled_db.flask.context import EXTENSION, AppState
from flask_pooled_db.flask.keeper import unknown_bind
from flask_pooled_db.pool.checkup import Checkup
from flask_pooled_db.pool.probe import Answer
from flask_pooled_db.runtime import guard

RETRY_AFTER = "1"
"""Seconds after which whoever was told "down" should ask again: that is when it is looked at."""

READY = frozenset({Answer.OK, Answer.BUSY})


class Health:
    """The checks of an app's binds. They refer to its pools, and not to the app."""

    def __init__(self, pools: Mapping[str, Any], seconds: float) -> None:
        self._seconds = seconds
        self._checkups = {bind: Checkup(pool.engine, seconds) for bind, pool in pools.items()}

    def answers(self) -> dict[str, Answer]:
        """Return what is known of each bind. It takes as long as one check at most."""
        deadline = monotonic() + self._seconds
        asked = {bind: checkup.begin() for bind, checkup in self._checkups.items()}
        return {bind: result(deadline) for bind, result in asked.items()}


class HealthOfApps:
    """The checks of each app that a blueprint is registered on."""

    def __init__(
        self, state_of: Callable[[], AppState], binds: frozenset[str] | None, seconds: float
    ) -> None:
        self._state_of = state_of
        self._binds = binds
        self._seconds = seconds
        self._known: weakref.WeakKeyDictionary[AppState, Health] = weakref.WeakKeyDictionary()

    def here(self) -> Health:
        """Return the checks of the current app."""
        state = self._state_of()
        found = self._known.get(state)
        if found is None:
            made = Health(self.pools_of(state), self._seconds)
            with guard.lock:
                found = self._known.setdefault(state, made)
        return found

    def pools_of(self, state: AppState) -> dict[str, Any]:
        """Return the pools that are to be checked. Raises `UsageError` if there is none of a name
        that was given.
        """
        registry = state.registry
        fixed = {bind: registry.pools[bind] for bind in sorted(registry.fixed)}
        if self._binds is None:
            return {bind: pool for bind, pool in fixed.items() if pool.config.server is None}
        for bind in self._binds - fixed.keys():
            raise unknown_bind(bind, fixed, is_loaded=False)
        return {bind: pool for bind, pool in fixed.items() if bind in self._binds}


def make_blueprint(
    state_of: Callable[[], AppState], binds: Iterable[str] | None, timeout: float
) -> Blueprint:
    """Return the blueprint. `state_of` returns the state of the current app."""
    check_seconds("timeout", timeout)
    if not timeout:
        raise UsageError("timeout must be more than 0 seconds: a database takes time to answer")
    apps = HealthOfApps(state_of, None if binds is None else _names(binds), timeout)
    blueprint = Blueprint("pooled_db_health", __name__)

    @blueprint.get("/healthz/live")
    def live() -> Response:
        return _response({"status": "alive"}, 200)

    @blueprint.get("/healthz/ready")
    def ready() -> Response:
        answers = apps.here().answers()
        is_ready = READY.issuperset(answers.values())
        body = {
            "status": "ready" if is_ready else "down",
            "binds": {bind: answer.value for bind, answer in answers.items()},
        }
        response = _response(body, 200 if is_ready else 503)
        if not is_ready:
            response.headers["Retry-After"] = RETRY_AFTER
        return response

    @blueprint.record
    def record(setup: BlueprintSetupState) -> None:
        state = setup.app.extensions.get(EXTENSION)
        if state is not None:  # else its binds are known at the first request
            apps.pools_of(state)

    return blueprint


def _names(binds: Iterable[str]) -> frozenset[str]:
    names = None if isinstance(binds, str) or not isinstance(binds, Iterable) else list(binds)
    if not names or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"binds must be names of binds, such as ['default'], not {describe(binds)}"
        )
    return frozenset(names)


def _response(body: object, status: int) -> Response:
    response = Response(f"{json.dumps(body)}\n", status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
