"""Trouble on purpose, to be watched on the page of the pools: each kind ends by itself.

Its requests are made in this worker, so that they leave the server's own threads alone.
"""

import threading
import time
from collections.abc import Callable

from flask import Blueprint, Flask, abort, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response

from example_app.database import db
from example_app.local import is_local
from flask_pooled_db import db_connection_context, get_db_connection

bp = Blueprint("trouble", __name__, url_prefix="/trouble")

FORGOTTEN = 3
MOST_REQUESTS = 50
KINDS = ("burst", "slow", "leak")


def init_app(app: Flask) -> None:
    """Trouble lasts for `TROUBLE_SECONDS`: longer than callers wait, so that some wait in vain."""
    app.config.setdefault("TROUBLE_SECONDS", 20)
    app.extensions["trouble"] = {kind: threading.Lock() for kind in KINDS}
    app.jinja_env.globals["is_local"] = is_local
    app.register_blueprint(bp)


@bp.get("")
def page() -> ResponseReturnValue:
    made = request.args.get("made")
    seconds = current_app.config["TROUBLE_SECONDS"]
    return render_template("trouble.html", seconds=seconds, made=made if made in KINDS else None)


@bp.post("/slow")
def slow() -> ResponseReturnValue:
    """A request that takes a while: see `call_something_slow`."""
    _start("slow", lambda app: _ask(app, "call"))
    return redirect(url_for(".page", made="slow"), 303)


@bp.post("/burst")
def burst() -> ResponseReturnValue:
    """More such requests at once than the pool has connections."""
    number = min(db.stats().maxconnections, MOST_REQUESTS) + 5
    _start("burst", lambda app: _ask(app, "call", number))
    return redirect(url_for(".page", made="burst"), 303)


@bp.post("/leak")
def leak() -> ResponseReturnValue:
    """Connections that are forgotten: the view's are taken back at its end, the job's are not."""
    for _ in range(FORGOTTEN):
        get_db_connection()
    _start("leak", _keep_for_long)
    return redirect(url_for(".page", made="leak"), 303)


@bp.post("/call")
def call_something_slow() -> ResponseReturnValue:
    """The mistake that uses pools up: the connection is held while nobody needs it."""
    with db_connection_context(readonly=True) as conn, conn.cursor() as cur:
        cur.execute("SELECT 1")
        cur.fetchall()
        time.sleep(current_app.config["TROUBLE_SECONDS"])  # a mail server, an API, a large file
    return {"called": "something slow"}


def _keep_for_long(app: Flask) -> None:
    with app.app_context():
        connection = get_db_connection()
        with connection.cursor() as cur:
            cur.execute("SELECT 1")
            cur.fetchall()
        time.sleep(3 * app.config["TROUBLE_SECONDS"])
        connection.close()


def _ask(app: Flask, path: str, number: int = 1) -> None:
    client = app.test_client
    threads = [
        threading.Thread(target=lambda: client().post(f"/trouble/{path}"), daemon=True)
        for _ in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _start(kind: str, make: Callable[[Flask], None]) -> None:
    """Make trouble in the background, unless this worker is at it already: so it is bounded."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    lock: threading.Lock = app.extensions["trouble"][kind]
    if lock.acquire(blocking=False):
        threading.Thread(target=_run, args=(lock, make, app), name=kind, daemon=True).start()


def _run(lock: threading.Lock, make: Callable[[Flask], None], app: Flask) -> None:
    try:
        make(app)
    finally:
        lock.release()


@bp.before_request
def refuse_others() -> None:
    """Let nobody else make trouble, nor another site by this machine's browser."""
    if not is_local():
        abort(403, "Trouble is made from this machine alone.")
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site") == "cross-site":
        abort(403, "This form was sent by another site.")


@bp.after_request
def let_nothing_in(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response
