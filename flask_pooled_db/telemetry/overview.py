"""The pools of all workers of a host in one view, in plain values: what the page is sent.

It is bounded, however many binds and workers there are. Names and texts in it are as they came:
whoever shows them escapes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flask_pooled_db.drivers import ServerLoad
from flask_pooled_db.host import HostStats, ProcessStats
from flask_pooled_db.telemetry.conventions import version
from flask_pooled_db.telemetry.usage import label_of

MOST_BINDS = 250
MOST_LEASES = 40
MOST_SLOW = 20
MOST_EVENTS = 50
MOST_WORKERS = 100

LONGEST_NAME = 200
"""Characters of a name."""

LONGEST_TEXT = 1000
"""Characters of a statement or a reason."""

GAUGES = ("open", "in_use", "idle", "waiting")
COUNTERS = (
    *("checkouts", "waits", "timeouts", "connects", "connect_errors", "commits", "rollbacks"),
    *("aborted", "outcomes_unknown", "leaked"),
)
TIMES = ("wait_time", "use_time")

Numbers = Mapping[str, Any]


def cut(text: object, most: int = LONGEST_NAME) -> str:
    """Return a text that is not too long."""
    text = str(text)
    return text if len(text) <= most else f"{text[:most]}..."


def overview(stats: HostStats) -> dict[str, Any]:
    """Return what there is to show of a host."""
    binds = sorted(binds_of(stats), key=_attention)
    shown, rest = binds[:MOST_BINDS], binds[MOST_BINDS:]
    leases = sorted(leases_of(stats), key=lambda lease: -lease["age"])
    return {
        "app": cut(next((one.numbers.get("app", "") for one in stats.processes), "")),
        "version": version(),
        "alone": stats.is_alone,
        "binds": shown,
        "more_binds": None if not rest else {"count": len(rest)} | _summed(rest),
        "leases": leases[:MOST_LEASES],
        "endpoints": _endpoints(stats, leases),
        "slow": _slow(stats),
        "events": _events(stats),
        "workers": [_worker(one) for one in stats.processes[:MOST_WORKERS]],
        "more_workers": max(len(stats.processes) - MOST_WORKERS, 0),
    }


def pools_by_bind(stats: HostStats) -> dict[str, list[tuple[ProcessStats, Numbers]]]:
    """Return the pools that are open, each with its process, by the name of their bind."""
    found: dict[str, list[tuple[ProcessStats, Numbers]]] = {}
    for process in stats.processes:
        for bind, pool in process.numbers.get("pools", {}).items():
            found.setdefault(bind, []).append((process, pool))
    return found


def binds_of(stats: HostStats) -> Iterator[dict[str, Any]]:
    """Return each bind that is open in some process, or was: the sums of its pools."""
    by_bind, totals = pools_by_bind(stats), stats.totals.get("pools", {})
    for bind in by_bind.keys() | totals.keys():
        yield _bind(bind, by_bind.get(bind, []), totals.get(bind, {}))


def _bind(bind: str, pools: list[tuple[ProcessStats, Numbers]], totals: Numbers) -> dict[str, Any]:
    limits = [pool.get("maxconnections", 0) for _, pool in pools]
    found: dict[str, Any] = {
        "name": cut(bind),
        "label": cut(next((pool["label"] for _, pool in pools if pool.get("label")), "")),
        "workers": len(pools),
        "max": sum(limits) if all(limits) else None,
        "used_up": sum(1 for _, pool in pools if is_used_up(pool)),
        "down": down_of(pools),
        "failing": refuses(pools),
        "server": server_of(pools),
        "evictions": dict(totals.get("evictions", {})),
    }
    found.update({name: sum(pool.get(name, 0) for _, pool in pools) for name in GAUGES})
    found.update({name: totals.get(name, 0) for name in COUNTERS})
    found.update({name: _counts(totals.get(name, {})) for name in TIMES})
    return found


def is_used_up(pool: Numbers) -> bool:
    """Return whether a pool has lent all the connections it may have."""
    return bool(0 < pool.get("maxconnections", 0) <= pool.get("in_use", 0))


def down_of(pools: Iterable[tuple[ProcessStats, Numbers]]) -> dict[str, Any] | None:
    """Return since when the database of some pools is away, and why; None if it is not."""
    found = [
        {"since": down["since"] + process.age, "reason": cut(down["reason"], LONGEST_TEXT)}
        for process, pool in pools
        if (down := pool.get("down"))
    ]
    return max(found, key=lambda one: one["since"], default=None)


def refuses(pools: Iterable[tuple[ProcessStats, Numbers]]) -> bool:
    """Return whether callers of a database are refused at once, because it is away."""
    return any((pool.get("down") or {}).get("refuses") for _, pool in pools)


def _counts(times: Numbers) -> list[int]:
    """Return a histogram without the empty buckets at its end, which are most."""
    counts = list(times.get("counts", ()))
    while counts and not counts[-1]:
        counts.pop()
    return counts


def server_of(pools: Iterable[tuple[ProcessStats, Numbers]]) -> dict[str, Any] | None:
    """Return how many connections a server has, and may have; None if that is not known."""
    latest = _latest_of(pools)
    if latest is None:
        return None
    return {name: latest.get(name) for name in ServerLoad.__annotations__}


def address_of(pools: Iterable[tuple[ProcessStats, Numbers]]) -> str | None:
    """Return where the server is that has answered; None if that is not known."""
    latest = _latest_of(pools)
    return None if latest is None else latest.get("at")


def _latest_of(pools: Iterable[tuple[ProcessStats, Numbers]]) -> Numbers | None:
    told = [
        (process.age + pool["server"].get("ago", 0.0), pool["server"])
        for process, pool in pools
        if pool.get("server")
    ]
    latest: Numbers = min(told, key=lambda pair: pair[0], default=(0.0, {}))[1]
    return latest if latest.get("max_connections") else None


def _attention(bind: Numbers) -> tuple[Any, ...]:
    """Return by what binds are sorted: those first that need to be looked at."""
    is_away = bool(bind["down"] or bind["failing"])
    is_calm = not bind["used_up"], -bind["waiting"], -bind["in_use"], -bind["open"]
    return (not is_away, *is_calm, bind["name"])


def _summed(binds: Iterable[Numbers]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for bind in binds:
        total.update({name: bind[name] for name in (*GAUGES, *COUNTERS)})
    return {name: total[name] for name in (*GAUGES, *COUNTERS)}


def leases_of(stats: HostStats) -> Iterator[dict[str, Any]]:
    """Return the leases that are out, each with its worker, as they are now."""
    for process in stats.processes:
        for lease in leases_in(process):
            place = lease.get("place")
            yield {
                "pid": lease["pid"],
                "bind": cut(lease["bind"]),
                "name": cut(lease["name"]),
                "place": [cut(place[0], LONGEST_TEXT), int(place[1])] if place else None,
                "age": lease["age"],
                "idle": lease["idle"],
                "rests_for": lease["rests_for"],
                "in_transaction": bool(lease["in_transaction"]),
            }


def leases_in(process: ProcessStats) -> Iterator[dict[str, Any]]:
    """Yield the leases of a process with its id, as they are if nothing has happened since it told
    them: older, and those at rest are idle for longer.
    """
    later = process.age
    for lease in process.numbers.get("leases", ()):
        idle = later if lease["rests_for"] else 0.0
        yield {
            **lease,
            "pid": process.pid,
            "age": lease["age"] + later,
            "idle": lease["idle"] + idle,
            "rests_for": lease["rests_for"] + idle,
        }


def _endpoints(stats: HostStats, leases: Iterable[Numbers]) -> list[dict[str, Any]]:
    """Return for how long callers have had connections, those that they have now included."""
    found: dict[str, dict[str, Any]] = {}
    told = [(name, {**use, "now": 0}) for name, use in stats.totals.get("callers", {}).items()]
    for lease in leases:
        use = {"leases": 0, "seconds": lease["age"], "idle": lease["idle"], "now": 1}
        told.append((label_of(lease["name"]), use))
    for name, use in told:
        total = found.setdefault(cut(name), dict.fromkeys(use, 0))
        for key, number in use.items():
            total[key] += number
    rows = [{"name": name, **use} for name, use in found.items()]
    return sorted(rows, key=lambda row: -row["seconds"])


def _slow(stats: HostStats) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for process in stats.processes:
        for one in process.numbers.get("slow", ()):
            key = cut(one["bind"]), cut(one["name"]), cut(one["text"], LONGEST_TEXT)
            last = one["last"] + process.age
            row = found.setdefault(
                key,
                dict(zip(("bind", "name", "text"), key, strict=True))
                | {"count": 0, "seconds": 0.0, "longest": 0.0, "last": last},
            )
            row["count"] += one["count"]
            row["seconds"] += one["seconds"]
            row["longest"] = max(row["longest"], one["longest"])
            row["last"] = min(row["last"], last)
    return sorted(found.values(), key=lambda row: -row["seconds"])[:MOST_SLOW]


def _events(stats: HostStats) -> list[dict[str, Any]]:
    found = [
        {
            "pid": process.pid,
            "bind": cut(one["bind"]),
            "what": one["what"],
            "reason": cut(one["reason"], LONGEST_TEXT),
            "ago": one["ago"] + process.age,
        }
        for process in stats.processes
        for one in process.numbers.get("events", ())
    ]
    return sorted(found, key=lambda one: one["ago"])[:MOST_EVENTS]


def _worker(process: ProcessStats) -> dict[str, Any]:
    numbers = process.numbers
    pools = numbers.get("pools", {})
    gauges = {name: sum(pool.get(name, 0) for pool in pools.values()) for name in GAUGES}
    return {
        "token": process.token,
        "pid": process.pid,
        "program": cut(numbers.get("program", "")),
        "python": numbers.get("python", ""),
        "threads": numbers.get("threads", 0),
        "uptime": process.uptime,
        "age": process.age,
        "pools": len(pools),
        **gauges,
    }
