"""P12: what a finalizer counts, wherever the collector runs it, disturbs nobody who asks."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import pytest

from flask_pooled_db.telemetry.slow import MOST_TEXTS, SlowStatements
from flask_pooled_db.telemetry.usage import Usage

MOST_ALLOCATIONS = 60
"""Of objects that the collector follows: more than any of the questions makes until its last
step."""


class Ending:
    """Garbage that takes the collector to find, and that calls something at its end."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._itself = self

    def __del__(self) -> None:
        self._call()


@contextlib.contextmanager
def collection_after(allocations: int, call: Callable[[], object]) -> Iterator[list[None]]:
    """Have the collector call something after so many allocations. Yields its calls."""
    thresholds = gc.get_threshold()
    calls: list[None] = []

    def note() -> None:
        calls.append(None)
        call()

    gc.collect()
    gc.disable()
    Ending(note)
    try:
        gc.set_threshold(allocations)
        gc.enable()
        yield calls
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()


def ask_usage(number: int) -> None:
    usage = Usage()
    for name in range(20):
        usage.add(f"endpoint 'e{name}'", 1.0, 0.5)
    with collection_after(number, lambda: usage.add("endpoint 'late'", 1.0, 0.5)) as calls:
        found = usage.by_name()
    assert len(found) in (20, 20 + len(calls))


def slow_ones(count: int) -> SlowStatements:
    slow = SlowStatements()
    for number in range(count):
        slow.count("thread", "default", f"SELECT {number}", 1.0)
    return slow


def ask_worst(number: int) -> None:
    slow = slow_ones(20)
    with collection_after(number, lambda: slow.count("thread", "default", "late", 1.0)) as calls:
        found = slow.worst(MOST_TEXTS)
    assert len(found) in (20, 20 + len(calls))


@pytest.mark.parametrize("work", [ask_usage, ask_worst])
def test_p12_counted_by_a_finalizer(work: Callable[[int], None]) -> None:
    """Numbers can be asked for while a finalizer counts another name."""
    for allocations in range(1, MOST_ALLOCATIONS):
        work(allocations)
