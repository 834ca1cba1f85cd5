"""What is wrong with the pools of a host, in words, and what to do: from their numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from flask_pooled_db.config import shown as shown_bind
from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry import lately, present
from flask_pooled_db.telemetry.finding import NOTE, SEVERITIES, Finding, Rule, counted
from flask_pooled_db.telemetry.past import Past

MOST_ALIKE = 3
"""Findings of one kind that are told one by one."""

RULES: tuple[Rule, ...] = (
    present.away,
    present.full,
    lately.timeouts,
    lately.unknown_outcomes,
    present.near_limit,
    present.rests_in_transaction,
    present.alone,
    present.silent,
    lately.ended_workers,
    lately.leaks,
    present.long_leases,
    lately.connect_failures,
    lately.aborted,
    lately.dead,
    lately.slow_statements,
    lately.broken,
    present.starved,
)
"""In the order in which findings of one severity are told."""


def findings(stats: HostStats, past: Past | None = None) -> list[Finding]:
    """Return what is wrong now, and what went wrong since `past`; the worst first."""
    found = [one for rule in RULES for one in _folded(rule(stats, past))]
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))  # which is stable


def _folded(found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings; of many of one kind a few, and how many more there are."""
    alike = sorted(found, key=lambda one: (one.kind, SEVERITIES.index(one.severity)))
    for kind, group in groupby(alike, key=lambda one: one.kind):
        ones = list(group)
        if len(ones) <= MOST_ALIKE:
            yield from ones
            continue
        first, rest = ones[: MOST_ALIKE - 1], ones[MOST_ALIKE - 1 :]
        yield from first
        names = [shown_bind(one.bind) for one in rest if one.bind is not None]
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        title = f"There are {len(rest)} more of these"
        if len(names) == len(rest):
            title = f"The same holds for {counted(len(rest), 'other database')}: {listed}"
        yield Finding(f"{kind}-more", rest[0].severity, title)


HEADLINES = {
    "away": "A database is away",
    "full": "A pool has no free connection",
    "timeouts": "Callers got no connection",
    "outcomes_unknown": "A COMMIT got no answer",
    "near-limit": "A server is nearly out of connections",
    "rests-in-transaction": "A transaction rests on a server",
    "alone": "One worker alone is seen",
    "silent": "A worker is silent",
    "ended": "Workers have ended",
    "leaked": "Connections were not given back",
    "long": "A connection is held for long",
    "connect_errors": "Connecting has failed",
    "aborted": "Transactions were lost",
    "dead": "Idle connections were found dead",
}
"""What the first line says of a kind of finding. No number is in it: it is read aloud each time it
changes."""


def verdict(found: Sequence[Finding], stats: HostStats) -> dict[str, str]:
    """Return the first line for these findings, the worst of which comes first, and its severity.
    What is only worth knowing is nothing wrong.
    """
    kinds = [one.kind for one in found if one.severity != NOTE and one.kind in HEADLINES]
    if not kinds and not stats.processes:
        return {"severity": NOTE, "text": "No worker has used a database yet"}
    if not kinds:
        return {"severity": "good", "text": "All is well"}
    worst = next(one for one in found if one.kind == kinds[0])
    more = len(dict.fromkeys(kinds)) - 1
    text = HEADLINES[worst.kind] + (f", and {more} more" if more else "")
    return {"severity": worst.severity, "text": text}
