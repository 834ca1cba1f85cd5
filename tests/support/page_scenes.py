"""Hosts as a page may find them, made up: what their workers have published, moment by moment."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from flask_pooled_db.drivers import ServerLoad
from flask_pooled_db.flask.numbers import merge
from flask_pooled_db.host import HostStats, ProcessStats
from flask_pooled_db.pool.histogram import BOUNDS

Numbers = dict[str, Any]

FAST = (40, 70, 90, 60, 30, 12, 5, 2, 1, 0, 0, 0, 0, 0, 0, 0)
"""Times of a pool that works as it should."""

LONG = (2, 3, 5, 8, 6, 5, 4, 6, 9, 12, 20, 30, 24, 6, 0, 0)


def pool(**changes: Any) -> Numbers:
    """The numbers of a pool that is at rest, but for these."""
    nothing = {"counts": [0] * (len(BOUNDS) + 1), "sum": 0.0}
    names = (
        *("open", "in_use", "idle", "waiting", "checkouts", "waits", "timeouts", "connects"),
        *("connect_errors", "resets", "commits", "rollbacks", "aborted", "outcomes_unknown"),
        *("implicit_commits", "leaked"),
    )
    return {
        **dict.fromkeys(names, 0),
        "maxconnections": 20,
        "mincached": 3,
        "maxcached": 10,
        "longest_lease": 0.0,
        "evictions": {},
        "wait_time": nothing,
        "use_time": nothing,
        "connect_time": nothing,
        "down": None,
        "label": "mysql db.internal:3306/shop",
        **changes,
    }


def load(**changes: Any) -> Numbers:
    """What a server with room for more has answered, but for these."""
    told = ServerLoad(
        connections=41, max_connections=151, active=5, idle=34, in_transaction=2, oldest=0.7
    )
    return {**told._asdict(), "ago": 1.2, **changes}


def lease(name: str = "endpoint 'orders'", age: float = 0.2, **changes: Any) -> Numbers:
    """A lease that is out; by default all of its time was idle."""
    return {
        "bind": "default",
        "name": name,
        "place": ["/srv/shop/views/orders.py", 41],
        "age": age,
        "idle": age,
        "rests_for": age,
        "in_transaction": False,
        **changes,
    }


def process(pid: int = 4101, **numbers: Any) -> ProcessStats:
    """A worker that has published these numbers."""
    own: Numbers = {
        name: numbers.pop(name) for name in ("age", "uptime", "token") if name in numbers
    }
    published = {
        "app": "shop",
        "version": "0.1.0",
        "python": "3.11.7",
        "program": "gunicorn",
        "threads": 18,
        "pools": {},
        "closed": {},
        "callers": {},
        "slow_statements": {},
        "leases": [],
        "slow": [],
        "events": [],
        **numbers,
    }
    told: Numbers = {"token": f"t{pid}", "pid": pid, "uptime": 5320.0, "age": 0.4, **own}
    return ProcessStats(numbers=published, **told)


def host(*processes: ProcessStats, problem: str | None = None, **ended: Any) -> HostStats:
    """A host with these workers; `ended` is what others have counted."""
    totals: Numbers = merge({}, dict(ended))
    for one in processes:
        totals = merge(totals, dict(one.numbers))
    return HostStats(processes, totals, merge({}, dict(ended)), problem)


# What lives: each is called with the seconds since its beginning

Scene = Callable[[float], HostStats]


def _times(counts: tuple[int, ...], seconds: float) -> Numbers:
    grown = [int(count * seconds / 4) for count in counts]
    uppers = (*BOUNDS, 90.0)
    return {
        "counts": grown,
        "sum": sum(n * upper * 0.7 for n, upper in zip(grown, uppers, strict=True)),
    }


def _busy(at: float, seed: int, *, load: float = 4.0) -> int:
    """How many connections a worker uses at a moment: up and down, the same at each run."""
    noise = random.Random(seed * 1000 + int(at / 2)).random()
    wave = math.sin(at / 23 + seed) + 0.6 * math.sin(at / 7 + 2 * seed)
    return max(round(load + wave * 1.6 + noise * 2 - 1), 0)


def _callers(at: float) -> Mapping[str, Numbers]:
    shares = {
        "orders": (0.9, 0.18),
        "search": (0.5, 0.1),
        "checkout": (0.35, 0.2),
        "invoice": (0.2, 0.3),
        "command 'flask nightly'": (0.06, 0.05),
        "healthz": (0.02, 0.4),
    }
    return {
        name: {"leases": int(at * 7), "seconds": at * share, "idle": at * share * idle}
        for name, (share, idle) in shares.items()
    }


def _well_pool(at: float, seed: int, **changes: Any) -> Numbers:
    used = _busy(at, seed)
    done = int((at + 900) * 23)
    return pool(
        in_use=used,
        idle=max(8 - used, 1),
        open=used + max(8 - used, 1),
        checkouts=done,
        commits=done - 90,
        rollbacks=90,
        connects=14 + seed,
        waits=3,
        evictions={"lifetime": 4 + seed, "idle": 6},
        wait_time=_times((900, 20, 8, 3, 1, *[0] * 11), at + 900),
        use_time=_times(FAST, at + 900),
        server=load(),
        **changes,
    )


def _reports(at: float, seed: int) -> Numbers:
    return pool(
        in_use=_busy(at, seed + 5, load=0.6),
        idle=2,
        open=2 + _busy(at, seed + 5, load=0.6),
        maxconnections=5,
        checkouts=int(at * 2) + 400,
        commits=int(at * 2) + 400,
        connects=6,
        evictions={"idle": 3},
        wait_time=_times((40, 2, *[0] * 14), at + 300),
        use_time=_times((0, 0, 0, 2, 6, 9, 8, 4, 3, 1, *[0] * 6), at + 300),
        label="postgresql reports.internal:5432/reports",
        server=load(
            connections=9, max_connections=97, active=1, idle=8, in_transaction=0, oldest=None
        ),
    )


SLOW_TEXT = (
    "SELECT o.id, o.code, SUM(l.price * l.amount) AS total FROM orders o JOIN lines l ON "
    "l.order_id = o.id WHERE o.customer = %s GROUP BY o.id ORDER BY o.created_at DESC LIMIT 50"
)


def _slow(at: float) -> list[Numbers]:
    return [
        {
            "bind": "default",
            "name": "search",
            "text": SLOW_TEXT,
            "count": 14,
            "seconds": 21.7,
            "longest": 3.2,
            "last": 48.0 + at % 60,
        },
        {
            "bind": "reports",
            "name": "command 'flask nightly'",
            "text": "INSERT INTO daily SELECT day, COUNT(*) FROM visits GROUP BY day",
            "count": 2,
            "seconds": 9.1,
            "longest": 5.0,
            "last": 1620.0 + at,
        },
    ]


def _leases(at: float, seed: int, used: int) -> list[Numbers]:
    names = ("endpoint 'orders'", "endpoint 'search'", "endpoint 'checkout'", "endpoint 'invoice'")
    places = ("orders.py", "search.py", "checkout.py", "invoice.py")
    found = []
    for number in range(used):
        which = (number + seed) % len(names)
        age = 0.02 + (at * 13 + number * 7 + seed) % 9 / 20
        rests = 0.0 if number % 3 else age * 0.3
        place = [f"/srv/shop/views/{places[which]}", 30 + 11 * which]
        found.append(
            lease(
                names[which],
                age,
                idle=age * 0.3,
                rests_for=rests,
                place=place,
                in_transaction=number % 2 == 0,
            )
        )
    return sorted(found, key=lambda one: -one["age"])


def _worker(at: float, seed: int, pid: int, **changes: Any) -> ProcessStats:
    own = _well_pool(at, seed)
    return process(
        pid,
        **{
            "pools": {"default": own, "reports": _reports(at, seed)},
            "leases": _leases(at, seed, own["in_use"]),
            "callers": _callers(at + 800),
            "slow": _slow(at) if seed == 1 else [],
            "slow_statements": {"search": 14} if seed == 1 else {},
            "uptime": 5320.0 + at - seed * 1.3,
            "age": (at * 3.7 + seed) % 1,
            **changes,
        },
    )


def all_well(at: float) -> HostStats:
    """Three workers, none of which lacks anything."""
    return host(*(_worker(at, seed, 4100 + seed) for seed in (1, 2, 3)))


def full_pool(at: float) -> HostStats:
    """One worker whose endpoint calls something slow inside its block, and whose callers wait."""
    held = min(20, int(4 + at * 0.6))
    waiting = 3 + int(3 * random.Random(int(at / 4)).random()) if held == 20 else 0
    ages = [4 + (at + number * 1.3) % 16 for number in range(held)]
    leases = [
        lease(age=age, idle=age * 0.95, rests_for=age * 0.93, in_transaction=True)
        if number < 18
        else lease("endpoint 'search'", 0.4, place=["/srv/shop/views/search.py", 52], idle=0.1)
        for number, age in enumerate(sorted(ages, reverse=True))
    ]
    own = _well_pool(at, 1) | {
        "in_use": held,
        "open": max(held, 8),
        "idle": max(8 - held, 0),
        "waiting": waiting,
        "timeouts": max(int((at - 40) / 4), 0),
        "waits": int(at * 2),
        "use_time": _times(LONG, at + 20),
        "wait_time": _times((20, 3, 2, 2, 3, 4, 5, 9, 14, 22, 18, 9, 4, 0, 0, 0), max(at - 20, 0)),
    }
    callers = {**_callers(at + 100), "orders": {"leases": 40, "seconds": at * 9, "idle": at * 8.5}}
    full = _worker(at, 1, 4101, leases=leases, callers=callers)
    full.numbers["pools"]["default"] = own
    return host(full, _worker(at, 2, 4102), _worker(at, 3, 4103))


def leak(at: float) -> HostStats:
    """A view that keeps connections, and some that were forgotten for good."""
    kept = [
        lease(
            "endpoint 'export'",
            300 + at,
            place=["/srv/shop/views/export.py", 118],
            in_transaction=True,
        ),
        lease("endpoint 'export'", 187 + at, place=["/srv/shop/views/export.py", 118]),
        lease(
            "thread 'mailer'",
            66 + at,
            bind="reports",
            place=["/srv/shop/mailer.py", 23],
            rests_for=64 + at,
        ),
    ]
    first = _worker(at, 1, 4101)
    own = first.numbers["pools"]["default"]
    own.update(leaked=int(at / 12), in_use=own["in_use"] + 2, open=own["open"] + 2)
    own["server"] = load(oldest=300.0 + at, ago=0.1)
    own["evictions"] = {**own["evictions"], "leaked": int(at / 12)}
    leases = [*kept, *first.numbers["leases"]]
    first = process(4101, **{**first.numbers, "leases": leases, "uptime": 5320 + at})
    return host(first, _worker(at, 2, 4102), _worker(at, 3, 4103))


def database_away(at: float) -> HostStats:
    """A database that can't be reached, beside one that can."""
    workers = []
    for seed in (1, 2, 3):
        one = _worker(at, seed, 4100 + seed, leases=[])
        away = {"since": 4.0 + at, "reason": "OperationalError (2003)", "refuses": at > 6}
        one.numbers["pools"]["default"].update(
            in_use=0,
            idle=0,
            open=1,
            waiting=0 if at > 12 else 3 + seed,
            down=away,
            connect_errors=int(at) + 4,
            timeouts=int(at * 2),
        )
        workers.append(one)
    return host(*workers)


