"""The first use of a bind: one pool of each name, and nobody waits for another name."""

from __future__ import annotations

import threading

import pytest

from flask_pooled_db import PoolClosed, PoolTimeout, UnknownBind, UsageError
from flask_pooled_db.pool.registry import Registry
from harness.waiting import wait_until
from tests.binds.names import Names, block, registry, use
from tests.support.fake_driver import Gate
from tests.support.pools import call


def test_first_use_opens() -> None:
    """A block on a name that was never seen opens it; the next one finds it open."""
    names = Names()
    with registry(names) as binds:
        use(binds, "a")
        use(binds, "a")
        assert names.loads == ["a"]
        assert names.events == [("opened", "a", "first use")]
        assert binds.pools["a"].stats().checkouts == 2


def test_concurrent_first_uses() -> None:
    """Callers who come first at once make one pool."""
    names, gate = Names(), Gate()
    names.on_load = lambda _: gate.stop_here()
    with registry(names) as binds:
        first = call(use, binds, "a")
        gate.wait_for_arrivals()
        others = [call(use, binds, "a") for _ in range(5)]
        gate.open()
        for caller in [first, *others]:
            caller.result()
        assert names.loads == ["a"]


def test_slow_loader() -> None:
    """A loader that takes its time holds up callers of its name alone."""
    names, gate = Names(), Gate()
    names.on_load = lambda name: gate.stop_here() if name == "slow" else None
    with registry(names) as binds:
        slow = call(use, binds, "slow")
        gate.wait_for_arrivals()
        use(binds, "quick")
        with pytest.raises(PoolTimeout, match=r"'slow' could not be opened in 0\.1 s"):
            binds.open("slow", 0.1)
        gate.open()
        slow.result()


def test_loader_failure_is_not_kept() -> None:
    """A loader's error reaches its own caller; those who wait, and who come later, try again."""
    names, gate = Names(), Gate()

    def fail_first(_name: str) -> None:
        if len(names.loads) == 1:
            gate.stop_here()
            raise LookupError("no answer")

    names.on_load = fail_first
    with registry(names) as binds:
        first = call(use, binds, "a")
        gate.wait_for_arrivals()
        second = call(use, binds, "a")
        gate.open()
        with pytest.raises(LookupError, match="no answer"):
            first.result()
        second.result()
        assert names.loads == ["a", "a"]


def test_interrupted_loader() -> None:
    """A caller that is interrupted in its loader leaves the name free."""
    names = Names()

    def interrupt(_name: str) -> None:
        raise KeyboardInterrupt

    with registry(names) as binds:
        names.on_load = interrupt
        with pytest.raises(KeyboardInterrupt):
            use(binds, "a")
        names.on_load = lambda _: None
        use(binds, "a")


def test_unknown_names_leave_nothing() -> None:
    """Names that do not exist are not remembered."""
    names = Names()
    names.unknown = {f"n{i}" for i in range(1000)}
    with registry(names) as binds:
        for name in sorted(names.unknown):
            with pytest.raises(UnknownBind):
                use(binds, name)
        assert not binds.opened
        assert not binds.pools
        assert not len(binds.turns)
        assert not names.events


def test_loader_uses_its_own_bind() -> None:
    """A loader that asks for the very bind it loads gets an error at once, not a timeout."""
    names = Names()
    with registry(names) as binds:
        names.on_load = lambda name: use(binds, name)
        with pytest.raises(UsageError, match="bind 'a' is asked for by what opens or closes it"):
            use(binds, "a")


def test_loader_uses_another_bind() -> None:
    """A loader may use other binds, such as the one with the table of customers."""
    names = Names()
    with registry(names) as binds:
        names.on_load = lambda name: None if name == "main" else use(binds, "main")
        use(binds, "a")
        assert names.loads == ["a", "main"]


def test_closed_registry() -> None:
    """After the end nothing is opened, and what is open is closed."""
    names = Names()
    with registry(names) as binds:
        use(binds, "a")
        binds.close()
        assert names.told("a") == ["opened", "closed"]
        with pytest.raises(PoolClosed, match="the pools of this app were closed"):
            use(binds, "b")


def _names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_no_thread_each() -> None:
    """Open binds have no threads of their own."""
    names = Names()
    with registry(names) as binds:
        use(binds, "first")
        before = len(_names_of_threads())
        for i in range(50):
            use(binds, f"n{i}")
        wait_until(lambda: len(_names_of_threads()) <= before, "the openers' end")


def test_key_tells_registries_apart(fake_names: Registry) -> None:
    """A block never joins one of another app, whatever its bind is called."""
    with registry(Names()) as others:
        with block(fake_names, "a") as one, block(others, "a") as other:
            assert one is not other
