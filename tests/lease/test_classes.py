"""The classes of leases, which many pools have together."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool


def class_in(**keys: Any) -> type:
    """The class of the leases of a pool that is closed by now."""
    with open_pool(**keys) as pool, pool.connection() as conn:
        return type(conn)


def test_class_of_many_pools(tmp_path: Path) -> None:
    """Pools of one kind have one class of leases together; a lease has the driver of its own."""
    urls = [f"sqlite:///{tmp_path}/{name}" for name in "ab"]
    with open_pool(url=urls[0]) as one, open_pool(url=urls[1]) as two:
        with one.connection() as first, two.connection() as second:
            assert type(first) is type(second)
            assert (first.driver, second.driver) == (one.driver, two.driver)


@pytest.mark.parametrize("keys", [{"rows": "dict"}, {"ping": 2}])
def test_class_of_another_kind(keys: dict[str, Any]) -> None:
    """A pool whose settings show in the class has one of its own."""
    with open_pool(url="sqlite://") as plain, plain.connection() as conn:
        assert type(conn) is not class_in(url="sqlite://", **keys)


def test_class_garbage() -> None:
    """With the last pool of its kind, a class is garbage."""
    made = weakref.ref(class_in(driver=FakeDriver()))
    gc.collect()
    assert made() is None


def test_pymysql_connections_class() -> None:
    """PyMySQL's connections are of one class in all pools: a class for each would be kept by it."""
    with (
        open_pool(url="mysql+pymysql://h/a") as one,
        open_pool(url="mysql+pymysql://h/b") as two,
    ):
        made = [pool.driver._create.func for pool in (one, two)]
    assert made[0] is made[1]
