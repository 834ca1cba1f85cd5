"""The page to scan with. It asks the database for nothing, so it loads while that is away."""

from flask import Blueprint, Response, render_template

from example_app import live
from example_app.parsing import QUALITIES

bp = Blueprint("station", __name__)


@bp.get("/")
def page() -> Response:
    response = Response(
        render_template("station.html", qualities=QUALITIES, live=live.is_offered())
    )
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response
