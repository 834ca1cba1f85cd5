"""P13: whatever is raised at whatever line, no place and no connection is lost."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator

import gevent
import pytest

from flask_pooled_db.config import ScopeOptions
from flask_pooled_db.errors import PooledDBError, PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.scope import Scope, scopes_of
from flask_pooled_db.pool.upkeep import sweep
from flask_pooled_db.runtime import guard
from flask_pooled_db.runtime.housekeeper import THREAD_NAME
from flask_pooled_db.runtime.workers import THREADS
from harness.waiting import wait_until
from tests.pool.budgets import check_together, fill, sharing
from tests.pool.injections import Injection
from tests.support.fake_driver import Error, FakeDriver, OperationalError
from tests.support.pools import check_counts, open_pool, queue_up


def no_threads() -> BaseException:
    return RuntimeError("can't start new thread")


CAUSES: dict[str, Callable[[], BaseException]] = {
    "an interruption": KeyboardInterrupt,
    "no memory": MemoryError,
    "no threads": no_threads,
    "a timeout": gevent.Timeout,
}


def run(pool: Pool, options: ScopeOptions | None = None) -> None:
    with Scope(pool.engine, Leases(), options or ScopeOptions()) as conn:
        conn.cursor().execute("INSERT")


def fail(pool: Pool) -> None:
    with contextlib.suppress(LookupError), Scope(pool.engine, Leases()) as conn:
        conn.cursor().execute("INSERT")
        raise LookupError


def nest(pool: Pool) -> None:
    with Scope(pool.engine, Leases()) as conn:
        conn.cursor().execute("INSERT")
        with Scope(pool.engine, Leases()) as inner:
            inner.cursor().execute("INSERT")


def read(pool: Pool) -> None:
    run(pool, ScopeOptions(readonly=True, statement_timeout=3.0))


def connect(pool: Pool) -> None:
    pool.drain()
    run(pool)


def fail_to_connect(pool: Pool) -> None:
    pool.drain()
    fake(pool).fail("connect", OperationalError())
    run(pool)


def find_dead(pool: Pool) -> None:
    for raw in list(fake(pool).raws.values()):
        raw.die()
    run(pool)


def lose(pool: Pool) -> None:
    fake(pool).fail("INSERT", OperationalError())
    with contextlib.suppress(Error):
        run(pool)


def time_out(pool: Pool) -> None:
    leases = [pool.lease() for _ in range(2)]
    with contextlib.suppress(PoolTimeout):
        pool.lease(timeout=0)
    for lease in leases:
        lease.close()


def forget(pool: Pool) -> None:
    pool.lease()
    gc.collect()
    run(pool)


def resize(pool: Pool) -> None:
    pool.resize(0, 2, 2)
    leases = [pool.lease() for _ in range(2)]
    pool.resize(0, 1, 1)
    for lease in leases:
        lease.close()
    pool.resize(0, 2, 2)


def keep_order(pool: Pool) -> None:
    for entry in list(pool.engine.state.idle):
        entry.expires_at = 0.0
    sweep(pool.engine)
    run(pool)


WORK = [
    run,
    fail,
    nest,
    read,
    connect,
    fail_to_connect,
    find_dead,
    lose,
    time_out,
    forget,
    resize,
    keep_order,
]


def fake(pool: Pool) -> FakeDriver:
    driver = pool.driver
    assert isinstance(driver, FakeDriver)
    return driver


@pytest.fixture(autouse=True)
def _small_heap() -> Iterator[None]:
    """Leave what there is before the test to nobody's collections: there are thousands."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def rest(pool: Pool) -> None:
    """Wait until nothing is in use or under way, and everything is counted."""
    fake(pool).mend("connect")
    fake(pool).mend("INSERT")
    gc.collect()
    assert scopes_of(current_owner()).newest_first() == []

    def is_at_rest() -> bool:
        sweep(pool.engine)
        stats = check_counts(pool)
        is_quiet = stats.in_use == stats.waiting == 0 and stats.open == stats.idle
        return is_quiet and len(pool.engine.state.open) == stats.open

    wait_until(is_at_rest, "every place comes back")


