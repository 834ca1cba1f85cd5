"""Binds that nobody uses are closed: after their idle timeout, and when others need their place."""

from __future__ import annotations

import functools
import gc
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest

from flask_pooled_db import PoolTimeout
from flask_pooled_db.config import ScopeOptions
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.pool import Engine
from flask_pooled_db.pool.ageing import age
from flask_pooled_db.pool.registry import Registry
from flask_pooled_db.runtime import guard, workers
from harness.waiting import wait_until
from tests.binds.names import Names, block, registry, use
from tests.support.fake_driver import Gate
from tests.support.pools import call


def old(binds: Registry, name: str) -> None:
    """Have a bind look as if it was used long ago."""
    opened = binds.opened[name]
    opened.at = -1e9
    state = opened.engine.state
    state.used_at = -1e9
    for entry in state.idle:
        entry.since = -1e9


# The idle timeout


def test_idle_bind_is_closed() -> None:
    """A bind that was unused for the timeout is closed and forgotten; one that was used is not."""
    names = Names()
    with registry(names, idle=1000) as binds:
        use(binds, "old")
        use(binds, "young")
        pool = weakref.ref(binds.pools["old"])
        old(binds, "old")
        done = age(binds)
        assert (done.binds_open, done.evicted, done.kept, done.in_use) == (1, 1, 0, 0)
        assert set(binds.opened) == set(binds.pools) == set(binds.engines) == {"young"}
        assert names.drivers["old"].count("close") == 1
        assert names.events[-1] == ("closed", "old", "idle")
        gc.collect()
        assert pool() is None


def test_closed_in_the_background() -> None:
    """Nobody has to come for an unused bind to be closed."""
    names = Names()
    with registry(names, idle=0.1) as binds:
        use(binds, "a")
        wait_until(lambda: not binds.opened, "the end of an unused bind")
        assert names.told("a") == ["opened", "closed"]


