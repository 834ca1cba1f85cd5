"""`flask pooled-db drain`: new connections for all workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flask_pooled_db.config import shown
from flask_pooled_db.flask.commands.group import Seconds, group
from flask_pooled_db.flask.commands.ordering import (
    MORE,
    bind_named,
    exit_if_any_failed,
    in_words,
    order,
    results_of,
)
from flask_pooled_db.flask.ordered import DRAIN
from flask_pooled_db.host import Reply


@group.command()
@click.option("--bind", metavar="NAME", help="Which database; all of them if left out.")
@click.option(
    "--over",
    type=Seconds(),
    default=0.0,
    help="Spread it over so many seconds, so that not all workers connect at once.",
)
@click.option(
    "--wait",
    type=Seconds(),
    help=f"How long to wait for the workers; {MORE:g} seconds more than --over if left out.",
)
def drain(bind: str | None, over: float, wait: float | None) -> None:
    """Replace all connections of all workers on this host: idle ones are closed, those in use when
    they come back. No request fails for it.

    It is done when no connection is open any more that was open before. A worker that begins later
    has new connections anyway.
    """
    wait = over + MORE if wait is None else wait
    if wait <= over:
        raise click.UsageError("--wait must be longer than --over, which the workers take in full")
    name = bind_named(bind, is_default=False)
    replies = order(DRAIN, {"bind": name, "over": over}, wait, _tell)
    results_of(replies, name, _has_any)
    exit_if_any_failed(replies)


def _has_any(result: Mapping[str, Any]) -> bool:
    return any(result.get(name) for name in ("open", "why"))


def _tell(reply: Reply) -> str:
    """Return what a worker has replaced."""
    answer = reply.answer
    if answer is None or not answer.total + len(answer.result):
        return "has begun"
    if not answer.is_final:
        return f"replaced {answer.done} of {answer.total} connections"
    if not answer.result.get("open"):
        return "does not have this bind open"
    counts, kept = answer.result.get("drained", {}), answer.result.get("in_memory", [])
    number = sum(counts.values())
    text = f"replaced {number} connection{'' if number == 1 else 's'}"
    if len(counts) > 1:
        text += f" ({in_words(counts)})"
    if kept:
        names = ", ".join(map(shown, kept))
        text += f"; those of {names} stay: the database is in memory, and would end with them"
    return text
