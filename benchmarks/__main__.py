"""`python -m benchmarks`: measure, print the report, and keep that of a whole run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import bare, connect, fairness, memory, roundtrips, throughput, tls, webapp
from benchmarks.effort import FULL, QUICK, Effort
from benchmarks.measure import Row
from benchmarks.report import machine_facts, render
from tests.support.signals import unwind_on_signals

BENCHMARKS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (bare, throughput, roundtrips, connect, tls, fairness, memory, webapp)
}
REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks that are named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="about a minute, and less exact")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    names = options.names or list(BENCHMARKS)
    report = make_report(names, QUICK if options.quick else FULL, _progress)
    print(report)
    if not options.quick and set(names) == set(BENCHMARKS):
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(report)


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