def test_closed_in_the_background_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread for a sweep, the next one is made when it has."""
    refused: list[str] = []
    start = workers.start

    def refuse_once(name: str, target: Callable[[], object]) -> None:
        if "_age" in repr(target) and not refused:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start(name, target)

    monkeypatch.setattr(workers, "start", refuse_once)
    with registry(Names(), idle=0.1) as binds:
        use(binds, "a")
        wait_until(lambda: refused, "a sweep that could not start")
        wait_until(lambda: not binds.opened, "the end of an unused bind")


def test_no_eviction_without_timeout() -> None:
    """A timeout of 0 closes nothing."""
    with registry(Names(), idle=0) as binds:
        use(binds, "a")
        old(binds, "a")
        assert age(binds).evicted == 0


def test_bind_in_use_stays() -> None:
    """A bind with a lease is not closed, however old its last use is."""
    with registry(Names(), idle=1) as binds:
        with block(binds, "a"):
            old(binds, "a")
            assert age(binds).evicted == 0
            assert age(binds).in_use == 1
        old(binds, "a")
        assert age(binds).evicted == 1


def test_bind_with_waiter_stays() -> None:
    """A bind on which somebody waits for a connection is not closed."""
    names, gates = Names(), []
    names.on_opened = lambda name: gates.append(names.drivers[name].hold("connect"))
    with registry(names, idle=1, most=1) as binds:
        caller = call(use, binds, "a")
        wait_until(lambda: gates, "a bind that is open")
        gates[0].wait_for_arrivals()
        old(binds, "a")
        assert age(binds).evicted == 0
        gates[0].open()
        caller.result()


def test_use_counts_without_a_statement() -> None:
    """A checkout is a use, also if nothing was sent; a failed one too."""
    names = Names()
    with registry(names, idle=1000) as binds:
        use(binds, "a")
        old(binds, "a")
        with block(binds, "a"):
            pass
        assert age(binds).evicted == 0
        old(binds, "a")
        binds.pools["a"].engine.supply.evict_idle("test")
        binds.opened["a"].engine.state.used_at = -1e9
        assert age(binds).evicted == 1


def test_memory_of_idle_connections_closed_earlier() -> None:
    """The last use is remembered when its connection was closed for being idle."""
    with registry(Names(), idle=1000) as binds:
        use(binds, "a")
        binds.opened["a"].at = -1e9
        binds.pools["a"].engine.supply.evict_idle("test")
        assert age(binds).evicted == 0


# A caller that comes in between wins


def test_looked_up_before_eviction() -> None:
    """A block that was made before its bind was closed opens it anew."""
    names = Names()
    with registry(names, idle=1) as binds:
        use(binds, "a")
        scope = block(binds, "a")
        old(binds, "a")
        assert age(binds).evicted == 1
        with scope as conn, conn.cursor() as cur:
            cur.execute("SELECT 1")
        assert names.loads == ["a", "a"]
        assert names.told("a") == ["opened", "closed", "opened"]


def test_comes_during_eviction() -> None:
    """A caller who comes while a bind is being closed gets a new one, after the old one's end was
    told.
    """
    names, gate = Names(), Gate()
    names.on_closed = lambda _: gate.stop_here()
    with registry(names, idle=1) as binds:
        use(binds, "a")
        old(binds, "a")
        sweeper = call(age, binds)
        gate.wait_for_arrivals()
        caller = call(use, binds, "a")
        time.sleep(0.05)
        assert names.loads == ["a"]
        gate.open()
        sweeper.result()
        caller.result()
        assert names.told("a") == ["opened", "closed", "opened"]


def test_comes_while_the_guard_is_asked() -> None:
    """A caller who comes while the guard is asked keeps the bind open."""
    names = Names()
    with registry(names, idle=1000) as binds:
        use(binds, "a")
        old(binds, "a")
        names.on_kept = lambda: use(binds, "a")
        assert age(binds).evicted == 0
        assert names.loads == ["a"]


def test_opened_and_not_yet_used() -> None:
    """A bind that was opened for a caller is not closed before the caller has its connection."""
    names = Names()
    with registry(names, idle=1000, most=1) as binds:
        ticket = binds.open("a")
        old(binds, "a")
        assert age(binds).evicted == 0
        with pytest.raises(PoolTimeout):
            binds.open("b", 0.0)
        assert ticket.pool is binds.pools["a"]
        del ticket
        use(binds, "b")


# MAX_BINDS


def test_least_recently_used_goes_first() -> None:
    """With as many binds open as may be, the one that was used longest ago makes room."""
    names = Names()
    with registry(names, most=3) as binds:
        for name in "abc":
            use(binds, name)
        use(binds, "a")
        use(binds, "d")
        assert set(binds.opened) == {"a", "c", "d"}
        assert names.events[-2:] == [
            ("closed", "b", "another bind needs its place"),
            ("opened", "d", "first use"),
        ]


def test_all_busy_waits_for_a_return() -> None:
    """When all open binds are in use, a caller waits until one of them is not."""
    names = Names()
    with registry(names, most=1) as binds:
        with block(binds, "a"):
            caller = call(use, binds, "b")
            wait_until(lambda: binds._slots._line, "a caller in line")
            assert set(binds.opened) == {"a"}
        caller.result()
        assert set(binds.opened) == {"b"}


def test_all_busy_times_out() -> None:
    """The wait ends at the caller's deadline, and the error says what is open."""
    with registry(Names(), most=1, timeout=0.1) as binds, block(binds, "a"):
        with pytest.raises(PoolTimeout, match=r"1 binds are open, .*POOLED_DB_MAX_BINDS") as caught:
            use(binds, "b")
        assert caught.value.bind == "b"
        assert not binds._slots._line


def _has_line_of(binds: Registry, length: int) -> bool:
    return len(binds._slots._line) == length


def test_waiters_in_order() -> None:
    """Callers who wait for a place among the binds get it in the order in which they came."""
    names = Names()
    with registry(names, most=1) as binds:
        with block(binds, "a"):
            callers = []
            for place, name in enumerate("bcd", 1):
                callers.append(call(use, binds, name))
                wait_until(functools.partial(_has_line_of, binds, place), "one more in line")
        for caller in callers:
            caller.result()
    opened = [name for event, name, _ in names.events if event == "opened"]
    assert opened == ["a", "b", "c", "d"]


def test_waiter_that_gives_up_holds_up_nobody() -> None:
    """One who gave up waiting swallows no place."""
    with registry(Names(), most=1) as binds:
        with block(binds, "a"):
            first = call(binds.open, "b", 0.05)
            wait_until(lambda: binds._slots._line, "a caller in line")
            second = call(use, binds, "c")
            with pytest.raises(PoolTimeout):
                first.result()
        second.result()


def test_never_more_than_max_binds() -> None:
    """A closed bind keeps its place until its last connection is closed."""
    names = Names()
    with registry(names, most=1, timeout=0.2) as binds:
        with block(binds, "a"):
            assert binds.close_bind("a")
            with pytest.raises(PoolTimeout):
                use(binds, "b")
        use(binds, "b")


