"""Pools with one connection that several leases share, and a driver for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flask_pooled_db.drivers import Failure
from flask_pooled_db.errors import TransactionAborted
from flask_pooled_db.lease.dbutils import Pool
from tests.pool.helpers import close_all
from tests.support.fake_driver import Error, FakeDriver
from tests.support.pools import check_counts, open_pool


class Deadlock(Error):
    """The server has rolled the transaction back."""


class SharingDriver(FakeDriver):
    """A driver whose connections may be shared, and whose server tells of a deadlock."""

    def __init__(self) -> None:
        super().__init__(threadsafety=2)

    def classify(self, raw: Any, error: BaseException) -> Failure:
        is_deadlock = isinstance(error, Deadlock)
        return Failure.ROLLED_BACK if is_deadlock else super().classify(raw, error)


@contextmanager
def sharing(fake: FakeDriver, leases: int = 2, **keys: Any) -> Iterator[tuple[Pool, list[Any]]]:
    """A pool with so many leases of its one shared connection."""
    settings = {"maxshared": 1, "maxconnections": 2, "acquire_timeout": 60, **keys}
    with open_pool(fake, **settings) as pool:
        shares = [pool.connection() for _ in range(leases)]
        yield pool, shares
        close_all(shares)
        assert pool.stats().in_use == 0
        check_counts(pool)


def run(lease: Any, sql: str = "UPDATE") -> None:
    """Run a statement."""
    lease.cursor().execute(sql)


def refuse(lease: Any, error: type[Exception] = TransactionAborted) -> None:
    """Assert that a lease refuses all further work."""
    for use in (lambda: run(lease), lease.commit, lease.cursor):
        with pytest.raises(error):
            use()
