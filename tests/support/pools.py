"""Pools made for one test, and the threads that call them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver, make_driver
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Budget, Events, PoolStats
from flask_pooled_db.pool.statements import NOBODY, Observer, Tags
from flask_pooled_db.pool.watchers import Watchers
from harness.waiting import PATIENCE, wait_until

T = TypeVar("T")


@contextmanager
def open_pool(
    driver: Driver | None = None,
    *,
    bind: str = "default",
    clock: Callable[[], float] = time.monotonic,
    budget: Budget | None = None,
    observer: Observer = NOBODY,
    tags: Tags | None = None,
    watchers: Sequence[Events] = (),
    **keys: Any,
) -> Iterator[Pool]:
    """A pool of these configuration keys (in lower case), closed at the end.

    It opens nothing by itself unless `mincached` says so.
    """
    keys = {"mincached": 0, **({"creator": driver} if driver else {}), **keys}
    config = PoolConfig.from_mapping({name.upper(): value for name, value in keys.items()})
    pool = Pool(
        config,
        driver or make_driver(config, bind=bind),
        bind=bind,
        clock=clock,
        budget=budget,
        watchers=Watchers(watchers, observer, tags),
    )
    try:
        yield pool
    finally:
        pool.close(timeout=2.0)


class Caller(threading.Thread, Generic[T]):
    """A thread whose outcome can be asked for."""

    def __init__(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: Any) -> None:
        super().__init__(daemon=True, name="tests caller")
        self._function = function
        self._call = args, kwargs
        self._outcome: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._outcome = self._function(*self._call[0], **self._call[1])
        except BaseException as error:
            self.error = error

    def wait(self) -> None:
        """Return when it has ended."""
        self.join(PATIENCE)
        assert not self.is_alive(), "the call did not end"

    def result(self) -> Any:
        """What the function returned, or raised."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self._outcome


def call(function: Callable[..., T], *args: Any, **kwargs: Any) -> Caller[T]:
    """Call a function in a thread of its own."""
    caller = Caller(function, args, kwargs)
    caller.start()
    return caller


def queue_up(pool: Pool, function: Callable[..., T], *args: Any, **kwargs: Any) -> Caller[T]:
    """Call a function in a thread; return when it waits for a connection of the pool.

    A caller with little time may have given up before this thread sees it wait.
    """
    before = pool.stats()

    def has_waited() -> bool:
        now = pool.stats()
        return now.waiting > before.waiting or now.timeouts > before.timeouts

    caller = call(function, *args, **kwargs)
    wait_until(has_waited, "one more caller that waits")
    return caller


def fail_to_connect(pool: Pool) -> None:
    """Return when a connect has failed, so that a later caller's time need not suffice for one."""
    with contextlib.suppress(PoolTimeout):
        pool.lease(timeout=0)
    wait_until(lambda: pool.stats().connect_errors, "a connect that fails")


def check_counts(pool: Pool) -> PoolStats:
    """Assert that the counts of a pool agree with each other; return them."""
    state = pool.engine.state
    with state.lock:
        closing = state.places.taken - len(state.in_use) - len(state.idle) - state.connector.opening
        assert closing >= 0, f"more connections than places taken: {state.places.taken}"
        assert not {entry.ref for entry in state.idle} & set(state.in_use), (
            "a connection is idle and in use"
        )
        assert len(set(state.idle)) == len(state.idle), "a connection is idle twice"
        assert not (state.idle and state.queue.waiters), "a caller waits beside an idle connection"
    return pool.stats()


def most_tries(seconds: float) -> int:
    """How many connects may fail in so many seconds: three at once, and then one after each pause,
    of 50 ms, shortened by half at most, and each a fifth longer than the one before.
    """
    tries, pause = 3, 0.025 * 1.2**2
    while seconds > 0:
        tries += 1
        seconds -= pause
        pause *= 1.2
    return tries
