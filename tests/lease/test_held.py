"""Where holders are known, everybody can see who holds a connection, and what for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, PoolTimeout, db_connection_context, get_db_connection
from flask_pooled_db.pool.holding import Holder
from harness.waiting import wait_until
from tests.support.apps import pooled_app
from tests.support.clock import Clock
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, open_pool
from tests.support.sites import line_of, serve


@pytest.fixture
def watched(url: str) -> Iterator[tuple[Flask, PooledDB]]:
    """An app whose pool knows the holders of its two connections."""
    settings = {"leak_threshold": 60, "maxconnections": 2}
    with pooled_app(url, **settings) as pair:
        pair[1].execute("CREATE TABLE t (id INTEGER)")
        yield pair


def _holders(db: PooledDB) -> list[Holder]:
    return db.pool().engine.holders()


def _who(holder: Holder) -> tuple[str, str]:
    assert holder.place is not None
    return holder.name, holder.place[0]


def test_a_view(watched: tuple[Flask, PooledDB]) -> None:
    """A holder is named by its endpoint, its file and its line."""
    app, db = watched
    found: list[Holder] = []

    def order() -> str:
        with db_connection_context() as connection:
            connection.execute("SELECT 1")
            found.extend(_holders(db))
        return "done"

    serve(app, "/", order).get("/")
    (holder,) = found
    assert holder.name == "endpoint 'order'"
    assert holder.place is not None
    assert "{}:{}".format(*holder.place) == line_of(order, 1)
    assert _holders(db) == []


def test_other_ways_to_a_connection(watched: tuple[Flask, PooledDB]) -> None:
    """Each way to take a connection is known, and each kind of caller."""
    _, db = watched
    with contextlib.closing(get_db_connection()):
        (holder,) = _holders(db)
        assert (holder.name, holder.place and holder.place[0]) == (
            "code outside a request",
            __file__,
        )
    goes_on = threading.Event()

    def hold() -> None:
        with db.connection_context():
            goes_on.wait(20)

    caller = call(hold)
    wait_until(lambda: bool(_holders(db)), "a holder")
    (holder,) = _holders(db)
    goes_on.set()
    caller.result()
    assert holder.name == "thread 'tests caller'"

    async def work() -> list[Holder]:
        async with db.async_connection_context() as connection:
            async with connection.cursor() as cursor:
                await cursor.execute("SELECT 1")
            return _holders(db)

    async def main() -> list[Holder]:
        return await asyncio.create_task(work(), name="orders")

    (holder,) = asyncio.run(main())
    assert _who(holder) == ("task 'orders'", __file__)


def test_what_a_holder_does(clock: Clock) -> None:
    """Its age, how much of it was idle, for how long no statement has run, and whether a
    transaction is open.
    """
    fake = FakeDriver()
    with open_pool(fake, clock=clock, leak_threshold=600) as pool:
        lease = pool.lease()
        clock.now += 1.0
        gate = fake.hold("slow")
        caller = call(lease.cursor().execute, "slow")
        gate.wait_for_arrivals()
        clock.now += 3.0
        (holder,) = pool.engine.holders()
        assert (holder.age, holder.idle, holder.rests_for) == (4.0, 1.0, 0.0)
        gate.open()
        caller.result()
        clock.now += 6.0
        (holder,) = pool.engine.holders()
        assert (holder.age, holder.idle, holder.rests_for) == (10.0, 7.0, 6.0)
        assert holder.in_transaction
        lease.commit()
        (holder,) = pool.engine.holders()
        assert not holder.in_transaction
        lease.close()


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


@pytest.mark.usefixtures("watched")
def test_p2_a_timeout_names_the_holders() -> None:
    """Who gets no connection is told who holds them, the longest first."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(contextlib.closing(get_db_connection())).execute("SELECT 1")
        with pytest.raises(PoolTimeout) as caught:
            get_db_connection(timeout=0)
        holders = caught.value.holders
    assert [holder.age for holder in holders] == sorted((h.age for h in holders), reverse=True)
    text = str(caught.value)
    assert "held longest by code outside a request for 0.0 s, " in text
    assert text.count(f"taken at {__file__}:") >= 2
    assert "no statement has run for" in text


def test_off(site: tuple[Flask, PooledDB]) -> None:
    """Nothing is known where nobody wants to know."""
    _, db = site
    with db.connection_context(), db.connection_context(independent=True):
        assert _holders(db) == []
        db.pool().resize(0, 2, 2)
        with pytest.raises(PoolTimeout) as caught:
            db.pool().lease(timeout=0)
    assert caught.value.holders == ()
    assert "held longest" not in str(caught.value)
    assert "with POOLED_DB_LEAK_THRESHOLD set, this would say who holds them" in str(caught.value)
