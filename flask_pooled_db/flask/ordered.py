"""What the pools of an app do when a command orders it: each kind of order, as a process carries it
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Protocol

from flask_pooled_db.config import PoolConfig, fit_sizes, shown
from flask_pooled_db.errors import ConfigError, PoolClosed
from flask_pooled_db.host import Duty, Refused
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.draining import Draining
from flask_pooled_db.pool.registry import Registry
from flask_pooled_db.runtime import workers

DRAIN, RESIZE = "drain", "resize"

GLANCE = 0.05
"""Seconds between two looks at what is left to do."""

SIZES = ("mincached", "maxcached", "maxconnections")

USUAL = PoolConfig(creator=object())
"""What is configured where nothing is."""

Result = dict[str, Any]


class HasRegistry(Protocol):
    """What knows the pools of an app, once there are any."""

    registry: Registry | None


def carry_out(owner: HasRegistry, duty: Duty) -> Result:
    """Do what the pools of this process are ordered to do. Raises `Refused`."""
    kind = _KINDS.get(duty.order.kind)
    if kind is None or owner.registry is None:
        raise Refused("it runs a version of flask_pooled_db that does not know this order")
    return kind(owner.registry, duty)


def _pools(registry: Registry, bind: Any) -> list[Pool]:
    """Return the pool of a bind, if it is open, or all that have connections of their own."""
    if bind is None:
        return registry.own_pools()
    pool = registry.pools.get(bind)
    if pool is not None and pool.config.server is not None:
        raise Refused(why_tenant(pool))
    return [] if pool is None else [pool]


def why_tenant(pool: Pool) -> str:
    """Return why a tenant takes no orders."""
    return (
        f"bind {shown(pool.bind)} is a tenant: its connections are those of the bind "
        f"{shown(str(pool.config.server))}, so order that"
    )


# Drain


def _drain(registry: Registry, duty: Duty) -> Result:
    """Replace all connections. Where a database is in memory and ends with its last connection,
    none is.
    """
    order = duty.order
    seconds = max(order.given + float(order.arguments["over"]) - monotonic(), 0.0)
    pools = _pools(registry, order.arguments["bind"])
    drained = [pool for pool in pools if pool.driver.outlives_connections]
    drains = [
        # Pools take turns as well: there may be thousands, with one connection each.
        Draining(pool.engine, seconds, (duty.offset + number / len(drained)) % 1.0)
        for number, pool in enumerate(drained)
    ]
    totals = [each.total for each in drains]
    _wait_for(duty, sum(totals), lambda: _advance(drains))
    counts = zip((pool.bind for pool in drained), totals, strict=True)
    return {
        "open": len(pools),
        "drained": {bind: count for bind, count in counts if count},
        "in_memory": [pool.bind for pool in pools if pool not in drained],
    }


def _advance(drains: list[Draining]) -> int:
    """Take the next step. Returns how many connections are left, and forgets who has none."""
    left = [(each, each.advance()) for each in drains]
    drains[:] = [each for each, count in left if count]
    return sum(count for _, count in left)


def _wait_for(duty: Duty, total: int, left: Callable[[], int]) -> None:
    """Tell how many are left of all, until none is."""
    while (count := left()) > 0:
        duty.tell(max(total - count, 0), total)
        duty.pause(GLANCE)
    duty.tell(total, total)


# Resize


def _resize(registry: Registry, duty: Duty) -> Result:
    """Change the sizes of a bind's pool, and wait until no more connections are open than that."""
    arguments = duty.order.arguments
    resized = {}
    pools = _pools(registry, arguments["bind"])
    for pool in pools:
        before, sizes = _sizes_of(pool), _new_sizes(pool, arguments["sizes"])
        keep = to_keep(pool.config, arguments["sizes"])
        try:
            with workers.connecting():  # it may close connections, which no fork may come into
                pool.resize(**sizes)
        except PoolClosed:  # since it was looked up
            continue
        resized[pool.bind] = {"before": before, "sizes": sizes, "keep": keep}
    total = _surplus_of(pools)
    _wait_for(duty, total, lambda: _surplus_of(pools))
    return {"resized": resized}


def _new_sizes(pool: Pool, given: Mapping[str, int]) -> dict[str, int]:
    try:
        fitting = fit_sizes({name: int(given[name]) for name in given}, pool.config)
    except ConfigError as error:
        raise Refused(" ".join(error.problems)) from error
    return {name: fitting[name] for name in SIZES}


def _sizes_of(pool: Pool) -> dict[str, int]:
    stats = pool.stats()
    return {name: getattr(stats, name) for name in SIZES}


def to_keep(config: PoolConfig, given: Mapping[str, int]) -> dict[str, int]:
    """Return what is to be configured, so that new processes have these sizes: what differs from
    their configuration, and what may come of its defaults once the others are set.
    """
    fitting, usual = fit_sizes(given, config), fit_sizes(given, USUAL)
    return {
        name: size
        for name, size in sorted(fitting.items())
        if name in given or size != getattr(config, name) or size != usual[name]
    }


def _surplus_of(pools: Iterable[Pool]) -> int:
    numbers = [pool.stats() for pool in pools]
    return sum(max(now.open - now.maxconnections, 0) for now in numbers if now.maxconnections)


_KINDS: dict[str, Callable[[Registry, Duty], Result]] = {DRAIN: _drain, RESIZE: _resize}
