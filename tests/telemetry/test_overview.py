"""The view of a host that the page is sent."""

from __future__ import annotations

import json
from typing import Any

from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.overview import (
    MOST_BINDS,
    MOST_EVENTS,
    MOST_LEASES,
    MOST_SLOW,
    MOST_WORKERS,
    overview,
)
from tests.support.page_scenes import SCENES, host, lease, pool, process


def test_sums() -> None:
    """A bind has the sums of its pools, and the counters of workers that have ended."""
    pools = {"shop": pool(in_use=2, idle=1, open=3, timeouts=4, maxconnections=5)}
    ended: Any = {"pools": {"shop": {"timeouts": 10}, "old": {"timeouts": 1}}}
    view = overview(host(process(1, pools=pools), process(2, pools=pools), **ended))
    shop, old = view["binds"]
    assert [shop[name] for name in ("in_use", "idle", "open", "max", "workers")] == [4, 2, 6, 10, 2]
    assert (shop["timeouts"], old["timeouts"], old["workers"]) == (18, 1, 0)


def test_no_limit() -> None:
    """A pool without a limit leaves its bind without one."""
    pools = [{"shop": pool(maxconnections=most)} for most in (5, 0)]
    view = overview(host(*(process(at, pools=each) for at, each in enumerate(pools))))
    assert view["binds"][0]["max"] is None


def test_ages() -> None:
    """Ages are as they are now: what a process told a while ago is older by that."""
    told = lease(age=2.0, idle=1.0, rests_for=0.5)
    busy = lease(age=1.0, idle=0.2, rests_for=0.0)
    event = {"bind": "a", "what": "opened", "reason": "its first use", "ago": 5.0}
    slow = {"bind": "a", "name": "b", "text": "c", "count": 1, "seconds": 2.0, "longest": 2.0}
    one = process(age=3.0, leases=[told, busy], events=[event], slow=[{**slow, "last": 9.0}])
    view = overview(host(one))
    first, second = view["leases"]
    assert [first[name] for name in ("age", "idle", "rests_for")] == [5.0, 4.0, 3.5]
    assert [second[name] for name in ("age", "idle", "rests_for")] == [4.0, 0.2, 0.0]
    assert view["events"][0]["ago"] == 8.0
    assert view["slow"][0]["last"] == 12.0


def test_who_has_connections() -> None:
    """What callers have had is counted together with what they have now, by one name."""
    callers = {"orders": {"leases": 3, "seconds": 10.0, "idle": 2.0}}
    view = overview(host(process(callers=callers, leases=[lease(age=5.0)], age=0.0)))
    assert view["endpoints"] == [
        {"name": "orders", "leases": 3, "seconds": 15.0, "idle": 7.0, "now": 1}
    ]


def test_slow_of_several_workers() -> None:
    """A statement that was slow in several workers is one row."""
    slow = {"bind": "a", "name": "b", "text": "c", "count": 2, "seconds": 3.0, "longest": 2.0}
    workers = [process(at, slow=[{**slow, "last": 9.0 + at}], age=0.0) for at in (1, 2)]
    (row,) = overview(host(*workers))["slow"]
    assert (row["count"], row["seconds"], row["longest"], row["last"]) == (4, 6.0, 2.0, 10.0)


def test_order_of_binds() -> None:
    """Those come first that need to be looked at."""
    down = {"since": 1.0, "reason": "x", "refuses": False}
    pools = {
        "a": pool(),
        "b": pool(in_use=1),
        "c": pool(waiting=1),
        "d": pool(in_use=20),
        "e": pool(down=down),
    }
    view = overview(host(process(pools=pools)))
    assert [bind["name"] for bind in view["binds"]] == ["e", "d", "c", "b", "a"]


def test_bounded() -> None:
    """However much there is, the view is bounded, and says how much more there is."""
    name = "x" * 5000
    pools = {f"{number:05}{name}": pool(in_use=1, label=name) for number in range(1000)}
    event = {"bind": name, "what": "closed", "reason": name, "ago": 5.0}
    slow = {"bind": name, "text": name, "count": 2, "seconds": 3.0, "longest": 2.0, "last": 1.0}
    workers = [
        process(
            pid,
            pools=pools if pid == 1 else {},
            leases=[lease(name=name, bind=name, place=[name, 1])] * 20,
            events=[event] * 50,
            slow=[{**slow, "name": f"{pid} {number}"} for number in range(20)],
        )
        for pid in range(1, 201)
    ]
    view = overview(host(*workers))
    assert len(view["binds"]) == MOST_BINDS
    assert view["more_binds"]["count"] == 1000 - MOST_BINDS
    assert view["more_binds"]["in_use"] == 1000 - MOST_BINDS
    assert len(view["leases"]) == MOST_LEASES
    assert len(view["events"]) == MOST_EVENTS
    assert len(view["slow"]) == MOST_SLOW
    assert len(view["workers"]) == MOST_WORKERS
    assert view["more_workers"] == 100
    assert len(json.dumps(view)) < 500_000


def test_server() -> None:
    """How full a server is, is told as the last worker saw it; not at all where it is not known."""
    pools = [{"a": pool(server={"connections": n, "max_connections": 100})} for n in (7, 9)]
    workers = [process(1, pools=pools[0], age=3.0), process(2, pools=pools[1], age=0.1)]
    assert overview(host(*workers))["binds"][0]["server"]["connections"] == 9
    assert overview(host(process(pools={"a": pool()})))["binds"][0]["server"] is None


def test_nobody() -> None:
    """A host on which nobody has used a pool has an empty view, and every scene one in JSON."""
    assert overview(HostStats())["binds"] == []
    for scene in SCENES.values():
        json.dumps(overview(scene(30.0)), allow_nan=False)
