"""The report: one table, what it was measured on, and how each bar fared."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata

from benchmarks.measure import Row
from tests.support.server import MariaDBServer

PACKAGES = ("Flask", "DBUtils", "PyMySQL", "mariadb", "SQLAlchemy", "Flask-SQLAlchemy", "gunicorn")

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

TABLE_HEAD = (
    "| benchmark | case | unit | ours | peer | peer's | ratio (lowest to highest) | bar | met |",
    "| --- | --- | --- | ---: | --- | ---: | --- | --- | --- |",
)


def render(
    rows: Mapping[str, Sequence[Row]], about: Mapping[str, str], facts: Sequence[str]
) -> str:
    """The whole page. `rows` and `about`, what each benchmark does, are by its name."""
    lines = [HEAD, "## Measured on", "", *(f"- {fact}" for fact in facts), "", "## Results", ""]
    lines += table(rows)
    lines += ["", "## Bars", "", *(_bars(rows) or ["None was measured."])]
    lines += ["", "## What is measured", ""]
    for name, own in rows.items():
        notes = " ".join(dict.fromkeys(row.note for row in own if row.note))
        lines.append(f"- **{name}**: {about[name]} {notes}".rstrip())
    return "\n".join(lines) + "\n"


def table(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """The table's lines."""
    return [*TABLE_HEAD, *(_line(name, row) for name, own in rows.items() for row in own)]


def _line(name: str, row: Row) -> str:
    values = _number(row.ours), row.peer, _number(row.theirs)
    ratio = f"{_number(row.ratio)} ({_number(row.lowest)} to {_number(row.highest)})"
    bar = (str(row.bar), "yes" if row.is_met else "**no**") if row.bar else ("", "")
    return f"| {' | '.join((name, row.case, row.unit, *values, ratio, *bar))} |"


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


def machine_facts() -> list[str]:
    """What the numbers depend on, and nothing that names the machine."""
    with MariaDBServer() as server:
        version = server.query("SELECT VERSION()")[0][0]
    today = datetime.now(UTC).date().isoformat()
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return [
        f"{today}, {os.cpu_count()} CPUs ({platform.machine()}), {load}",
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}",
        packages,
        f"MariaDB server {version}, on the loopback interface",
    ]
