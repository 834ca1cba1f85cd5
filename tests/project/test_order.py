"""The order of the tests that run side by side."""

from __future__ import annotations

from tests.support.order import spread

GROUPS = {"a": 6, "b": 3, "c": 1, "d": 2, "e": 20, "f": 8}
LONG = "abcd"


def test_order_of_tests() -> None:
    """Each process begins with a like number of long tests, and no group is torn apart there."""
    tests = [(group, number) for group, count in GROUPS.items() for number in range(count)]
    ordered = spread(tests, 4, lambda test: test[0] in LONG, lambda test: test[0])
    assert sorted(ordered) == sorted(tests)
    rows = [ordered[start : start + 10] for start in range(0, 40, 10)]
    begin = ["".join(group for group, _ in row if group in LONG) for row in rows]
    assert begin == ["aaaaaa", "bbb", "dd", "c"]
    assert all(row[len(long)][0] in "ef" for row, long in zip(rows, begin, strict=True))
