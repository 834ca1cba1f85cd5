"""Orders and their counters."""

from typing import NamedTuple

from flask import Blueprint, abort
from flask.typing import ResponseReturnValue

from example_app.database import reading
from example_app.parsing import order_code

bp = Blueprint("orders", __name__)


class Order(NamedTuple):
    """A row of `orders`; approved + rejected is the number of the order's scans."""

    code: str
    target: int
    approved: int
    rejected: int


ALL_ORDERS = "SELECT code, target, approved, rejected FROM orders ORDER BY code"
ONE_ORDER = "SELECT code, target, approved, rejected FROM orders WHERE code = %s"


@bp.get("/orders")
def list_orders() -> ResponseReturnValue:
    with reading() as cur:
        cur.execute(ALL_ORDERS)
        return {"orders": [Order(*row)._asdict() for row in cur.fetchall()]}


@bp.get("/orders/<code>")
def show_order(code: str) -> ResponseReturnValue:
    try:
        code = order_code(code)
    except ValueError:
        abort(404, "There is no such order.")
    with reading() as cur:
        cur.execute(ONE_ORDER, (code,))
        row = cur.fetchone()
    if row is None:
        abort(404, f"There is no order {code}.")
    return Order(*row)._asdict()
