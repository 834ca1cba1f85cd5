"""`flask pooled-db resize`: other limits for a bind in all workers, until they restart."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import click

from flask_pooled_db.config import DEFAULT_BIND, PREFIX, fit_sizes, is_count, shown
from flask_pooled_db.errors import ConfigError
from flask_pooled_db.flask.commands.group import Seconds, group
from flask_pooled_db.flask.commands.ordering import (
    MORE,
    bind_named,
    exit_if_any_failed,
    order,
    results_of,
)
from flask_pooled_db.flask.context import current
from flask_pooled_db.flask.ordered import RESIZE, USUAL, to_keep
from flask_pooled_db.host import Reply


def _check_size(ctx: click.Context, param: click.Parameter, size: int | None) -> int | None:
    if size is not None and not is_count(size):
        raise click.BadParameter("it must be a whole number, 0 or more", ctx, param)
    return size


_size = functools.partial(click.option, type=int, metavar="N", callback=_check_size)


@group.command()
@_size("--maxconnections", required=True, help="How many may be open; 0: any.")
@_size("--mincached", help="How many are kept open.")
@_size("--maxcached", help="How many may be idle; 0: any.")
@click.option("--bind", metavar="NAME", help="Which database; the default one if left out.")
@click.option(
    "--wait",
    type=Seconds(),
    default=MORE,
    show_default=True,
    help="How long to wait for the workers.",
)
def resize(
    maxconnections: int,
    mincached: int | None,
    maxcached: int | None,
    bind: str | None,
    wait: float,
) -> None:
    """Change how many connections each worker on this host may have to a database, until it is
    restarted. What is left out is as configured, as far as it fits.

    It is done when no worker has more. Connections in use above the limit are closed when they come
    back. A worker that begins later has what is configured.
    """
    if not wait:
        raise click.UsageError("--wait must be more than 0: the workers look once a second")
    sizes = {"maxconnections": maxconnections, "mincached": mincached, "maxcached": maxcached}
    given = {name: size for name, size in sizes.items() if size is not None}
    try:
        fit_sizes(given, USUAL)
    except ConfigError as error:
        raise click.UsageError(" ".join(error.problems)) from error
    name = bind_named(bind, is_default=True)
    replies = order(RESIZE, {"bind": name, "sizes": given}, wait, _tell)
    results = results_of(replies, name, _has_any)
    if any(map(_has_set, replies)):
        _explain(str(name), results, given)
    exit_if_any_failed(replies)


def _has_any(result: Mapping[str, Any]) -> bool:
    return bool(result.get("resized") or result.get("why"))


def _has_set(reply: Reply) -> bool:
    answer = reply.answer
    return answer is not None and bool(answer.total or answer.result.get("resized"))


def _tell(reply: Reply) -> str:
    """Return what a worker has set."""
    answer = reply.answer
    if answer is None or not answer.total + len(answer.result):
        return "has begun"
    if not answer.is_final:
        left = max(answer.total - answer.done, 0)
        return f"has the new limits and {left} connection{'' if left == 1 else 's'} too many"
    changes = answer.result.get("resized", {})
    if not changes:
        return "does not have this bind open"
    (change,) = changes.values()
    return f"has {_words(change['sizes'])} (before: {_words(change['before'])})"


def _words(sizes: Mapping[str, int]) -> str:
    names = ("maxconnections", "maxcached", "mincached")
    return ", ".join(f"{name} {sizes[name]}" for name in names)


def _explain(bind: str, results: Sequence[Mapping[str, Any]], given: Mapping[str, int]) -> None:
    """Say how long that lasts, and what to set to keep it."""
    changes = [change for one in results for change in one.get("resized", {}).values()]
    if changes:  # workers know what the loader has returned for a bind that is opened by its name
        keep = changes[0]["keep"]
    else:
        own = current()[0].registry.pools.get(bind)
        keep = to_keep(USUAL if own is None else own.config, given)
    click.echo(
        "This lasts until a worker restarts: new workers use the configured limits. To keep it, "
        f"set {_where(bind, {name.upper(): size for name, size in keep.items()})}."
    )


def _where(bind: str, keep: Mapping[str, int]) -> str:
    if bind == DEFAULT_BIND:
        return _listed([f"{PREFIX}{name} = {size}" for name, size in keep.items()])
    keys = _listed([f"{name} to {size}" for name, size in keep.items()])
    if bind in current()[0].registry.fixed:
        return f"{keys} in {PREFIX}BINDS[{shown(bind)}]"
    return f"{keys} in what the bind_loader returns for {shown(bind)}"


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
