"""What commands show of the processes of this host: once, or again and again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any, TypeVar

import click

from flask_pooled_db.config import shown as shown_name
from flask_pooled_db.flask.commands.group import Seconds
from flask_pooled_db.flask.context import current
from flask_pooled_db.host import HostStats, ProcessStats
from flask_pooled_db.pool.histogram import BOUNDS
from flask_pooled_db.telemetry.shown import shown

Lines = Iterator[str]

Read = Callable[[HostStats], tuple[Any, Lines]]
"""What a command makes of the numbers: plain values, and lines of text."""

SAME_PLACE = "run the command as the workers' user, with the same POOLED_DB_RUNTIME_DIR"
"""What to do where processes that run are not found."""

F = TypeVar("F", bound=Callable[..., Any])


def live_options(command: F) -> F:
    """Give a command the options of `show()`."""
    for option in (
        click.option("--interval", type=Seconds(least=0.1), default=2.0, show_default=True),
        click.option("--watch", is_flag=True, help="Print it anew every --interval seconds."),
        click.option("--json", "as_json", is_flag=True, help="Print it as JSON."),
    ):
        command = option(command)
    return command


def show(read: Read, *, as_json: bool, watch: bool, interval: float) -> None:
    """Print what `read` makes of the numbers of all processes; again and again, until it is
    interrupted, if `watch` says so.
    """
    state = current()[0]
    try:
        while True:
            text = _rendered(state.read_host(), read, as_json=as_json)
            if watch and not as_json:
                click.clear()  # a terminal; nothing else
            click.echo(text)
            if not watch:
                return
            sleep(interval)
    except KeyboardInterrupt:
        if not watch:
            raise


def _rendered(stats: HostStats, read: Read, *, as_json: bool) -> str:
    values, lines = read(stats)
    return json.dumps(values) if as_json else "\n".join([*problems(stats), *lines])


def problems(stats: HostStats) -> Lines:
    """Yield what keeps the numbers from being those of all processes."""
    if stats.problem is not None:
        what = "Other processes can't be seen" if stats.is_alone else "Not all is seen"
        yield f"{what}: {shown(stats.problem)}"
    for process in stats.processes:
        if process.is_silent:
            yield (
                f"Process {process.pid} has published nothing for {seconds(process.age)}: it is "
                "stopped, or something keeps it from running threads; what is shown of it is old"
            )


def nobody(bind: str | None) -> str:
    """Return what is told where no process has a bind open (None: any bind)."""
    which = "" if bind is None else f" of bind {shown_name(bind)}"
    return (
        f"No process of this app uses a pool{which} at the moment. If one should be seen: "
        f"{SAME_PLACE}."
    )


def seconds(value: float | None) -> str:
    """Return how tables show a time."""
    if value is None:
        return "-"
    if value < 1.0:
        return f"{value * 1000:.3g} ms" if value else "0 s"
    if math.isinf(value):
        return f"> {BOUNDS[-1]:.0f} s"
    if value < 120.0:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200.0 else f"{value / 3600:.0f} h"


def whole(stats: HostStats) -> Iterator[tuple[ProcessStats, str, dict[str, Any]]]:
    """Yield the numbers of each pool that is open, with its process and its bind."""
    for process in stats.processes:
        for bind, numbers in sorted(process.numbers.get("pools", {}).items()):
            yield process, bind, numbers
