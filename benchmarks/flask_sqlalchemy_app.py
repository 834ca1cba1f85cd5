"""The measured part of `example_app` as it is written on Flask-SQLAlchemy's raw connections."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from flask import Flask, abort, request
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy

from example_app.orders import ONE_ORDER, Order
from example_app.parsing import BadFields, NewScan, order_code, parse_scan
from example_app.scans import COUNT_SCAN, INSERT_SCAN, Scan

db = SQLAlchemy()


def create_app() -> Flask:
    """Read from the environment: `POOLED_DB_URL`, and `PRE_PING` where it is to ping."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["POOLED_DB_URL"]
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_pre_ping": bool(os.environ.get("PRE_PING"))}
    db.init_app(app)
    app.register_error_handler(BadFields, bad_fields)
    app.add_url_rule("/scans", view_func=add_scan, methods=["POST"])
    app.add_url_rule("/orders/<code>", view_func=show_order)
    return app


@contextmanager
def connection() -> Iterator[Any]:
    """A transaction on a raw connection of the engine's pool."""
    raw = db.engine.raw_connection()
    try:
        yield raw
        raw.commit()
    except BaseException:
        raw.rollback()
        raise
    finally:
        raw.close()


def bad_fields(error: BadFields) -> ResponseReturnValue:
    return {"error": "Some fields are not right.", "fields": error.fields}, 400


def add_scan() -> ResponseReturnValue:
    with connection() as conn:
        recorded = record_scan(conn, parse_scan(request.get_json(silent=True)))
    if recorded is None:
        abort(404, "There is no such order.")
    order, saved = recorded
    return {"scan": saved._asdict(), "order": order._asdict()}, 201


def show_order(code: str) -> ResponseReturnValue:
    with connection() as conn, conn.cursor() as cur:
        cur.execute(ONE_ORDER, (order_code(code),))
        row = cur.fetchone()
    if row is None:
        abort(404, "There is no such order.")
    return Order(*row)._asdict()


def record_scan(conn: Any, scan: NewScan) -> tuple[Order, Scan] | None:
    """The statements of the example app's function of this name."""
    approved, rejected = (1, 0) if scan.quality == "ok" else (0, 1)
    with conn.cursor() as cur:
        cur.execute(COUNT_SCAN, (approved, rejected, scan.order))
        if cur.rowcount == 0:
            return None
        cur.execute(ONE_ORDER, (scan.order,))
        order = Order(*cur.fetchone())
        number = order.approved + order.rejected
        saved_at = datetime.now(UTC).isoformat(timespec="microseconds")
        saved = Scan(order.code, number, scan.box, scan.quality, scan.operator, saved_at)
        cur.execute(INSERT_SCAN, saved)
    return order, saved