def test_hung_server_keeps_its_place() -> None:
    """A bind whose connect hangs would give its place only later: another one makes room, and one
    is enough.
    """
    names = Names()
    gates: list[Gate] = []

    def hold(name: str) -> None:
        if name == "hung":
            gates.append(names.drivers[name].hold("connect"))

    names.on_opened = hold
    with registry(names, most=3) as binds:
        with pytest.raises(PoolTimeout):
            Scope(
                cast("Engine", binds.unopened("hung")), Leases(), ScopeOptions(timeout=0.05)
            ).__enter__()
        for name in "abc":
            use(binds, name)
        assert set(binds.opened) == {"hung", "b", "c"}
        gates[0].open()


# The guard


def test_guard_protects() -> None:
    """What the guard names stays open, at the idle timeout and when others need a place."""
    names = Names()
    names.protected = {"a"}
    with registry(names, idle=1, most=2, timeout=0.2) as binds:
        use(binds, "a")
        old(binds, "a")
        done = age(binds)
        assert (done.evicted, done.kept) == (0, 1)
        use(binds, "b")
        use(binds, "c")
        assert set(binds.opened) == {"a", "c"}
        names.protected = {"a", "c"}
        with pytest.raises(PoolTimeout, match="kept by the bind_guard"):
            use(binds, "d")
        names.protected = None  # the guard failed
        old(binds, "a")
        assert (age(binds).evicted, age(binds).kept) == (0, 1)
        names.protected = ()


def test_guard_is_asked_before_each_eviction() -> None:
    """A name that the guard returns only after the sweep has begun is kept as well."""
    names = Names()
    with registry(names, idle=1) as binds:
        for name in "abc":
            use(binds, name)
        for name, at in zip("abc", (1.0, 2.0, 3.0), strict=True):
            old(binds, name)
            binds.opened[name].engine.state.used_at = -1e9 + at

        def protect_late() -> None:
            if names.asked == 3:
                names.protected = {"b"}

        names.on_kept = protect_late
        assert (age(binds).evicted, names.asked) == (2, 4)
        assert set(binds.opened) == {"b"}


def test_guard_not_asked_in_vain() -> None:
    """While nothing is due the guard is not asked."""
    names = Names()
    with registry(names, idle=1000, most=5) as binds:
        use(binds, "a")
        age(binds)
        assert names.asked == 0


# Many names, many threads


def live_of(names: Names) -> Counter[str]:
    """How many more times each bind was opened than closed."""
    live: Counter[str] = Counter()
    for event, name, _ in list(names.events):
        live[name] += 1 if event == "opened" else -1
    return live


@pytest.mark.parametrize("idle", [0.02, 1000.0])
def test_many_names_at_random(idle: float) -> None:
    """Under random use by many threads there are never more binds open than may be, no caller gets
    an error, and the told events of each name alternate.
    """
    names = Names()
    most = 10
    too_many: list[int] = []
    told: list[int] = []

    def count(_: str) -> None:
        with guard.lock:
            told.append(live_of(names).total())
            engines = [one.engine for one in binds.opened.values()]
            # One that is closed and has no connection any more is forgotten a moment later.
            live = sum(not (engine.is_closed and engine.is_empty) for engine in engines)
            if live > most:
                too_many.append(live)

    names.on_opened = count
    with registry(names, most=most, idle=idle, timeout=30) as binds:

        def work(seed: int) -> None:
            for step in range(150):
                use(binds, f"n{(seed * 7919 + step * step * 31) % 97}")

        callers = [call(work, seed) for seed in range(8)]
        for caller in callers:
            caller.result()
        assert not too_many
        if idle > 1:  # else a sweep may have closed one, and be about to tell it
            assert max(told) == most
    # A sweep in the background may be closing one at this moment.
    wait_until(lambda: not any(live_of(names).values()), "the last end")
    for name in live_of(names):
        events = names.told(name)
        assert events == ["opened", "closed"] * (len(events) // 2), name
    assert not len(binds.turns)


def test_sweep_holds_up_no_checkout() -> None:
    """While a sweep closes 200 binds, each of which takes its time, other binds lend."""
    names, gate = Names(), Gate()
    with registry(names, idle=1000) as binds:
        use(binds, "busy")
        for i in range(200):
            use(binds, f"n{i}")
            old(binds, f"n{i}")
        names.on_closed = lambda _: gate.stop_here()
        sweeper = call(age, binds)
        gate.wait_for_arrivals()
        use(binds, "busy")
        use(binds, "new")
        gate.open()
        names.on_closed = lambda _: None
        assert sweeper.result().evicted == 200


def test_scope_without_registry() -> None:
    """What stands for a pool that is not open raises what says so."""
    with registry(Names()) as binds:
        scope = Scope(cast("Engine", binds.unopened("a")), Leases())
        with scope:
            assert set(binds.opened) == {"a"}
