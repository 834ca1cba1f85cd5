"""An order's scans, live: the station's page hears of those of other workers by a websocket.

It takes flask-sock. Without that, and while the socket is away, the page asks for what it shows
after each scan of its own. A socket's handler looks into the database once a second, in a block of
its own, and holds no connection in between: it finds what any process has saved.
"""

import contextlib
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Flask, abort, current_app, json, request

from example_app.database import reading
from example_app.errors import AWAY
from example_app.orders import ONE_ORDER, Order
from example_app.parsing import order_code
from example_app.scans import LATEST_SCANS_OF_ORDER, Scan

try:
    from flask_sock import Sock
except ImportError:
    Sock = None

INTERVAL = 1.0
SCANS = 10
TRY_LATER = 1013  # a status of websockets

bp = Blueprint("live", __name__)


def init_app(app: Flask) -> None:
    """Offer the socket, if it can be: `LIVE_SOCKETS` says how many at once in each worker."""
    seats = app.config.setdefault("LIVE_SOCKETS", 8) if Sock else 0
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 25, "max_message_size": 64}
    app.extensions["live_seats"] = threading.BoundedSemaphore(seats) if seats else None
    app.extensions.setdefault("is_stopping", lambda: False)
    if seats:
        app.register_blueprint(bp)


def is_offered() -> bool:
    """Return whether a page may ask for the socket."""
    return current_app.extensions["live_seats"] is not None


def serve(ws: Any) -> None:
    """Follow an order for a page; each socket takes one of the worker's threads."""
    seats: threading.Semaphore = current_app.extensions["live_seats"]
    if not seats.acquire(blocking=False):
        _end(ws, TRY_LATER)
        return
    try:
        _follow(ws)
        _end(ws)
    finally:
        seats.release()


def _follow(ws: Any) -> None:
    """Send the order that the page has named, and its last scans: at once, and after each scan."""
    code, seen = None, None
    while not current_app.extensions["is_stopping"]():
        named = ws.receive(timeout=INTERVAL)
        if named is not None:
            code, seen = _code(named), None
        news = None
        with contextlib.suppress(*AWAY):  # the page's own requests tell its worker
            news = _news(code, seen) if code else None
        if news is not None:
            order, scans = news
            ws.send(json.dumps({"order": order._asdict(), "scans": [s._asdict() for s in scans]}))
            seen = order


def _end(ws: Any, status: int | None = None) -> None:
    """Say goodbye, and end the thread that the socket has, which would keep its worker."""
    ws.close(status)
    ws.thread.join(1.0)  # until the page has said goodbye too
    with contextlib.suppress(OSError):  # it has
        ws.sock.shutdown(socket.SHUT_RDWR)
    ws.thread.join(1.0)


def _code(named: object) -> str | None:
    try:
        return order_code(named)
    except ValueError:
        return None


def _news(code: str, seen: Order | None) -> tuple[Order, list[Scan]] | None:
    """Return an order with its last scans, unless it is as it was seen, or there is none."""
    with reading(timeout=2.0) as cur:
        cur.execute(ONE_ORDER, (code,))
        row = cur.fetchone()
        if row is None or Order(*row) == seen:
            return None
        cur.execute(LATEST_SCANS_OF_ORDER, (code, SCANS))
        return Order(*row), [Scan(*scan) for scan in cur.fetchall()]


@bp.before_request
def refuse_other_sites() -> None:
    """Let no page of another site listen: browsers ask nobody before they open a socket."""
    if request.origin and urlsplit(request.origin).netloc != request.host:
        abort(403, "This socket was opened by another site.")


if Sock:
    Sock().route("/live", bp=bp)(serve)
