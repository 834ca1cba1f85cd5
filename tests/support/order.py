"""In which order tests run side by side."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TypeVar

T = TypeVar("T")


def spread(
    items: list[T], workers: int, is_long: Callable[[T], bool], group_of: Callable[[T], str]
) -> list[T]:
    """Return the tests in an order that has each process begin with a like number of long ones.

    Each is given a row of tests, and one that is through takes some from the end of another's row.
    So those at the end must be short. Tests of one group follow one another, and groups of few
    tests come first: a long test that is alone in its group takes the longest.
    """
    groups: tuple[dict[str, list[T]], dict[str, list[T]]] = {}, {}
    for item in items:
        groups[is_long(item)].setdefault(group_of(item), []).append(item)
    short, long = groups
    rows: list[list[list[T]]] = [[] for _ in range(workers)]
    for group in sorted(long.values(), key=len, reverse=True):
        min(rows, key=lambda row: sum(map(len, row))).append(group)
    rest = list(chain.from_iterable(short.values()))
    ordered: list[T] = []
    for place, row in enumerate(rows):
        ordered += chain.from_iterable(reversed(row))
        filled = (place + 1) * len(items) // workers - len(ordered)
        ordered += rest[: max(filled, 0)]
        del rest[: max(filled, 0)]
    return ordered + rest
