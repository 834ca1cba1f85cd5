"""Orders as the commands give them: to all workers, with a bar while they are at work, and a line
for each of them at the end.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic, sleep
from typing import Any

import click

from flask_pooled_db.config import looks_like_url, shown
from flask_pooled_db.errors import UsageError
from flask_pooled_db.flask.commands.group import in_one_line
from flask_pooled_db.flask.commands.live import SAME_PLACE
from flask_pooled_db.flask.commands.stopping import ENDS, interrupted_by
from flask_pooled_db.flask.context import AppState, current
from flask_pooled_db.flask.ordered import why_tenant
from flask_pooled_db.host import Giving, Reply, Status, Unusable

MORE = 30.0
"""Seconds that workers have beyond the time that an order takes by itself."""

GLANCE = 0.1
"""Seconds between two looks at the answers."""

LINES = 5.0
"""Seconds between two lines of progress, where there is no terminal."""

PARTS = 1000
"""How many steps a bar has."""

BAR = 24
"""How many characters wide it is: with its words it fits into a line of 60."""

Tell = Callable[[Reply], str]
"""Returns what a worker has done that has answered, or is at work, as the rest of a line."""


def bind_named(name: str | None, *, is_default: bool) -> str | None:
    """Return the name of the bind that is meant: None stands for all, or for the default one.

    Raises `ClickException` if there can be none, or if it has no connections of its own.
    """
    if name is not None and looks_like_url(name):
        raise click.ClickException("a URL was given where the name of a bind is expected")
    try:
        state = current()[0]
        if name is None and not is_default:
            return None
        bind = state.name(name)
    except UsageError as error:
        raise click.ClickException(in_one_line(error)) from error
    pool = state.registry.pools.get(bind)
    if pool is not None and pool.config.server is not None:
        raise click.ClickException(why_tenant(pool))
    return bind


def order(kind: str, arguments: Mapping[str, Any], seconds: float, tell: Tell) -> list[Reply]:
    """Order all workers to do something, wait up to `seconds` until they have, and print a line for
    each of them. Returns what they have answered.

    Raises `ClickException` if there are no workers, or no way to reach them.
    """
    giving = _giving(current()[0])
    replies: list[Reply] = []
    try:
        with interrupted_by(*ENDS):
            _give_and_wait(giving, kind, arguments, seconds, replies)
    except Unusable as error:
        raise click.ClickException(f"the workers can't be reached: {error}") from error
    except KeyboardInterrupt:
        _withdraw(giving)
        click.echo(
            "Interrupted. The order is withdrawn: workers that have begun stop within a second and "
            "keep what they have done; the others do nothing."
        )
        for reply in replies:
            click.echo(f"worker {_who(reply)} {_so_far(reply, tell)}")
        raise click.exceptions.Exit(1) from None
    for reply in replies:
        click.echo(f"worker {_who(reply)} {_what(reply, seconds, tell)}")
    return replies


def _give_and_wait(
    giving: Giving,
    kind: str,
    arguments: Mapping[str, Any],
    seconds: float,
    replies: list[Reply],
) -> None:
    """Give an order, and wait until all have carried it out. `replies` has what they have answered,
    whatever comes in between.
    """
    deadline = monotonic() + seconds
    try:
        if not giving.give(kind, dict(arguments), seconds):
            raise click.ClickException(
                "found no running process of this app that has used a database on this host: "
                f"{SAME_PLACE}"
            )
        with _progress(kind) as show:
            while True:
                is_late = monotonic() >= deadline
                replies[:] = sorted(giving.replies(), key=lambda reply: reply.pid)
                show(replies)
                if is_late or all(reply.is_over for reply in replies):
                    return
                sleep(GLANCE)
    finally:
        with contextlib.suppress(click.ClickException):  # it ends by itself, and is swept
            _withdraw(giving)


def results_of(
    replies: Sequence[Reply], bind: str | None, has_any: Callable[[Mapping[str, Any]], bool]
) -> Sequence[Mapping[str, Any]]:
    """Return what the workers tell that have come to an end.

    Raises `ClickException` if all have, and none has this bind open, as `has_any` finds. None
    stands for all binds.
    """
    ends = [reply.answer.result for reply in replies if reply.answer and reply.answer.is_final]
    if bind is not None and len(ends) == len(replies) and not any(map(has_any, ends)):
        raise click.ClickException(f"no worker has the bind {shown(bind)} open")
    return ends


def exit_if_any_failed(replies: Sequence[Reply]) -> None:
    """Exit with status 1 if a worker has not done what it was ordered to."""
    if not all(map(_is_well, replies)):
        raise click.exceptions.Exit(1)


def _is_well(reply: Reply) -> bool:
    if reply.answer is not None and reply.answer.is_final:
        return reply.answer.status is Status.DONE
    return not reply.is_alive


def _giving(state: AppState) -> Giving:
    if state.publisher is None:
        raise click.ClickException(
            "the workers can't be reached: POOLED_DB_RUNTIME_DIR is False, so that they meet "
            "nowhere; set it to a directory, or leave it out"
        )
    return state.publisher.giving()


def _withdraw(giving: Giving) -> None:
    try:
        giving.withdraw()
    except Unusable as error:
        text = f"the order could not be withdrawn, and stands until its end: {error}"
        raise click.ClickException(text) from error


# What is shown


def _who(reply: Reply) -> str:
    return f"{reply.pid}" if reply.pid else "(its numbers can't be read)"


def _what(reply: Reply, seconds: float, tell: Tell) -> str:
    """Return what a worker has done, once nobody waits any more."""
    answer = reply.answer
    if answer is not None and answer.status is Status.DONE:
        return tell(reply)
    if answer is not None and answer.is_final:
        why = answer.result.get("why")
        if answer.status is Status.REFUSED:
            return f"refused: {why}"
        return f"failed ({why}): its log says more"
    if not reply.is_alive:
        return "ended meanwhile, and its connections with it"
    if answer is None:
        return f"did not answer within {seconds:g} s"
    return (
        f"{tell(reply)}, and did not finish within {seconds:g} s: connections still in use are "
        "closed when they are returned"
    )


def _so_far(reply: Reply, tell: Tell) -> str:
    if reply.answer is None:
        return "had not begun" if reply.is_alive else _what(reply, 0.0, tell)
    return tell(reply) if not reply.answer.is_final else _what(reply, 0.0, tell)


def _part_done(replies: Sequence[Reply]) -> float:
    """Return the part of the work that is done, each worker's counting as much as another's."""
    parts = [1.0 if reply.is_over else _part_of(reply) for reply in replies]
    return sum(parts) / len(parts) if parts else 0.0


def _part_of(reply: Reply) -> float:
    answer = reply.answer
    return min(answer.done / answer.total, 1.0) if answer is not None and answer.total else 0.0


@contextlib.contextmanager
def _progress(kind: str) -> Iterator[Callable[[Sequence[Reply]], None]]:
    """Yield what shows how far the workers are: a bar on a terminal, otherwise lines."""
    if not sys.stdout.isatty():
        yield _lines(f"{kind}: waiting for the workers")
        return
    label = f"{kind}: workers"
    with click.progressbar(range(PARTS), label=label, show_eta=False, width=BAR) as bar:

        def show(replies: Sequence[Reply]) -> None:
            bar.label = f"{label}, {_count(replies)} done"
            bar.update(max(round(_part_done(replies) * PARTS) - bar.pos, 0))
            bar.render_progress()

        yield show


def _lines(label: str) -> Callable[[Sequence[Reply]], None]:
    shown_at, last = monotonic(), ""

    def show(replies: Sequence[Reply]) -> None:
        nonlocal shown_at, last
        now, text = monotonic(), f"{label}, {_count(replies)} done ({_part_done(replies):.0%})"
        if text != last and (not last or now - shown_at >= LINES):
            shown_at, last = now, text
            click.echo(text)

    return show


def _count(replies: Sequence[Reply]) -> str:
    return f"{sum(reply.is_over for reply in replies)} of {len(replies)}"


def in_words(numbers: Mapping[str, int]) -> str:
    """Return numbers by the names of binds, as a part of a line."""
    return ", ".join(f"{shown(bind)} {number}" for bind, number in numbers.items())
