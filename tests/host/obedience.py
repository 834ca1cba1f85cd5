"""Orders as the tests of this folder give them, and carry them out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask_pooled_db.host import (
    Duty,
    Giving,
    Publisher,
    Reply,
    orders,
)
from flask_pooled_db.host.orders import Order, new_order
from harness.waiting import PATIENCE, wait_until
from tests.host.meeting import (
    NAME,
    Counting,
    location_in,
    publisher_in,
)

FAST = 0.02


class Doing:
    """What carries out orders, and notes them. With `stops` it waits for `go`."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.stops = False
        self.error: BaseException | None = None
        self.go = threading.Event()
        self.ended = threading.Event()

    def __call__(self, duty: Duty) -> dict[str, Any]:
        self.seen.append({"kind": duty.order.kind, **duty.order.arguments})
        try:
            while self.stops and not self.go.is_set():
                duty.tell(len(self.seen), 4)
                duty.pause(0.01)
            if self.error is not None:
                raise self.error
        finally:
            self.ended.set()
        return {"n": len(self.seen)}


Worker = tuple[Publisher, Counting]


@contextlib.contextmanager
def published(folder: Path, carry_out: Doing, n: int = 0) -> Iterator[tuple[Publisher, Counting]]:
    """One that publishes, and has done so."""
    pair = publisher_in(folder, n, carry_out)
    pair[0].begin()
    pair[0].read()
    try:
        yield pair
    finally:
        carry_out.go.set()
        pair[0].end()


@contextlib.contextmanager
def given(folder: Path, seconds: float = PATIENCE, kind: str = "work") -> Iterator[Giving]:
    """An order that stands in the block."""
    one = publisher_in(folder)[0].giving()
    assert one.give(kind, {"a": 1}, seconds)
    try:
        yield one
    finally:
        one.withdraw()


def replies_when_over(one: Giving) -> list[Reply]:
    replies: list[Reply] = []

    def are_over() -> bool:
        replies[:] = one.replies()
        return all(reply.is_over for reply in replies)

    wait_until(are_over, "all answers")
    return replies


def order_files(folder: Path) -> set[str]:
    """What lies there because of orders."""
    names = {path.name for path in (folder / NAME).iterdir()}
    return {name for name in names if name.startswith(("order-", "answer-"))}


def write_order(folder: Path, order: Order) -> Path:
    with location_in(folder).opened() as directory:
        orders.write_order(directory, order)
    return folder / NAME / order.name


def an_order(seconds: float = PATIENCE) -> Order:
    return new_order("0" * 16, "work", {"a": 1}, seconds, ())


OBEYS = """
seen = []
def obey(duty):
    seen.append(duty)
    return {"n": len(seen)}
from flask_pooled_db.host import publisher as timing
timing.INTERVAL = 0.02
timing.FIRST_INTERVAL = 0.01
publisher, counting = publisher_in(folder, 5, obey)
publisher.begin()
publisher.read()
"""
