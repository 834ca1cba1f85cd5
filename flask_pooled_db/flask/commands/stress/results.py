"""What `flask pooled-db stress` tells in the end: as JSON, and as tables for people."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from flask_pooled_db.flask.commands.stress.tally import Times
from flask_pooled_db.flask.commands.tables import lines_of

Findings = Mapping[str, Any]

NOT_TOLD = "not told"


def of_times(times: Times, seconds: float) -> dict[str, Any]:
    """Return durations as they are told, which were counted in so many seconds."""
    return {
        "count": times.count,
        "per_second": round(times.count / seconds, 1) if seconds else 0.0,
        "p50_ms": _milliseconds(times.quantile(0.5)),
        "p99_ms": _milliseconds(times.quantile(0.99)),
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def left_behind(left: Mapping[str, Any]) -> str:
    """Return the sentence about what was left behind; an empty text if nothing was."""
    told = [f"{name.replace('_', ' ')}: {count}" for name, count in left.items() if count]
    return f"Left behind: {', '.join(told)}." if told else ""


def lines_of_findings(found: Findings) -> Iterator[str]:
    """Yield the lines for people."""
    rows = [(found["unit"].upper(), "COUNT", "PER SECOND", "P50 MS", "P99 MS")]
    rows += [(name, *_cells(times)) for name, times in found["times"].items()]
    yield from lines_of(rows)
    for title, errors in (("FAILED", found["failed"]), ("STARTED OVER", found["started_over"])):
        if errors:
            yield ""
            in_order = sorted(errors.items(), key=lambda item: -item[1])
            yield from lines_of([(title, "COUNT"), *((name, str(n)) for name, n in in_order)])
    yield ""
    left = [(name.replace("_", " "), _told(value)) for name, value in found["left"].items()]
    yield from lines_of([("LEFT BEHIND", "COUNT"), *left])
    if why := found.get("server_not_known"):  # sockets use no server
        yield ""
        yield f"What the server has left is not known: {why}."


def _cells(times: Mapping[str, Any]) -> tuple[str, str, str, str]:
    shown = ["-" if times[name] is None else f"{times[name]:.2f}" for name in ("p50_ms", "p99_ms")]
    return str(times["count"]), f"{times['per_second']:.1f}", shown[0], shown[1]


def _told(value: object) -> str:
    if value is None:
        return NOT_TOLD
    return ", ".join(map(str, value)) or "0" if isinstance(value, list) else str(value)


@contextlib.contextmanager
def progress(seconds: float) -> Iterator[Callable[[float], None]]:
    """Show how far it is, if a terminal looks on. Yields what is to be told the seconds. A terminal
    that goes away meanwhile is no error.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    steps = 1000
    bar = click.progressbar(length=steps, file=sys.stderr, show_pos=False)

    def tick(passed: float) -> None:
        with contextlib.suppress(OSError):
            bar.update(min(int(passed / seconds * steps), steps) - bar.pos)

    with contextlib.suppress(OSError):
        bar.__enter__()
    try:
        yield tick
    finally:
        with contextlib.suppress(OSError):
            bar.__exit__(None, None, None)