def worker_killed(at: float) -> HostStats:
    """Workers that are killed again and again, and one that hangs."""
    turn = int(at / 9)
    pid = 4103 + turn
    fresh = _worker(at, 3, pid, uptime=at % 9, token=f"t{pid}")
    return host(
        _worker(at, 1, 4101, age=0.4 + max(at - 12, 0)),
        _worker(at, 2, 4102),
        fresh,
    )


def many_binds(at: float) -> HostStats:
    """Two hundred databases by name, which come and go."""
    workers = []
    for seed in (1, 2, 3):
        pools = {"default": _well_pool(at, seed)}
        for number in range(200):
            used = _busy(at, number * 3 + seed, load=-1.2)
            pools[f"customer-{number:03}"] = pool(
                in_use=used,
                idle=1,
                open=used + 1,
                maxconnections=5,
                checkouts=int(at * (number % 7)) + 30,
                connects=3 + number % 4,
                evictions={"idle": number % 9} if number % 9 else {},
                wait_time=_times((9, 1, *[0] * 14), at + number),
                use_time=_times((2, 4, 3, 1, *[0] * 12), at + number),
                label=f"mysql tenants.internal:3306/customer_{number:03}",
            )
        pools["customer-117"].update(in_use=5, idle=0, open=5, waiting=2)
        events = [
            {
                "bind": f"customer-{(int(at / 5) * 3 + number) % 200:03}",
                "what": what,
                "reason": reason,
                "ago": number * 5.0 + at % 5,
            }
            for number, (what, reason) in zip(
                range(50),
                itertools.cycle(
                    [
                        ("opened", "its first use"),
                        ("closed", "nobody used it for 60 s"),
                        ("closed", "another bind needs its place"),
                    ]
                ),
                strict=False,
            )
        ]
        workers.append(_worker(at, seed, 4100 + seed, pools=pools, events=events))
    return host(*workers)


