"""How many round trips deadlines cost, and that COMMIT is not ended by one."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.support.clock import Clock
from tests.support.scenarios.base import assert_fit
from tests.support.stages import UNTOUCHED, ServerStage, on_server

pytestmark = pytest.mark.mariadb_only

LIMIT = "SELECT @@max_statement_time + 0"


def lease(stage: ServerStage, seconds: float, statements: int = 1, **options: Any) -> int:
    """How many round trips a block takes in a deadline."""
    stage.proxy.reset_counts()
    with stage.db.deadline(seconds), stage.db.connection_context(**options) as conn:
        for _ in range(statements):
            add(conn, 1, 1)
    return int(stage.proxy.round_trips)


def test_limit_that_stays(stage: ServerStage) -> None:
    """The limit is set once, and again only when it is another by more than a tenth: within a
    block, and from one to the next.
    """
    assert_fit(stage)
    assert lease(stage, 100, 3) == 1 + 3 + 1
    for seconds, expected in ((100, 2), (95, 2), (105, 2), (80, 3), (85, 2), (100, 3), (100, 2)):
        assert lease(stage, seconds) == expected, seconds


def test_limit_that_is_left(stage: ServerStage) -> None:
    """After a deadline a block without one has the configured limit again, which costs one more."""
    assert_fit(stage)
    lease(stage, 100)
    for expected in (2, 1):
        stage.proxy.reset_counts()
        with stage.db.connection_context(readonly=True) as conn:
            assert list(run(conn, LIMIT)) == [(0.0,)]
        assert stage.proxy.round_trips == expected


def test_own_limit_that_is_shorter(stage: ServerStage) -> None:
    """The block's own `statement_timeout` is set exactly, and stays while it is the shorter one."""
    assert_fit(stage)
    assert lease(stage, 100, statement_timeout=7) == 3
    assert lease(stage, 100, statement_timeout=7) == 2
    with stage.db.deadline(100), stage.db.connection_context(statement_timeout=7.2) as conn:
        assert list(run(conn, LIMIT)) == [(7.2,)]


def test_empty_block(stage: ServerStage) -> None:
    """A block without a statement sends nothing in a deadline either."""
    assert_fit(stage)
    assert lease(stage, 100, 0) == 0


def test_limit_that_shrinks(mariadb: MariaDBServer, clock: Clock) -> None:
    """A statement's limit is at no time more than a tenth of itself above what is left."""
    with on_server("ours", mariadb, "pymysql") as stage:
        assert_fit(stage)
        stage.proxy.reset_counts()
        with stage.db.deadline(1000), stage.db.connection_context() as conn:
            for left in range(1000, 100, -25):
                ((limit,),) = run(conn, LIMIT)
                assert 0.9 * limit <= left <= limit
                clock.now += 25
        assert stage.proxy.round_trips < 36 * 1.6


def test_commit_is_not_ended(mariadb: MariaDBServer, mariadb_driver: str, clock: Clock) -> None:
    """A COMMIT that waits for longer than what is left is not ended, and its work is committed."""
    with on_server("ours", mariadb, mariadb_driver) as stage:
        ours = stage.db.connection_context()
        with stage.db.deadline(100), ours as conn:
            clock.now += 99.6
            add(conn, 1, -10)
            mariadb.execute("FLUSH TABLES WITH READ LOCK")
            timer = threading.Timer(0.9, mariadb.execute, ("UNLOCK TABLES",))
            timer.start()
        timer.join()
        assert stage.committed() == {**UNTOUCHED, 1: 90}
        stage.proxy.reset_counts()
        with stage.db.deadline(100), stage.db.connection_context() as conn:
            clock.now += 99.6
            add(conn, 1, 10)
        assert stage.proxy.round_trips <= 3  # nothing had to be reset
