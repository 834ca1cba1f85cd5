"""What is wrong with the pools of a host at a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flask_pooled_db.host import WANTED, HostStats
from flask_pooled_db.telemetry.finding import (
    BAD,
    NOTE,
    WARNING,
    Finding,
    beginning,
    bind_name,
    counted,
    lasting,
    sentence_with,
)
from flask_pooled_db.telemetry.holding import Held, held_in, long_held, named, place_of
from flask_pooled_db.telemetry.overview import (
    Numbers,
    address_of,
    down_of,
    is_used_up,
    pools_by_bind,
    refuses,
    server_of,
)
from flask_pooled_db.telemetry.past import Past
from flask_pooled_db.telemetry.shown import shown

NEARLY_FULL = 0.8
FULL = 0.95
"""Shares of a server's connections."""

LONG_OPEN = 60.0
"""Seconds for which a transaction in which nothing runs may be open on a server."""


def away(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """A database that can't be reached."""
    for bind, pools in pools_by_bind(stats).items():
        down = down_of(pools)
        if down is None:
            continue
        label = next((pool["label"] for _, pool in pools if pool.get("label")), "")
        refused = "Callers are refused at once."
        becomes = refused if refuses(pools) else "Callers wait for a connection."
        yield Finding(
            "away",
            BAD,
            f"{sentence_with(bind)} has been away for {lasting(down['since'])}",
            f"The last connect failed with {shown(down['reason'])}. {becomes}",
            f"Is the server up, and can this host reach {shown(label) if label else 'it'}? The "
            "pool tries again by itself, and works within a second of its coming back.",
            bind,
        )


def full(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """A pool without a free connection, and who holds them."""
    for bind, pools in pools_by_bind(stats).items():
        used_up = [(process, pool) for process, pool in pools if is_used_up(pool)]
        if not used_up:
            continue
        waiting = sum(pool.get("waiting", 0) for _, pool in used_up)
        limit = sum(pool["maxconnections"] for _, pool in used_up)
        process, _ = max(used_up, key=lambda pair: pair[1].get("waiting", 0))
        where = f"in worker {process.pid}" if len(used_up) == 1 else f"in {len(used_up)} workers"
        held = held_in([one for one, _ in used_up], bind)
        waits = f", and {counted(waiting, 'caller')} wait{'s' if waiting == 1 else ''}"
        title = f"{sentence_with(bind)} has no free connection {where}"
        yield Finding(
            "full",
            BAD if waiting else WARNING,
            title + (waits if waiting else ""),
            _who_holds(held, limit) if held else f"All {limit} connections are in use.",
            _remedy_of(held, limit),
            bind,
        )


def _who_holds(held: list[Held], limit: int) -> str:
    first = held[0]
    idle = f", {first.idle_share:.0%} of it idle".replace("%", " %")
    known = sum(one.count for one in held)
    of = f"{limit}" if known >= limit else f"the {known} connections that are held for longest"
    text = f"{beginning(named(first.name))} holds {first.count} of {of}"
    text += f"{' connections' if known >= limit else ''}, on average {lasting(first.age)}{idle}"
    if first.place:
        text += f", taken at {place_of(first.place)}"
    others = [f"{named(one.name)} {one.count}" for one in held[1:3]]
    return text + (f"; {', '.join(others)}" if others else "") + "."


def _remedy_of(held: list[Held], limit: int) -> str:
    if not held:
        return "See who holds connections for long below, or give the pool more of them."
    first, who = held[0], named(held[0].name)
    if first.age < 1.0:
        return (
            "Each is held for a short time, so there is more load than connections: raise "
            "POOLED_DB_MAXCONNECTIONS if the server has room, or run fewer threads."
        )
    if first.idle_share >= 0.5:
        return (
            f"Does {who} call something slow inside its block? Do that before the block or after "
            "it: a connection is held to the block's end."
        )
    return (
        f"The statements of {who} take the time: look at the slow ones below, for a missing index "
        "or a lock that another transaction holds."
    )


def starved(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """Callers that wait though the pool is not used up."""
    for bind, pools in pools_by_bind(stats).items():
        short = [pool for _, pool in pools if pool.get("waiting") and not is_used_up(pool)]
        if not short or down_of(pools):
            continue
        waiting = sum(pool["waiting"] for pool in short)
        yield Finding(
            "starved",
            NOTE,
            f"{counted(waiting, 'caller')} of {bind_name(bind)} wait{'s' if waiting == 1 else ''} "
            "while connections are opened",
            "",
            "If that goes on, its server is slow to connect, or POOLED_DB_BINDS_MAXCONNECTIONS is "
            "used up by other databases.",
            bind,
        )


def long_leases(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """A connection that somebody keeps without using it."""
    for held in long_held(stats):
        is_many = held.count > 1
        what = counted(held.count, "connection") if is_many else "a connection"
        state = " with a transaction open" if held.is_in_transaction else ""
        place = f"Taken at {place_of(held.place)}. " if held.place else ""
        harm = "The locks are held for as long. " if held.is_in_transaction else ""
        yield Finding(
            "long",
            WARNING,
            f"{beginning(named(held.name))} has held {what} of {bind_name(held.bind)} for "
            f"{lasting(held.longest)}{state}",
            f"No statement has run for {lasting(held.rests_for)}. {place}{harm}".rstrip(),
            "Is it forgotten, or does it wait for something else? Use `with "
            "db_connection_context()` around the statements alone.",
            held.bind,
        )


def silent(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """A worker that has stopped to publish."""
    for process in stats.processes:
        if process.is_silent:
            yield Finding(
                "silent",
                WARNING,
                f"Worker {process.pid} has published nothing for {lasting(process.age)}",
                "It hangs, is stopped, or gets no processor. Its numbers here are from then.",
                f"See what it does: `py-spy dump --pid {process.pid}`, or the log of its server.",
            )


def _servers(
    stats: HostStats, is_wanted: Callable[[Numbers], bool]
) -> Iterator[tuple[str, Numbers, str | None]]:
    """Yield the servers of which something is so, each with one of its binds and its address: once,
    however many binds it has. One whose address is not known is taken for another one each time.
    """
    told = set[str]()
    for bind, pools in pools_by_bind(stats).items():
        server, at = server_of(pools), address_of(pools)
        if server is None or at in told or not is_wanted(server):
            continue
        if at is not None:
            told.add(at)
        yield bind, server, at


def _is_nearly_full(server: Numbers) -> bool:
    return bool(server["connections"] >= NEARLY_FULL * server["max_connections"])


def _has_long_transaction(server: Numbers) -> bool:
    oldest = server["oldest"]
    return oldest is not None and oldest >= LONG_OPEN


def near_limit(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """A server that has nearly as many connections as it takes: once, however many binds it has."""
    by_bind = pools_by_bind(stats)
    for bind, server, at in _servers(stats, _is_nearly_full):
        number, limit = server["connections"], server["max_connections"]
        on_it = [
            pools
            for name, pools in by_bind.items()
            if name == bind or (at is not None and address_of(pools) == at)
        ]
        own = sum(pool.get("open", 0) for pools in on_it for _, pool in pools)
        yield Finding(
            "near-limit",
            BAD if number >= FULL * limit else WARNING,
            f"The server of {bind_name(bind)} has {number} of its {limit} connections",
            f"{own} of them are this host's. Beyond the limit it refuses all who connect.",
            "Lower POOLED_DB_MAXCONNECTIONS or the number of workers, or raise max_connections.",
            bind,
        )


def rests_in_transaction(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """A connection of a server, whosever it is, that has had a transaction open for long: once,
    however many binds the server has.
    """
    for bind, server, _ in _servers(stats, _has_long_transaction):
        number, oldest = server["in_transaction"], server["oldest"]
        yield Finding(
            "rests-in-transaction",
            WARNING,
            f"{counted(number, 'connection')} of the server of {bind_name(bind)} "
            f"{'is' if number == 1 else 'are'} idle in a transaction, for up to {lasting(oldest)}",
            "Until a transaction ends, its locks are held, and the server keeps old versions of "
            "rows for it.",
            "`flask pooled-db server` shows who has each connection, and can end those that no "
            "worker knows.",
            bind,
        )


def alone(stats: HostStats, past: Past | None) -> Iterator[Finding]:
    """A directory that can't be used, so that workers don't know of each other."""
    if stats.problem is None:
        return
    title = (
        "These are the numbers of one worker alone"
        if stats.is_alone
        else ("The worker that answered could not publish its latest numbers")
    )
    yield Finding(
        "alone",
        NOTE if stats.problem == WANTED else WARNING,
        title,
        f"{shown(stats.problem)}.",
        "Give POOLED_DB_RUNTIME_DIR a directory that the app's user alone can write to.",
    )