EVIL = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"
BIDI = "invoice\u202egpj.exe\u202c\u200b\x1b[31m\x07\n"


def hostile(at: float) -> HostStats:
    """Names that are markup, or turn around what stands beside them, or never end."""
    names = (EVIL, BIDI, "W" * 900, "\ud800 alone", "zalgo" + "\u0301" * 60, "'; DROP TABLE x; --")
    pools = {
        name: pool(in_use=2, open=3, idle=1, label=f"mysql {EVIL}", evictions={EVIL: 2, BIDI: 1})
        for name in names
    }
    pools[EVIL].update(in_use=20, open=20, waiting=3)
    pools[BIDI].update(down={"since": at, "reason": EVIL + BIDI, "refuses": True})
    leases = [
        lease(f"endpoint {name!r}"[:400], 30 + at, bind=name, place=[f"/srv/{name}", 1])
        for name in names
    ]
    slow = [
        {"bind": n, "name": n, "text": n, "count": 1, "seconds": 2, "longest": 2, "last": at}
        for n in names
    ]
    events = [{"bind": name, "what": "closed", "reason": name + EVIL, "ago": at} for name in names]
    callers = {name: {"leases": 3, "seconds": at + 1, "idle": at / 2} for name in names}
    one = process(
        4101,
        app=EVIL + BIDI,
        program=EVIL,
        python=EVIL,
        pools=pools,
        leases=leases,
        slow=slow,
        events=events,
        callers=callers,
        slow_statements={name: int(at) for name in names},
    )
    return host(one, problem=f"{EVIL}{BIDI}")


def nothing_yet(at: float) -> HostStats:
    """No worker has used a pool."""
    return HostStats()


SCENES: Mapping[str, Scene] = {
    "all-well": all_well,
    "full-pool": full_pool,
    "leak": leak,
    "database-away": database_away,
    "worker-killed": worker_killed,
    "many-binds": many_binds,
    "hostile": hostile,
    "nothing-yet": nothing_yet,
}
