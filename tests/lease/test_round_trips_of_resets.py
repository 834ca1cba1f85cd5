"""P9: what a block costs after each kind of change, counted by a proxy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db import db_connection_context
from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.support.stages import ServerStage, on_server

COM_RESET_CONNECTION = 0x1F
UPDATE = "UPDATE accounts SET balance = balance + 1 WHERE id = 1"


@pytest.fixture(params=["changed", "rollback", "session"])
def reset(request: pytest.FixtureRequest) -> str:
    """Each value of RESET in turn."""
    value: str = request.param
    return value


@pytest.fixture
def resetting(mariadb: MariaDBServer, mariadb_driver: str, reset: str) -> Iterator[ServerStage]:
    """A pool of one connection that is warm, with each RESET."""
    with on_server("ours", mariadb, mariadb_driver, reset=reset, maxconnections=1) as stage:
        with db_connection_context() as conn:
            add(conn, 1, 1)
        stage.proxy.reset_counts()
        yield stage


def insert(conn: Any) -> None:
    add(conn, 1, 1)


def insert_twice(conn: Any) -> None:
    add(conn, 1, 1)
    add(conn, 2, 1)


def read(conn: Any) -> None:
    run(conn, "SELECT * FROM accounts")


def read_nothing(conn: Any) -> None:
    run(conn, "SELECT 1")


def nest(conn: Any) -> None:
    add(conn, 1, 1)
    with db_connection_context() as inner:
        add(inner, 2, 1)


def fail(conn: Any) -> None:
    add(conn, 1, 1)
    raise LookupError


def commit(conn: Any) -> None:
    add(conn, 1, 1)
    conn.commit()


def nothing(conn: Any) -> None:
    """An empty block."""


UNCHANGED: dict[Callable[[Any], None], int] = {
    nothing: 0,
    read_nothing: 1,
    read: 2,
    insert: 2,
    insert_twice: 3,
    nest: 5,  # SAVEPOINT and RELEASE
    fail: 2,
    commit: 2,
}


def resets(stage: ServerStage) -> int:
    return sum(command.code == COM_RESET_CONNECTION for command in stage.proxy.commands)


def cost_of_reset(stage: ServerStage) -> int:
    """What a reset costs: it, and what sets the session up again."""
    with db_connection_context() as conn:
        run(conn, "SET @x = 5")
    cost = stage.proxy.round_trips - 1
    stage.proxy.reset_counts()
    return cost


@pytest.mark.parametrize("work", UNCHANGED)
@pytest.mark.parametrize("options", [{}, {"statement_timeout": 9}])
def test_p9_round_trips_unchanged(
    resetting: ServerStage, reset: str, work: Callable[[Any], None], options: dict[str, Any]
) -> None:
    """A block that changed nothing pays for no reset, unless each block does."""
    with contextlib.suppress(LookupError), db_connection_context(**options) as conn:
        work(conn)
    if options:  # what the scope itself sets is no change
        own = 1 if UNCHANGED[work] else 0
        assert resets(resetting) == (reset == "session" and bool(own))
        return
    if reset != "session" or work is nothing:
        assert resetting.proxy.round_trips == UNCHANGED[work]
        return
    found = resetting.proxy.round_trips - UNCHANGED[work]
    assert resets(resetting) == 1
    resetting.proxy.reset_counts()
    assert found == cost_of_reset(resetting)


CHANGES = {
    "SET @x = 5": 1,
    "SELECT @x := 5": 1,
    "SELECT 5 INTO @x": 1,
    "SET SESSION sql_mode = ''": 1,
    "USE mysql": 1,
    "SELECT GET_LOCK(DATABASE(), 0)": 1,
    "CREATE TEMPORARY TABLE tmp (a INT)": 1,
    "CREATE TEMPORARY TABLE tmp SELECT 1 AS a": 1,
    "PREPARE s FROM 'SELECT 1'": 1,
    "LOCK TABLES accounts WRITE": 1,
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE": 1,
    "DO @x := 5": 1,
}


@pytest.mark.parametrize("by_error", [False, True])
@pytest.mark.parametrize("sql", CHANGES)
def test_p9_round_trips_changed(
    resetting: ServerStage, reset: str, sql: str, by_error: bool
) -> None:
    """A block that changed its session pays for one reset, and the next block for none."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        run(conn, sql)
        if by_error:
            raise LookupError
    assert resets(resetting) == (reset != "rollback")
    if reset != "changed":
        return
    resetting.proxy.reset_counts()
    with db_connection_context() as conn:
        add(conn, 1, 1)
    assert resetting.proxy.round_trips == 2


def test_p9_round_trips_changed_in_routine(resetting: ServerStage, reset: str) -> None:
    """What a function or a trigger changes is told by the server, and costs one reset."""
    with db_connection_context() as conn:
        run(conn, "CREATE FUNCTION f() RETURNS INT BEGIN SET @x = 5; RETURN 1; END")
    resetting.proxy.reset_counts()
    with db_connection_context() as conn:
        run(conn, "SELECT f()")
    assert resets(resetting) == (reset != "rollback")


def test_p9_round_trips_readonly(resetting: ServerStage, reset: str) -> None:
    """What a readonly block sets is the scope's own; what is changed in it costs one reset."""
    with db_connection_context(readonly=True) as conn:
        run(conn, "SELECT * FROM accounts")
    resetting.proxy.reset_counts()
    with db_connection_context(readonly=True) as conn:
        run(conn, "SELECT * FROM accounts")
    if reset != "session":
        assert resetting.proxy.round_trips == 1
    resetting.proxy.reset_counts()
    with db_connection_context(readonly=True) as conn:
        run(conn, "SET @x = 5")
    assert resets(resetting) == (reset != "rollback")


@pytest.mark.parametrize("level", ["SERIALIZABLE", "READ COMMITTED"])
def test_p9_round_trips_isolation(resetting: ServerStage, reset: str, level: str) -> None:
    """An isolation level costs its own statement, and is no change."""
    with db_connection_context(isolation_level=level) as conn:
        add(conn, 1, 1)
    assert resets(resetting) == (reset == "session")
    if reset != "session":
        assert resetting.proxy.round_trips == 3
