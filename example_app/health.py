"""Is this process able to serve?"""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from example_app.database import reading

bp = Blueprint("health", __name__)


@bp.get("/healthz")
def healthz() -> ResponseReturnValue:
    with reading(timeout=2.0) as cur:
        cur.execute("SELECT 1")
        cur.fetchall()
    return {"status": "ok"}
