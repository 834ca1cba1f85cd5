"""What messages call the caller: an endpoint, an event of Socket.IO, a command."""

from __future__ import annotations

import click
from flask import g, has_app_context, has_request_context, request

from flask_pooled_db.runtime import callers

_NOTED = "_pooled_db_caller"
_NAME = "_pooled_db_name"
_FAILED = "_pooled_db_failed"


def note_caller(exc: BaseException | None) -> None:
    """Keep the caller's name, and whether it failed, for the end of the app context, when its
    request is gone.
    """
    setattr(g, _NOTED, _of_request())
    setattr(g, _FAILED, exc is not None)


def _has_failed() -> bool:
    return has_app_context() and bool(g.get(_FAILED))


def _name() -> str | None:
    if has_request_context():
        return _of_request()
    noted: str | None = g.get(_NOTED) if has_app_context() else None
    command = click.get_current_context(silent=True)
    return noted or (f"command {command.command_path!r}" if command else None)


def _of_request() -> str:
    """Return what the request is, which it is asked once: that takes Flask some time."""
    values = request._get_current_object().__dict__  # type: ignore[attr-defined]
    name: str | None = values.get(_NAME)
    if name is None:
        name = values[_NAME] = _name_of_request()
    return name


def _name_of_request() -> str:
    event = getattr(request, "event", None)  # is Flask-SocketIO's
    if isinstance(event, dict) and "message" in event:
        return f"Socket.IO event {event['message']!r}"
    return f"endpoint {request.endpoint!r}" if request.endpoint else "a request without an endpoint"


callers.named_by(_name)
callers.failed_by(_has_failed)