def is_idle() -> bool:
    """Whether no thread of the package is at work."""
    names = {thread.name for thread in threading.enumerate()}
    return not {name for name in names if name.startswith(THREADS)} - {THREAD_NAME}


def serve_all(pool: Pool) -> None:
    leases = [pool.lease(timeout=20) for _ in range(2)]
    for lease in leases:
        lease.cursor().execute("INSERT")
        lease.close()


KINDS = ["an interruption", "no memory"]
CASES = [(work, cause) for work in WORK for cause in (CAUSES if work is run else KINDS)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "cause"), CASES, ids=[f"{work.__name__}, {cause}" for work, cause in CASES]
)
def test_p13_error_at_every_line(work: Callable[[Pool], None], cause: str) -> None:
    """An error at any line that a caller runs costs no place."""
    make = CAUSES[cause]
    with open_pool(FakeDriver(), maxconnections=2, acquire_timeout=1) as pool:
        serve_all(pool)
        for line in range(10_000):
            injection = Injection(line, make)
            with contextlib.suppress(type(make()), PooledDBError, Error), injection.here():
                work(pool)
            assert not guard.is_inside(), injection.where
            rest(pool)
            if not injection.is_done:
                break
        serve_all(pool)
        assert line > 50


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("work", [connect, keep_order], ids=lambda work: work.__name__)
def test_p13_error_at_every_line_of_threads(work: Callable[[Pool], None]) -> None:
    """An error at any line that a thread of the package runs costs no place."""
    with open_pool(FakeDriver(), maxconnections=2, acquire_timeout=0.3) as pool:
        serve_all(pool)
        for line in range(10_000):
            injection = Injection(line, MemoryError)
            with contextlib.suppress(PooledDBError), injection.in_background():
                work(pool)
                wait_until(is_idle, "the threads end")
            rest(pool)
            if not injection.is_done:
                break
        serve_all(pool)
        assert line > 15


def use_both(a: Pool, b: Pool) -> None:
    """Have connections of each closed for the other, idle ones and one that is returned."""
    fill(a, 2)
    fill(b, 2)
    lease = a.lease()
    with contextlib.suppress(PoolTimeout):
        b.lease(timeout=0).close()
    others = [b.lease()]
    caller = queue_up(a, a.lease)
    with contextlib.closing(lease):
        others.pop().close()
    caller.result().close()


@pytest.mark.slow
@pytest.mark.parametrize("cause", KINDS)
def test_p13_error_at_every_line_of_two(cause: str) -> None:
    """Nor does it cost a place of the limit that two pools have together."""
    make, driver = CAUSES[cause], FakeDriver()
    with sharing(2, driver, driver, maxconnections=2, acquire_timeout=1) as (a, b):
        for line in range(10_000):
            injection = Injection(line, make)
            with contextlib.suppress(type(make()), PooledDBError, Error), injection.here():
                use_both(a, b)
            assert not guard.is_inside(), injection.where
            for pool in (a, b):
                rest(pool)
            assert check_together(a, b) <= driver.most_open <= 2
            if not injection.is_done:
                break
        assert line > 50


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_p13_error_in_threads_of_two() -> None:
    """Nor does an error at a line that a thread of the package runs for them."""
    driver = FakeDriver()
    with sharing(1, driver, driver, maxconnections=1, acquire_timeout=0.1) as (a, b):
        for line in range(0, 10_000, 4):  # each takes a while
            injection = Injection(line, MemoryError)
            with contextlib.suppress(PooledDBError), injection.in_background():
                fill(a, 1)
                fill(b, 1)
                wait_until(is_idle, "the threads end")
            for pool in (a, b):
                rest(pool)
            assert check_together(a, b) <= 1
            if not injection.is_done:
                break
        assert line > 15
