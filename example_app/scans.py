"""Scans: a row for each, counted on its order in the same transaction."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from example_app.database import reading, transaction
from example_app.orders import ONE_ORDER, Order
from example_app.parsing import NewScan, parse_scan, parse_scan_query

bp = Blueprint("scans", __name__)


class Scan(NamedTuple):
    """A row of `scans`, in the order of its columns; `saved_at` is ISO 8601 in UTC."""

    order: str
    number: int
    box: str
    quality: str
    operator: str
    saved_at: str


LATEST_SCANS = """
    SELECT order_code, number, box, quality, operator, saved_at
    FROM scans ORDER BY saved_at DESC LIMIT %s
"""
LATEST_SCANS_OF_ORDER = """
    SELECT order_code, number, box, quality, operator, saved_at
    FROM scans WHERE order_code = %s ORDER BY number DESC LIMIT %s
"""
SCAN_OF_BOX = """
    SELECT order_code, number, box, quality, operator, saved_at
    FROM scans WHERE order_code = %s AND box = %s
"""
COUNT_SCAN = """
    UPDATE orders SET approved = approved + %s, rejected = rejected + %s WHERE code = %s
"""
INSERT_SCAN = """
    INSERT INTO scans (order_code, number, box, quality, operator, saved_at)
    VALUES (%s, %s, %s, %s, %s, %s)
"""


class UnknownOrder(Exception):
    """The scan names an order that does not exist."""


class BoxScannedTwice(Exception):
    """The scan names a box that its order has already."""


@bp.post("/scans")
def add_scan() -> ResponseReturnValue:
    scan = parse_scan(request.get_json(silent=True))
    try:
        order, saved = transaction(record_scan, scan)
    except UnknownOrder:
        return {"error": f"There is no order {scan.order}."}, 404
    except BoxScannedTwice:
        error = f"Box {scan.box} of order {scan.order} was scanned before."
        return {"error": error, "scan": find_scan(scan.order, scan.box)._asdict()}, 409
    return {"scan": saved._asdict(), "order": order._asdict()}, 201


@bp.get("/scans")
def list_scans() -> ResponseReturnValue:
    order, limit = parse_scan_query(request.args)
    with reading() as cur:
        if order is None:
            cur.execute(LATEST_SCANS, (limit,))
        else:
            cur.execute(LATEST_SCANS_OF_ORDER, (order, limit))
        return {"scans": [Scan(*row)._asdict() for row in cur.fetchall()]}


def record_scan(conn: Any, scan: NewScan) -> tuple[Order, Scan]:
    """Count a scan on its order and insert it: both happen, or neither.

    The UPDATE comes first: it locks the order's row, so scans of one order queue up behind each
    other there, in one order, and cannot deadlock.
    """
    approved, rejected = (1, 0) if scan.quality == "ok" else (0, 1)
    with conn.cursor() as cur:
        cur.execute(COUNT_SCAN, (approved, rejected, scan.order))
        if cur.rowcount == 0:
            raise UnknownOrder
        cur.execute(ONE_ORDER, (scan.order,))
        order = Order(*cur.fetchone())
        number = order.approved + order.rejected
        saved_at = datetime.now(UTC).isoformat(timespec="microseconds")
        saved = Scan(order.code, number, scan.box, scan.quality, scan.operator, saved_at)
        try:
            cur.execute(INSERT_SCAN, saved)
        except conn.IntegrityError as error:
            raise BoxScannedTwice from error
    return order, saved


def find_scan(order: str, box: str) -> Scan:
    """Return the scan of a box that is known to be there."""
    with reading() as cur:
        cur.execute(SCAN_OF_BOX, (order, box))
        return Scan(*cur.fetchone())
