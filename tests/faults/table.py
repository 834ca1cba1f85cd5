"""The report: what was lost, by fault and by system, as it was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata

from tests.faults.catalog import FAULTS
from tests.faults.harness import FULL, WINDOW, Outcome
from tests.faults.load import THREADS
from tests.faults.systems import SYSTEMS
from tests.support.server import MariaDBServer

BAR = 1.0
"""Seconds from the server being back to the first success, and to full throughput."""

PACKAGES = ("Flask", "DBUtils", "PyMySQL", "mariadb", "SQLAlchemy", "Flask-SQLAlchemy", "gunicorn")

Results = Mapping[str, Mapping[str, Outcome | str]]
"""By fault and by system; a text in place of an outcome says why there is none."""

HEAD = f"""\
# Reliability

Made by `make faults` (`python -m tests.faults`; `--quick` takes a few minutes and writes no file;
names select: `python -m tests.faults 1-kill 5-deaf`).

Real servers are broken under the load of {THREADS} threads (with gevent, of 1,000 greenlets) that
transfer money between accounts. Every commit that was acknowledged is written to a file outside of
the database before its thread goes on, and the server's own books (a trigger's) tell afterwards
which transfers are there, and whether as a whole. All pools run with their own defaults, and are
used as their documentation shows. The numbers are as measured, also where another pool does better.

- *acknowledged*: transfers whose commit was acknowledged.
- *lost*: acknowledged, and nothing of them is there. *doubled*: there more than once. *half*: of
  all that were tried, those of which a part is there.
- *denied*: there, though the caller got an error that says that nothing was done. Without an error
  of its own for a COMMIT whose answer was lost, a pool can't but deny some.
- *unknown*: callers who were told so (`CommitOutcomeUnknown`), or whose own timeout or whose
  server's end came in between. Such a transfer is there as a whole or not at all.
- *leaked*: connections still lent, beyond the limit on the server, or files left open, when all is
  over. *stuck*: threads that never came back.
- *first success* and *full throughput*: seconds after the database was back, the worst of all
  outages of the run. Throughput is full with a window of {WINDOW} s at {FULL:.0%} of the rate
  before. The bar for both is {BAR:.0f} s.
"""

SUMMARY_HEAD = (
    "Acknowledged commits lost / transfers half or doubled / connections, files and threads leaked",
    "/ seconds to full throughput (never: not within the time given; none where there was no",
    "outage to recover from).",
    "",
)

COLUMNS = (
    "system",
    "acknowledged",
    "lost",
    "doubled",
    "half",
    "denied",
    "unknown",
    "leaked",
    "stuck",
    "first success",
    "full throughput",
    "errors",
)


def render(results: Results, facts: Sequence[str]) -> str:
    """The whole page."""
    lines = [HEAD, "## Measured on", "", *(f"- {fact}" for fact in facts), ""]
    lines += ["## In short", "", *_summary(results), ""]
    lines += ["## The bars", "", *_bars(results), "", "## In full", ""]
    for name, outcomes in results.items():
        lines += [f"### {name}", "", FAULTS[name].about, "", *_table(outcomes), ""]
    return "\n".join(lines)


def _summary(results: Results) -> list[str]:
    """Fault by system: what was lost or torn, what leaked, how long it took."""
    kinds = [kind for kind in SYSTEMS if any(kind in outcomes for outcomes in results.values())]
    lines = [
        *SUMMARY_HEAD,
        f"| fault | {' | '.join(SYSTEMS[kind].title for kind in kinds)} |",
        f"| --- |{' --- |' * len(kinds)}",
    ]
    for name, outcomes in results.items():
        cells = [_short(outcomes[kind]) if kind in outcomes else "" for kind in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _short(outcome: Outcome | str) -> str:
    if isinstance(outcome, str):
        return f"**{outcome}**"
    audit = outcome.audit
    figures = [audit.lost, audit.half + audit.doubled, outcome.leaked + outcome.stuck]
    shown = [f"**{figure}**" if figure else "0" for figure in figures]
    return " / ".join([*shown, _seconds(outcome, outcome.full_throughput)])


def _seconds(outcome: Outcome, seconds: float | None) -> str:
    if not outcome.outages:
        return ""
    return "never" if seconds is None else f"{seconds:.2f}"


def _bars(results: Results) -> list[str]:
    lines = []
    for name, outcomes in results.items():
        for kind, outcome in outcomes.items():
            if SYSTEMS[kind].is_ours:
                broken = missed(outcome)
                verdict = f"**missed**: {'; '.join(broken)}" if broken else "met"
                lines.append(f"- {name}, {SYSTEMS[kind].title}: {verdict}")
    return lines


def missed(outcome: Outcome | str) -> list[str]:
    """What an outcome of the extension's falls short of."""
    if isinstance(outcome, str):
        return [outcome]
    broken = list(outcome.problems)
    if outcome.outages:
        times = {
            "the first success": outcome.first_success,
            "full throughput": outcome.full_throughput,
        }
        for what, seconds in times.items():
            if seconds is None:
                broken.append(f"{what} never came")
            elif seconds > BAR:
                broken.append(f"{what} took {seconds:.2f} s")
    return broken


def _table(outcomes: Mapping[str, Outcome | str]) -> list[str]:
    head = [f"| {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) - 2)} --- |"]
    return [*head, *(_row(kind, outcome) for kind, outcome in outcomes.items())]


def _row(kind: str, outcome: Outcome | str) -> str:
    title = SYSTEMS[kind].title
    if isinstance(outcome, str):
        return f"| {title} |{' |' * (len(COLUMNS) - 2)} **{outcome}** |"
    audit = outcome.audit
    errors = ", ".join(f"{name}: {count}" for name, count in sorted(outcome.errors.items()))
    cells = [
        title,
        f"{audit.acknowledged:,}",
        *map(str, (audit.lost, audit.doubled, audit.half, audit.denied, audit.unknown)),
        str(outcome.leaked),
        str(outcome.stuck),
        _seconds(outcome, outcome.first_success),
        _seconds(outcome, outcome.full_throughput),
        errors or "none",
    ]
    return f"| {' | '.join(cells)} |"


def machine_facts() -> list[str]:
    """What the numbers depend on, and nothing that names the machine."""
    with MariaDBServer() as server:
        version = server.query("SELECT VERSION()")[0][0]
    today = datetime.now(UTC).date().isoformat()
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    return [
        f"{today}, {os.cpu_count()} CPUs ({platform.machine()}), {load}",
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}",
        ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES),
        f"MariaDB server {version}, on the loopback interface",
    ]
