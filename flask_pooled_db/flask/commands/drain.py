"""`flask pooled-db drain`: new connections for all workers."""

from __future__ import annotations

import click

from flask_pooled_db.config import shown
from flask_pooled_db.flask.commands.group import group
from flask_pooled_db.flask.commands.ordering import (
    MORE,
    bind_named,
    check_duration,
    exit_if_any_failed,
    in_words,
    order,
)
from flask_pooled_db.flask.ordered import DRAIN
from flask_pooled_db.host import Reply


@group.command()
@click.option("--bind", metavar="NAME", help="Which database; all of them if left out.")
@click.option(
    "--over",
    type=float,
    metavar="SECONDS",
    callback=check_duration,
    default=0.0,
    help="Spread it over so many seconds, so that not all workers connect at once.",
)
@click.option(
    "--wait",
    type=float,
    metavar="SECONDS",
    callback=check_duration,
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
    finals = [reply.answer.result for reply in replies if reply.answer and reply.answer.is_final]
    if name is not None and len(finals) == len(replies) and not any(map(_has_any, finals)):
        raise click.ClickException(f"no worker has the bind {shown(name)} open")
    exit_if_any_failed(replies)


def _has_any(result: dict[str, object]) -> bool:
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
