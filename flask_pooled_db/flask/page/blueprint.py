"""The blueprint of the page: a document, its script and its style, and the data that it shows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, current_app, request
from flask.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response as AnyResponse

from flask_pooled_db.config import describe
from flask_pooled_db.errors import UsageError
from flask_pooled_db.flask.telling import call

FOLDER = Path(__file__).parent
BEFORE = "X-Pooled-DB-Before"
"""The header by which the page brings along what it has seen a minute ago."""

TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
ASSETS = frozenset(
    path.name for path in FOLDER.iterdir() if path.suffix in TYPES and path.name != "page.html"
)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def check_page(authorize: Callable[[], Any] | None, url_prefix: object) -> Callable[[], Any]:
    """Check what a page is given, and return who authorizes. Raises `UsageError`."""
    if authorize is None:
        raise UsageError(
            "page_blueprint() needs to be told who may see the page: give it a function that "
            "returns True for a request to let in, as in page_blueprint(authorize=lambda: "
            "current_user.is_admin)"
        )
    if not callable(authorize):
        raise UsageError(
            "authorize must be a function without parameters that returns True for a request to "
            f"let in, not {describe(authorize)}"
        )
    if not isinstance(url_prefix, str) or not url_prefix.startswith("/") or url_prefix == "/":
        raise UsageError(
            f'url_prefix must be a path such as "/pooled-db", not {describe(url_prefix)}'
        )
    return authorize


def make_blueprint(
    answer: Callable[[str | None], bytes],
    authorize: Callable[[], Any],
    registered: Callable[[Any], object],
    url_prefix: str,
) -> Blueprint:
    """Return the blueprint. `answer` returns the data of the current app as JSON, and is given what
    the page has seen before; `authorize` says whether a request is let in; `registered` is given
    each app that it is registered on.
    """
    blueprint = Blueprint("pooled_db_page", __name__, url_prefix=url_prefix)

    @blueprint.before_request
    def let_in() -> AnyResponse | None:
        return _judged(call(_app(), authorize))

    @blueprint.get("/")
    def page() -> Response:
        return _sealed(_file("page.html"), "no-store")

    @blueprint.get("/<name>")
    def asset(name: str) -> Response:
        if name not in ASSETS:
            abort(404)
        # Asked for again each time, and sent if it has changed: a page and its script fit together.
        response = _sealed(_file(name), "private, no-cache")
        response.add_etag()
        response.make_conditional(request.environ)
        return response

    @blueprint.get("/data")
    def data() -> Response:
        return _sealed(
            Response(answer(request.headers.get(BEFORE)), content_type="application/json"),
            "no-store",
        )

    @blueprint.record
    def record(setup: BlueprintSetupState) -> None:
        registered(setup.app)

    return blueprint


def _file(name: str) -> Response:
    return Response(_read(name), content_type=f"{TYPES[Path(name).suffix]}; charset=utf-8")


@functools.cache
def _read(name: str) -> bytes:
    """Return what a file of the page holds. It is read once: the files are small."""
    return (FOLDER / name).read_bytes()


def _app() -> Any:
    return current_app._get_current_object()  # type: ignore[attr-defined]


def _judged(verdict: Any) -> AnyResponse | None:
    """Return what answers a request in place of the page; None if it is let in."""
    if verdict is True:
        return None
    if isinstance(verdict, AnyResponse):
        return verdict
    if not verdict:
        abort(403)
    raise UsageError(
        "authorize() must return True, False or a response, as redirect() does, not "
        f"{describe(verdict)}: nothing was served"
    )


def _sealed(response: Response, caching: str) -> Response:
    """Return a response that no other site can use, and that loads nothing from elsewhere."""
    response.headers.update(HEADERS)
    response.headers["Cache-Control"] = caching
    return response
