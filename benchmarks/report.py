"""The report: one table, what it was measured on, and how each bar fared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.measure import Row
from harness.report import page, table

HEAD = """\
# Benchmarks

Made by `make bench` (`python -m benchmarks`; `--quick` takes about a minute and writes no file;
names select: `python -m benchmarks bare connect`).

The contenders of a case are measured in turn, A B C C B A, in the same process and run: every
second round goes backwards, so that none always bears what the same other one left behind. The
values are medians of the rounds. *Ratio* is ours divided by the peer's of the same round: its
median, and in parentheses the lowest and the highest. Times say what this machine is; ratios say
what the pools are.
"""

COLUMNS = (
    "benchmark",
    "case",
    "unit",
    "ours",
    "peer",
    "peer's",
    "ratio (lowest to highest)",
    "bar",
    "met",
)


def render(
    rows: Mapping[str, Sequence[Row]], about: Mapping[str, str], facts: Sequence[str]
) -> str:
    """The whole page. `rows` and `about`, what each benchmark does, are by its name."""
    sections = {
        "Results": results(rows),
        "Bars": _bars(rows) or ["None was measured."],
        "What is measured": [_about(name, about[name], own) for name, own in rows.items()],
    }
    return page(HEAD, facts, sections)


def results(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """The table's lines."""
    cells = [_cells(name, row) for name, own in rows.items() for row in own]
    return table(COLUMNS, cells, numbers=("ours", "peer's"))


def _about(name: str, about: str, rows: Sequence[Row]) -> str:
    notes = " ".join(dict.fromkeys(row.note for row in rows if row.note))
    return f"- **{name}**: {about} {notes}".rstrip()


def _cells(name: str, row: Row) -> Sequence[str]:
    values = _number(row.ours), row.peer, _number(row.theirs)
    ratio = f"{_number(row.ratio)} ({_number(row.lowest)} to {_number(row.highest)})"
    bar = (str(row.bar), "yes" if row.is_met else "**no**") if row.bar else ("", "")
    return name, row.case, row.unit, *values, ratio, *bar


def _number(value: float) -> str:
    if value == math.inf:
        return "∞"
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.1g}"


def _bars(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    return [
        f"- {'met' if row.is_met else '**missed**'}: {name}, {row.case}, beside {row.peer}:"
        f" {row.bar}; measured {_number(row.ratio if row.bar.of_ratio else row.ours)}"
        for name, own in rows.items()
        for row in own
        if row.bar
    ]
