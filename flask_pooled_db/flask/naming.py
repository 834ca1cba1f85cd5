"""What messages call the caller: an endpoint, an event of Socket.IO, a command."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import click
from flask import g, has_app_context, request

from flask_pooled_db.runtime import callers

_NOTED = "_pooled_db_caller"
_NAME = "_pooled_db_name"
_FAILED = "_pooled_db_failed"

# What Flask's proxy looks into, as `current_context` is.
_current_request: ContextVar[Any] = request.__wrapped__  # type: ignore[attr-defined]


def note_caller(exc: BaseException | None) -> None:
    """Keep the caller's name, and whether it failed, for the end of the app context, when its
    request is gone.
    """
    setattr(g, _NOTED, _of_request())
    setattr(g, _FAILED, exc is not None)


def _has_failed() -> bool:
    return has_app_context() and bool(g.get(_FAILED))


def _name() -> str | None:
    try:
        return _of_request()
    except (LookupError, RuntimeError):  # there is no request; Flask 3.2 raises the latter
        return _without_request()


def _without_request() -> str | None:
    noted: str | None = g.get(_NOTED) if has_app_context() else None
    command = click.get_current_context(silent=True)
    return noted or (f"command {command.command_path!r}" if command else None)


def _of_request() -> str:
    """Return what the request is, which it is asked once: that takes Flask some time."""
    values = _current_request.get().request.__dict__
    name: str | None = values.get(_NAME)
    return name or values.setdefault(_NAME, _name_of_request())


def _name_of_request() -> str:
    event = getattr(request, "event", None)  # is Flask-SocketIO's
    if isinstance(event, dict) and "message" in event:
        return f"Socket.IO event {event['message']!r}"
    return f"endpoint {request.endpoint!r}" if request.endpoint else "a request without an endpoint"


callers.named_by(_name)
callers.failed_by(_has_failed)
