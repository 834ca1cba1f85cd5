"""What went wrong with the pools of a host in the last minute: which counters have grown."""

from __future__ import annotations

from collections.abc import Iterator

from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.finding import (
    BAD,
    NOTE,
    WARNING,
    Finding,
    Rule,
    beginning,
    bind_name,
    counted,
    lately,
)
from flask_pooled_db.telemetry.holding import named
from flask_pooled_db.telemetry.overview import down_of, pools_by_bind
from flask_pooled_db.telemetry.past import Past, counts_of

MANY_ENDED = 3
"""Workers that end within a minute before it is more than worth knowing."""

FEW_DEAD = 3
"""Connections that are found dead within a minute before it is told."""


def _grown(stats: HostStats, past: Past | None, name: str) -> Iterator[tuple[str, int]]:
    """Yield the binds of which a counter has grown lately, and by how much; the most first."""
    if past is None:
        return
    found = {}
    for bind, totals in stats.totals.get("pools", {}).items():
        if count := past.since(bind, name, counts_of(totals).get(name, 0)):
            found[bind] = count
    yield from sorted(found.items(), key=lambda pair: -pair[1])


def _happened(
    name: str, severity: str, title: str, detail: str, remedy: str, least: int = 1
) -> Rule:
    """Return a rule about a counter that has grown. The title is given the number and the bind. Of
    a database that is away it is silent: that explains it.
    """

    def rule(stats: HostStats, past: Past | None) -> Iterator[Finding]:
        by_bind = pools_by_bind(stats)
        for bind, count in _grown(stats, past, name):
            if past is not None and count >= least and not down_of(by_bind.get(bind, [])):
                s, has, was = ("", "has", "was") if count == 1 else ("s", "have", "were")
                words = {"n": f"{count:,}", "s": s, "has": has, "was": was}
                text = f"{title.format(**words, bind=bind_name(bind))} {lately(past)}"
                yield Finding(name, severity, text, detail, remedy, bind)

    return rule


timeouts = _happened(
    "timeouts",
    BAD,
    "{n} caller{s} of {bind} got no connection",
    "Requests that want one are answered 503.",
    "See who holds connections: shorten what they do inside their blocks, or raise "
    "POOLED_DB_MAXCONNECTIONS if the server has room.",
)
unknown_outcomes = _happened(
    "outcomes_unknown",
    BAD,
    "{n} COMMIT{s} of {bind} got no answer",
    "Nobody knows whether that work is stored: its callers got CommitOutcomeUnknown.",
    "Look for what it was to store before it is done again; and at the network to the server.",
)
aborted = _happened(
    "aborted",
    WARNING,
    "{n} transaction{s} of {bind} {was} lost",
    "By a deadlock, a lost connection, or an error that was swallowed. Their callers were told.",
    "db.run_transaction() starts over what another try may bring to its end. The log has the "
    "causes.",
)
leaks = _happened(
    "leaked",
    WARNING,
    "{n} connection{s} of {bind} {was} never given back",
    "The pool has taken what was forgotten, and rolled it back.",
    "The log has the file and the line of each: use `with db_connection_context()` there.",
)
dead = _happened(
    "dead",
    WARNING,
    "{n} idle connection{s} of {bind} {was} found dead",
    "The server closes connections, or something between here and there does.",
    "Set POOLED_DB_IDLE_TIMEOUT and POOLED_DB_MAX_LIFETIME below the server's wait_timeout, and "
    "below what a firewall or a proxy allows.",
    FEW_DEAD,
)
broken = _happened(
    "broken",
    NOTE,
    "{n} connection{s} of {bind} {was} closed after an error",
    "It was lost, or its holder was interrupted amid a statement.",
    "The log has the causes: a restart of the server, a timeout, a killed statement.",
)


def connect_failures(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """Connects that have failed, of a database that is not away now."""
    by_bind = pools_by_bind(stats)
    for bind, count in _grown(stats, past, "connect_errors"):
        pools = by_bind.get(bind, [])
        if past is None or down_of(pools):
            continue
        yield Finding(
            "connect_errors",
            WARNING,
            f"{counted(count, 'connect')} to {bind_name(bind)} failed {lately(past)}",
            "It can be reached now.",
            "Was it restarted, or has it refused further connections? The log has the reasons.",
            bind,
        )


def ended_workers(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """Workers that were killed or restarted."""
    if past is None or not past.gone:
        return
    count, living = len(past.gone), len(stats.processes)
    is_fewer = not living
    pids = ", ".join(map(str, sorted(past.gone.values())[:6])) + (" and more" if count > 6 else "")
    has = "has" if count == 1 else "have"
    left = f"{counted(living, 'worker')} live{'s' if living == 1 else ''} now"
    is_bad = count >= MANY_ENDED or is_fewer
    yield Finding(
        "ended",
        WARNING if is_bad else NOTE,
        f"{counted(count, 'worker')} {has} ended {lately(past)}; {left}",
        f"Ended: {pids}. The connections that they held are closed, and what was not committed is "
        "rolled back.",
        "A reload ends all workers once. Else see the log of the server: a worker that took too "
        "long is killed (timeout), and so is one that takes too much memory.",
    )


def slow_statements(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """Statements that were slow."""
    if past is None:
        return
    now = stats.totals.get("slow_statements", {})
    grown = {name: past.slow_since(name, count) for name, count in now.items()}
    total = sum(grown.values())
    if not total:
        return
    name, most = max(grown.items(), key=lambda pair: pair[1])
    yield Finding(
        "slow",
        NOTE,
        f"{counted(total, 'statement')} {'was' if total == 1 else 'were'} slow {lately(past)}",
        f"{beginning(named(name))} ran {'it' if total == 1 else f'{most:,} of them'}.",
        "See the slow statements below: EXPLAIN tells whether an index is missing.",
    )
