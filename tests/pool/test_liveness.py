"""P4 on a fake driver: what a checkout hands out was alive, and when the server is asked."""

from __future__ import annotations

import time
from typing import Any

import pytest

from flask_pooled_db.errors import PoolTimeout
from tests.pool.helpers import close_all, let_rest, use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool


def test_p4_closed_connection_replaced(
    fake: FakeDriver,
) -> None:
    """A connection that the server closed is replaced without a ping: the socket shows it."""
    with open_pool(fake) as pool:
        use(pool)
        fake.raws[1].die()
        assert use(pool) == 2
        assert fake.count("ping") == 0


def test_p4_ping_after(fake: FakeDriver) -> None:
    """A connection is pinged only after it was idle for PING_AFTER seconds."""
    with open_pool(fake, ping_after=100) as pool:
        for _ in range(3):
            use(pool)
        assert fake.count("ping") == 0
        let_rest(pool.engine.state.idle[0])
        use(pool)
        assert fake.count("ping") == 1


def test_p4_ping_0(fake: FakeDriver) -> None:
    """With PING 0 no connection is pinged, as in DBUtils."""
    with open_pool(fake, ping=0, ping_after=0) as pool:
        for _ in range(3):
            use(pool)
    assert fake.count("ping") == 0


@pytest.mark.parametrize(("ping", "pings"), [(2, 2), (4, 3), (6, 5), (7, 6)])
def test_p4_ping_flags(fake: FakeDriver, ping: int, pings: int) -> None:
    """PING 1, 2 and 4 ping at the checkout, at each cursor and at each statement, as in DBUtils."""
    with open_pool(fake, ping=ping, ping_after=0) as pool:
        use(pool)
        fake.record.clear()
        with pool.connection() as conn:
            for _ in range(2):
                conn.rollback()
                cursor = conn.cursor()
            for _ in range(3):
                conn.rollback()
                cursor.execute("SELECT")
    assert fake.count("ping") == pings


def test_p4_ping_statement(fake: FakeDriver) -> None:
    """PING "SELECT 1" runs that statement at every checkout, and leaves no transaction open."""
    with open_pool(fake, ping="SELECT 1", ping_after=100) as pool:
        use(pool)
        fake.record.clear()
        use(pool)
    assert [what for what, _ in fake.record[:3]] == ["cursor", "SELECT 1", "close cursor"]
    assert fake.count("ping") == 0
    assert fake.record[3][0] == "rollback"


def test_p4_ping_callable(fake: FakeDriver) -> None:
    """A callable as PING decides: False and an exception mean dead, None means alive, as in
    DBUtils.
    """
    answers: list[Any] = [None, True, False, ZeroDivisionError()]

    def check(raw: Any) -> Any:
        answer = answers.pop(0) if answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    with open_pool(fake, ping=check) as pool:
        use(pool)
        assert [use(pool) for _ in range(3)] == [1, 1, 2]
        pool.engine.state.idle[0].valid_until = 0.0  # no longer fresh
        assert use(pool) == 3


def test_p4_ping_tuple(fake: FakeDriver) -> None:
    """PING (4, callable) calls it before each statement, and not at the checkout."""
    asked: list[Any] = []
    with open_pool(fake, ping=(4, asked.append)) as pool:
        with pool.connection() as conn:
            cursor = conn.cursor()
            assert asked == []
            cursor.execute("SELECT")
            assert len(asked) == 1


def test_p4_silent_connections(
    fake: FakeDriver,
) -> None:
    """After one ping without an answer, the other idle connections cost no further timeout."""
    with open_pool(
        fake, maxconnections=20, maxcached=20, ping_after=0, connect_timeout=0.3
    ) as pool:
        close_all([pool.connection() for _ in range(20)])
        fake.is_deaf = True
        started = time.monotonic()
        leases = [pool.connection() for _ in range(5)]
        assert fake.count("ping") == 1
        assert time.monotonic() - started < 20 * 0.3
        assert min(lease.cursor().fetchone()[0] for lease in leases) > 20
        fake.is_deaf = False
        close_all(leases)


def test_p4_short_deadline_ping(fake: FakeDriver) -> None:
    """A ping cut short by the caller's own deadline evicts no other connection."""
    with open_pool(fake, maxconnections=3, ping_after=0, connect_timeout=60) as pool:
        close_all([pool.connection() for _ in range(3)])
        fake.is_deaf = True
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.01)
        fake.is_deaf = False
        assert pool.stats().idle >= 1
