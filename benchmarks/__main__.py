"""`python -m benchmarks`: measure, print the report, and keep that of a whole run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from benchmarks import (
    bare,
    bytecodes,
    connect,
    fairness,
    memory,
    postgresql,
    resets,
    roundtrips,
    starting,
    tasks,
    throughput,
    tls,
    webapp,
)
from benchmarks.effort import FULL, QUICK, Effort
from benchmarks.measure import Row
from benchmarks.report import render
from harness.program import Program
from harness.report import machine_facts
from harness.signals import unwind_on_signals

BENCHMARKS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        bare,
        bytecodes,
        throughput,
        tasks,
        resets,
        roundtrips,
        connect,
        tls,
        fairness,
        memory,
        starting,
        webapp,
        postgresql,
    )
}
PROGRAM = Program(
    "benchmarks",
    BENCHMARKS,
    kind="benchmark",
    about=__doc__,
    quick=(QUICK, "about a minute, and less exact"),
    full=FULL,
    page="benchmarks.md",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks that are named, or all of them."""
    order = PROGRAM.order(arguments)
    report = make_report(order.names, order.effort, _progress)
    PROGRAM.publish(report, keep=order.is_whole)


def make_report(
    names: Sequence[str], effort: Effort, progress: Callable[[str], None] = lambda name: None
) -> str:
    """The report on these benchmarks."""
    facts = machine_facts()
    rows: dict[str, list[Row]] = {}
    for name in names:
        progress(name)
        rows[name] = BENCHMARKS[name].run(effort)
    return render(rows, {name: _about(BENCHMARKS[name]) for name in names}, facts)


def _about(module: ModuleType) -> str:
    return " ".join((module.__doc__ or "").split())


def _progress(name: str) -> None:
    print(f"measuring: {name}", file=sys.stderr)


if __name__ == "__main__":
    unwind_on_signals()
    main()
