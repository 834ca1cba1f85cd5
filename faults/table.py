"""The report: what was lost, by fault and by system, as it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faults.catalog import FAULTS
from faults.databases import MARIADB, POSTGRESQL
from faults.load import THREADS
from faults.runs import FULL_SHARE, WINDOW, Outcome
from faults.systems import SYSTEMS
from harness.report import page, table

BAR = 1.0
"""Seconds from the server being back to the first success, and to full throughput."""

Results = Mapping[str, Mapping[str, Outcome | str]]
"""By fault and by system; a text in place of an outcome says why there is none."""

HEAD = f"""\
# Reliability

Made by `make faults` (`python -m faults`; `--quick` takes a few minutes and writes no file;
names select: `python -m faults 1-kill 5-deaf`).

Real servers, MariaDB's and PostgreSQL's, are broken under the load of {THREADS} threads (with
gevent, of 1,000 greenlets) that transfer money between accounts. Every commit that was acknowledged
is written to a file outside of the database before its thread goes on, and the server's own books
(a trigger's) tell afterwards which transfers are there, and whether as a whole. All pools run with
their own defaults, and are used as their documentation shows. The numbers are as measured, also
where another pool does better.

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
  outages of the run. Throughput is full with a window of {WINDOW} s at {FULL_SHARE:.0%} of the rate
  before. The bar for both is {BAR:.0f} s.
"""

SUMMARY_HEAD = [
    "Acknowledged commits lost / transfers half or doubled / connections, files and threads leaked",
    "/ seconds to full throughput (never: not within the time given; none where there was no",
    "outage to recover from).",
]

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


NUMBERS = COLUMNS[1:-1]


def render(results: Results, facts: Sequence[str]) -> str:
    """The whole page."""
    full: list[str] = []
    for name, outcomes in results.items():
        rows = [_row(kind, outcome) for kind, outcome in outcomes.items()]
        full += [f"### {name}", "", FAULTS[name].about, "", *table(COLUMNS, rows, NUMBERS), ""]
    sections = {"In short": _summary(results), "The bars": _bars(results), "In full": full}
    return page(HEAD, facts, sections)


def _summary(results: Results) -> list[str]:
    """Fault by system, a table for each kind of server: what was lost or torn, what leaked, how
    long it took.
    """
    lines = list(SUMMARY_HEAD)
    for database in (MARIADB, POSTGRESQL):
        if found := _on(database, results):
            kinds = [kind for kind in SYSTEMS if any(kind in row for row in found.values())]
            rows = [
                [name, *(_short(row[kind]) if kind in row else "" for kind in kinds)]
                for name, row in found.items()
            ]
            lines += ["", *table(["fault", *(SYSTEMS[kind].title for kind in kinds)], rows)]
    return lines


def _on(database: str, results: Results) -> Results:
    """Those that were measured on this kind of server."""
    return {
        name: outcomes
        for name, outcomes in results.items()
        if all(SYSTEMS[kind].database == database for kind in outcomes)
    }


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


def _row(kind: str, outcome: Outcome | str) -> Sequence[str]:
    title = SYSTEMS[kind].title
    if isinstance(outcome, str):
        return [title, *[""] * len(NUMBERS), f"**{outcome}**"]
    audit = outcome.audit
    errors = ", ".join(f"{name}: {count}" for name, count in sorted(outcome.errors.items()))
    return [
        title,
        f"{audit.acknowledged:,}",
        *map(str, (audit.lost, audit.doubled, audit.half, audit.denied, audit.unknown)),
        str(outcome.leaked),
        str(outcome.stuck),
        _seconds(outcome, outcome.first_success),
        _seconds(outcome, outcome.full_throughput),
        errors or "none",
    ]
