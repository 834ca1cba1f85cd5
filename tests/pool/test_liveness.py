"""P4 on a fake driver: what a checkout hands out was alive, and when the server is asked."""

from __future__ import annotations

import time
from typing import Any

import pytest

from flask_pooled_db.errors import PoolTimeout
from tests.pool.helpers import close_all, let_rest, use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import (
    open_pool,
)


def test_p4_a_connection_that_the_server_closed_is_replaced_without_a_ping(
    fake: FakeDriver,
) -> None:
    """A look at the socket tells."""
    with open_pool(fake) as pool:
        use(pool)
        fake.raws[1].die()
        assert use(pool) == 2
        assert fake.count("ping") == 0


def test_p4_a_ping_is_sent_only_after_ping_after_idle_seconds(fake: FakeDriver) -> None:
    """What was used a moment ago is not asked whether it is alive."""
    with open_pool(fake, ping_after=100) as pool:
        for _ in range(3):
            use(pool)
        assert fake.count("ping") == 0
        let_rest(pool.engine.state.idle[0])
        use(pool)
        assert fake.count("ping") == 1


def test_p4_with_ping_0_nothing_is_pinged(fake: FakeDriver) -> None:
    """PING 0 is never, as in DBUtils."""
    with open_pool(fake, ping=0, ping_after=0) as pool:
        for _ in range(3):
            use(pool)
    assert fake.count("ping") == 0


@pytest.mark.parametrize(("ping", "pings"), [(2, 2), (4, 3), (6, 5), (7, 6)])
def test_p4_the_flags_of_ping_mean_what_they_mean_in_dbutils(
    fake: FakeDriver, ping: int, pings: int
) -> None:
    """1 is when fetched, 2 when a cursor is made, 4 when a statement is run; here 1, 2 and 3."""
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


def test_p4_a_statement_given_as_ping_is_run_at_every_checkout(fake: FakeDriver) -> None:
    """PING "SELECT 1" asks by SQL, and leaves no transaction open."""
    with open_pool(fake, ping="SELECT 1", ping_after=100) as pool:
        use(pool)
        fake.record.clear()
        use(pool)
    assert [what for what, _ in fake.record[:3]] == ["cursor", "SELECT 1", "close cursor"]
    assert fake.count("ping") == 0
    assert fake.record[3][0] == "rollback"


def test_p4_a_callable_given_as_ping_decides(fake: FakeDriver) -> None:
    """False and an exception mean dead, None means alive, as in DBUtils."""
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


def test_p4_a_tuple_given_as_ping_says_when_and_how(fake: FakeDriver) -> None:
    """PING (4, callable) asks before statements, and not at the checkout."""
    asked: list[Any] = []
    with open_pool(fake, ping=(4, asked.append)) as pool:
        with pool.connection() as conn:
            cursor = conn.cursor()
            assert asked == []
            cursor.execute("SELECT")
            assert len(asked) == 1


def test_p4_after_an_unanswered_ping_the_other_idle_connections_are_not_waited_for(
    fake: FakeDriver,
) -> None:
    """Twenty connections that went silent cost their next callers one timeout, not twenty."""
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


def test_p4_a_hasty_caller_does_not_condemn_the_other_connections(fake: FakeDriver) -> None:
    """A ping cut short by the caller's own deadline is no proof against the rest of the pool."""
    with open_pool(fake, maxconnections=3, ping_after=0, connect_timeout=60) as pool:
        close_all([pool.connection() for _ in range(3)])
        fake.is_deaf = True
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0.01)
        fake.is_deaf = False
        assert pool.stats().idle >= 1
