"""POOLED_DB_REQUEST_DEADLINE: how long each request has for its databases.

A stream has no part in it: it goes on for as long as its client reads. Flask's own answers to when
a request ends that is streamed differ from one release to the next.
"""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request

from flask_pooled_db.lease.deadline import Deadline

_ATTRIBUTE = "_pooled_db_deadline"  # of the request, which keeps it


def bound_requests(app: Flask, seconds: float) -> None:
    """Give each request a deadline, from the first hook before it to the last one after it."""
    hooks = app.before_request_funcs.setdefault(None, [])
    hooks.insert(0, functools.partial(_begin, seconds))
    app.after_request(_end_before_stream)
    app.teardown_request(_end)


def _begin(seconds: float) -> None:
    this: Any = request._get_current_object()  # type: ignore[attr-defined]
    if this.url_rule is not None and this.url_rule.websocket:
        # A websocket goes on for as long as its client likes. The route tells that it is one: any
        # client can send the header.
        return
    deadline = Deadline(seconds, f"POOLED_DB_REQUEST_DEADLINE ({seconds:g} s)")
    setattr(this, _ATTRIBUTE, deadline)
    deadline.begin()


def _end_before_stream(response: Response) -> Response:
    # Flask's answers to errors are iterators too.
    if response.is_streamed and response.status_code < HTTPStatus.BAD_REQUEST:
        _end(None)
    return response


def _end(exc: BaseException | None) -> None:
    deadline: Deadline | None = getattr(request, _ATTRIBUTE, None)
    if deadline is not None:
        deadline.end()
