"""How many round trips a block costs on PostgreSQL: none more than on MariaDB."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db import db_connection_context
from harness.postgres import PostgreSQLServer
from harness.workloads import add, run
from tests.support.stages import ServerStage, on_server

TABLE = "SELECT * FROM accounts"


@pytest.fixture(params=["changed", "rollback", "session"])
def reset(request: pytest.FixtureRequest) -> str:
    """Each value of RESET in turn."""
    value: str = request.param
    return value


@pytest.fixture
def warm(postgresql_server: PostgreSQLServer, reset: str) -> Iterator[ServerStage]:
    """A pool of one connection that is warm, with each RESET."""
    with on_server("ours", postgresql_server, "psycopg", reset=reset, maxconnections=1) as stage:
        with db_connection_context() as conn:
            add(conn, 1, 1)
        stage.proxy.reset_counts()
        yield stage


def read(conn: Any) -> None:
    run(conn, TABLE)


def insert(conn: Any) -> None:
    add(conn, 1, 1)


def insert_twice(conn: Any) -> None:
    add(conn, 1, 1)
    add(conn, 2, 1)


def insert_with_parameters(conn: Any) -> None:
    conn.cursor().execute("UPDATE accounts SET balance = %s WHERE id = %s", (5, 1))


def insert_by_connection(conn: Any) -> None:
    conn.execute("UPDATE accounts SET balance = %s WHERE id = %s", (5, 1))


def nest(conn: Any) -> None:
    add(conn, 1, 1)
    with db_connection_context() as inner:
        add(inner, 2, 1)


def nest_alone(conn: Any) -> None:
    with db_connection_context() as inner:
        add(inner, 2, 1)


def fail(conn: Any) -> None:
    add(conn, 1, 1)
    raise LookupError


def commit(conn: Any) -> None:
    add(conn, 1, 1)
    conn.commit()


def commit_and_go_on(conn: Any) -> None:
    add(conn, 1, 1)
    conn.commit()
    add(conn, 1, 1)


def ping(conn: Any) -> None:
    conn.ping()


def add_nothing(conn: Any) -> None:
    run(conn, "SELECT 1")


def nothing(conn: Any) -> None:
    """An empty block."""


UNCHANGED: dict[Callable[[Any], None], int] = {
    nothing: 0,
    ping: 1,
    read: 2,
    insert: 2,
    insert_twice: 3,
    insert_with_parameters: 2,
    insert_by_connection: 2,
    nest: 5,  # SAVEPOINT and RELEASE
    nest_alone: 4,
    fail: 2,
    commit: 2,
    commit_and_go_on: 4,
}


def resets(stage: ServerStage) -> int:
    return sum(command.starts_with(b"DISCARD ALL") for command in stage.proxy.commands)


@pytest.mark.parametrize("work", UNCHANGED)
@pytest.mark.parametrize("options", [{}, {"statement_timeout": 9}])
def test_p9_round_trips_unchanged(
    warm: ServerStage, reset: str, work: Callable[[Any], None], options: dict[str, Any]
) -> None:
    """A block costs its statements and COMMIT, a time limit costs nothing, and a reset is one round
    trip more where each block has one.
    """
    with contextlib.suppress(LookupError), db_connection_context(**options) as conn:
        work(conn)
    is_reset = reset == "session" and work is not nothing
    assert warm.proxy.round_trips == UNCHANGED[work] + is_reset
    assert resets(warm) == is_reset


@pytest.mark.parametrize("reset", ["changed"], indirect=True)
def test_round_trips_readonly(warm: ServerStage) -> None:
    """n statements in a readonly block cost n round trips, once the connection is in that mode."""
    for expected in (3, 2):
        warm.proxy.reset_counts()
        with db_connection_context(readonly=True) as conn:
            run(conn, TABLE)
            add_nothing(conn)
        assert warm.proxy.round_trips == expected


@pytest.mark.parametrize("reset", ["changed"], indirect=True)
@pytest.mark.parametrize("statements", [0, 1, 3])
def test_round_trips_isolation_level(warm: ServerStage, statements: int) -> None:
    """An isolation level costs one round trip, and none in an empty block."""
    with db_connection_context(isolation_level="SERIALIZABLE") as conn:
        for _ in range(statements):
            add(conn, 1, 1)
    assert warm.proxy.round_trips == (statements + 2 if statements else 0)


@pytest.mark.parametrize("reset", ["changed"], indirect=True)
@pytest.mark.parametrize("by_error", [False, True])
def test_p9_round_trips_changed(warm: ServerStage, by_error: bool) -> None:
    """A block that changed its session pays for one reset of one round trip, and the next block for
    none.
    """
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        run(conn, "SET search_path = pg_catalog")
        if by_error:
            raise LookupError
    assert resets(warm) == 1
    assert warm.proxy.round_trips <= 4
    warm.proxy.reset_counts()
    with db_connection_context() as conn:
        add(conn, 1, 1)
    assert warm.proxy.round_trips == 2
    assert warm.db.stats().discarded == 0
