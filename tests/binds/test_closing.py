"""Binds that are closed or replaced by their names, and forks in between."""

from __future__ import annotations

import os

import pytest

from flask_pooled_db import PoolClosed
from harness.waiting import wait_until
from tests.binds.names import Names, block, number_of, registry, use
from tests.support.fake_driver import Gate
from tests.support.pools import call, queue_up


def test_close_idle_now_leases_later() -> None:
    """Idle connections go at once, leases when they come back."""
    names = Names()
    with registry(names) as binds:
        with block(binds, "a"), block(binds, "b"):
            pass
        with block(binds, "a") as conn:
            other = call(use, binds, "a")
            other.result()
            driver = names.drivers["a"]
            assert binds.close_bind("a")
            assert driver.count("close") == 1
            with conn.cursor() as cur:
                cur.execute("SELECT 1")
        assert driver.count("close") == 2
        assert names.told("a") == ["opened", "closed"]
        assert not binds.close_bind("a")
        assert set(binds.opened) == {"b"}


def test_close_refuses_those_who_wait() -> None:
    """Who waits for a connection gets PoolClosed."""
    names = Names(maxconnections=1)
    with registry(names) as binds, block(binds, "a"):
        caller = queue_up(binds.pools["a"], use, binds, "a")
        assert binds.close_bind("a")
        with pytest.raises(PoolClosed, match="the pool of bind 'a' was closed"):
            caller.result()


def test_close_while_loading() -> None:
    """What is being loaded is not served any more, neither to who loads nor to who waits."""
    names, gate = Names(), Gate()
    names.on_load = lambda _: gate.stop_here()
    with registry(names) as binds:
        first = call(use, binds, "a")
        gate.wait_for_arrivals()
        second = call(use, binds, "a")
        assert binds.close_bind("a")
        gate.open()
        for caller in (first, second):
            with pytest.raises(PoolClosed, match="bind 'a' was closed while it was being opened"):
                caller.result()
        assert not binds.opened
        assert not names.events


def test_nested_block_joins_after_close() -> None:
    """T9: inside a block whose bind was closed or replaced, a block of the same bind is a part of
    its transaction.
    """
    names = Names()
    with registry(names) as binds, block(binds, "a") as conn:
        for close in (binds.close_bind, binds.replace_bind):
            close("a")
            with block(binds, "a") as inner:
                assert inner is conn
        assert names.loads == ["a"]


def test_replace() -> None:
    """New leases get new connections with new settings, a running one finishes, and whoever waits
    gets a new one.
    """
    names = Names(maxconnections=1)
    with registry(names) as binds:
        with block(binds, "a") as conn:
            before = names.drivers["a"]
            caller = queue_up(binds.pools["a"], use, binds, "a")
            assert binds.replace_bind("a")
            caller.result()
            with conn.cursor() as cur:
                cur.execute("SELECT 1")
            assert number_of(conn) == 1
        assert names.drivers["a"] is not before
        assert before.count("close") == 1
        assert names.events == [
            ("opened", "a", "first use"),
            ("closed", "a", "replaced"),
            ("opened", "a", "first use"),
        ]


def test_replace_while_loading() -> None:
    """Settings that were replaced while they were loaded are loaded anew."""
    names, gate = Names(), Gate()
    names.on_load = lambda _: None if len(names.loads) > 1 else gate.stop_here()
    with registry(names) as binds:
        caller = call(use, binds, "a")
        gate.wait_for_arrivals()
        assert binds.replace_bind("a")
        gate.open()
        caller.result()
        assert names.loads == ["a", "a"]
        assert names.events == [("opened", "a", "replaced")]


def test_replace_while_connecting() -> None:
    """A connect under way with the old settings is not served afterwards."""
    names = Names()
    gates: list[Gate] = []

    def hold_first(_name: str) -> None:
        if not gates:
            gates.append(names.drivers["a"].hold("connect"))

    with registry(names) as binds:
        names.on_opened = hold_first
        caller = call(use, binds, "a")
        wait_until(lambda: gates, "a bind that is open")
        gates[0].wait_for_arrivals()
        before = names.drivers["a"]
        assert binds.replace_bind("a")
        caller.result()
        assert names.drivers["a"] is not before
        gates[0].open()
        wait_until(lambda: before.count("close"), "the end of the late connection")
        assert before.count("execute") == 0


def test_close_by_a_receiver() -> None:
    """A receiver that hears of an opened bind may close it: its caller opens it anew."""
    names = Names()
    with registry(names) as binds:
        names.on_opened = lambda name: len(names.loads) == 1 and binds.close_bind(name)
        use(binds, "a")
        assert names.told("a") == ["opened", "closed", "opened"]


def test_closed_by_two() -> None:
    """Of several who close a bind one does, and its end is told once."""
    names, gate = Names(), Gate()
    names.on_closed = lambda _: gate.stop_here()
    with registry(names) as binds:
        use(binds, "a")
        first = call(binds.close_bind, "a")
        gate.wait_for_arrivals()
        assert not binds.close_bind("a")
        gate.open()
        assert first.result()
        assert names.told("a") == ["opened", "closed"]


def test_interrupted_close() -> None:
    """A caller that is interrupted while it closes a bind has closed it, and its end is told."""
    names = Names()
    with registry(names, most=1) as binds:
        use(binds, "a")
        names.drivers["a"].fail("close", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            binds.close_bind("a")
        assert names.told("a") == ["opened", "closed"]
        use(binds, "b")


def in_child(check: str, function: object) -> None:
    """Run a function in a forked child, which must return True."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if function() else 2  # type: ignore[operator]
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, check


def test_p6_fork_while_opening_and_closing() -> None:
    """P6: a child that was forked while other threads open and close binds can use all of them."""
    names, loading, closing = Names(), Gate(), Gate()
    names.on_load = lambda name: loading.stop_here() if name == "opening" else None
    names.on_closed = lambda name: closing.stop_here() if name == "closing" else None
    parent = os.getpid()

    def use_all() -> bool:
        assert os.getpid() != parent
        for name in ("open", "opening", "closing"):
            use(binds, name)
        return set(binds.opened) == {"open", "opening", "closing"}

    with registry(names, most=3) as binds:
        use(binds, "open")
        use(binds, "closing")
        closer = call(binds.close_bind, "closing")
        closing.wait_for_arrivals()
        opener = call(use, binds, "opening")
        loading.wait_for_arrivals()
        names.on_load = names.on_closed = lambda _: None
        in_child("the child could not use a bind", use_all)
        loading.open()
        closing.open()
        closer.result()
        opener.result()


def test_p6_eviction_goes_on_in_a_child() -> None:
    """P6: a child closes the binds that it does not use."""
    names = Names()
    with registry(names, idle=0.1) as binds:
        use(binds, "a")

        def is_closed_in_time() -> bool:
            wait_until(lambda: not binds.opened, "the end of an unused bind")
            return True

        in_child("the child kept a bind open", is_closed_in_time)
