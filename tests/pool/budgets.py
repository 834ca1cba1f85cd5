"""Pools that share a limit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool import Budget
from tests.pool.helpers import close_all
from tests.support.fake_driver import FakeDriver
from tests.support.pools import check_counts, open_pool


@contextlib.contextmanager
def sharing(limit: int, *drivers: FakeDriver, **keys: Any) -> Iterator[tuple[Pool, ...]]:
    """Pools of these drivers, named a, b, c..., with a common limit."""
    budget = Budget(limit)
    with contextlib.ExitStack() as stack:
        yield tuple(
            stack.enter_context(open_pool(driver, bind=bind, budget=budget, **keys))
            for bind, driver in zip("abcdefgh", drivers, strict=False)
        )


def budget_of(pool: Pool) -> Budget:
    """The budget of a pool that has one."""
    budget = pool.engine.supply.budget
    assert budget is not None
    return budget


def fill(pool: Pool, count: int) -> None:
    """Leave so many connections idle."""
    close_all([pool.lease() for _ in range(count)])


def check_together(*pools: Pool) -> int:
    """Assert that the counts of pools with one budget agree; return how many places are taken."""
    budget = budget_of(pools[0])
    with pools[0].engine.state.lock:
        for pool in pools:
            check_counts(pool)
        taken = [pool.engine.state.places.taken for pool in pools]
        assert budget.places.taken == sum(taken)
        assert budget.places.taken <= budget.limit
        assert not (budget.places.has_room and budget.is_short_locked()), "a caller waits in vain"
    return sum(taken)
