"""T1 and T4: results of a procedure, or of several statements, that nobody has read."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from flask_pooled_db import PooledDBError
from harness.server import MariaDBServer
from harness.workloads import add, connection_id, run
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import ON_SHARED_SERVER, UNTOUCHED, ServerStage, on_server

DUPLICATE = 1062
HALF_MOVED = {**UNTOUCHED, 1: UNTOUCHED[1] - 10}

PROCEDURES = (
    (
        "PROCEDURE move() BEGIN UPDATE accounts SET balance = balance - 10 WHERE id = 1; SELECT 1;"
        " UPDATE accounts SET balance = balance + 10 WHERE id = 2; SELECT 2 UNION SELECT 3; END"
    ),
    (
        "PROCEDURE fail() BEGIN UPDATE accounts SET balance = balance - 10 WHERE id = 1; SELECT 1;"
        " INSERT INTO accounts VALUES (2, 0); END"
    ),
    "PROCEDURE double_it(IN a INT, OUT b INT) SET b = 2 * a",
)


@pytest.fixture(params=ON_SHARED_SERVER)
def results_stage(request: pytest.FixtureRequest, mariadb: MariaDBServer) -> Iterator[ServerStage]:
    """Each driver in turn, on a database with procedures that return results."""
    several = {"client_flag": 1 << 16}  # CLIENT_MULTI_STATEMENTS
    with on_server("ours", mariadb, request.param, is_direct=True, CONNECT_ARGS=several) as stage:
        for procedure in PROCEDURES:
            mariadb.execute(f"USE `{stage.database}`")
            mariadb.execute(f"CREATE {procedure}")
        yield stage


def number_of(error: Any) -> int:
    return int(getattr(error, "errno", None) or error.args[0])


def call(connection: Any, name: str) -> Any:
    cursor = connection.cursor()
    cursor.execute(f"CALL {name}()")
    return cursor


def call_streaming(connection: Any, name: str, stage: ServerStage) -> Any:
    cursor = stage.streaming_cursor(connection)
    cursor.execute(f"CALL {name}()")
    return cursor


def callproc(connection: Any, name: str) -> Any:
    cursor = connection.cursor()
    cursor.callproc(name)
    return cursor


def several_statements(connection: Any, name: str) -> Any:
    last = "UPDATE accounts SET balance = balance + 10 WHERE id = 2"
    if name == "fail":
        last = "INSERT INTO accounts VALUES (2, 0)"
    cursor = connection.cursor()
    cursor.execute(f"UPDATE accounts SET balance = balance - 10 WHERE id = 1; SELECT 1; {last}")
    return cursor


WAYS = [call, callproc, several_statements]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("keeps", [True, False], ids=["cursor kept", "cursor dropped"])
def test_t1_unread_results_committed(results_stage: ServerStage, way: Any, keeps: bool) -> None:
    """A block whose results were not read is committed when it ends, whole, and its connection is
    used again.
    """
    stage = results_stage
    with stage.db.connection_context() as connection:
        before = connection_id(connection)
        cursor = way(connection, "move")
        if not keeps:
            del cursor
            gc.collect()
    assert stage.committed() == MOVED
    with stage.db.connection_context() as connection:
        assert connection_id(connection) == before


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("how", ["unread", "closed", "dropped", "read on", "another statement"])
def test_t4_failure_after_first_result(results_stage: ServerStage, way: Any, how: str) -> None:
    """A procedure that fails after its first result fails the block, in whatever way the results
    are left, and nothing of it reaches the next.
    """
    stage = results_stage
    with must_raise(stage_error(stage), PooledDBError) as caught:
        with stage.db.connection_context() as connection:
            cursor = way(connection, "fail")
            if how == "closed":
                cursor.close()
            elif how == "dropped":
                del cursor
                gc.collect()
            elif how == "read on":
                while cursor.nextset():
                    pass
            elif how == "another statement":
                run(connection, "SELECT 1")
    assert number_of(caught[0]) == DUPLICATE
    assert stage.committed() == UNTOUCHED
    with stage.db.connection_context() as connection:
        assert run(connection, "SELECT 1") == [(1,)]
    assert stage.committed() == UNTOUCHED


def stage_error(stage: ServerStage) -> type[Exception]:
    import mariadb as connector
    import pymysql

    return pymysql.IntegrityError if stage.driver == "pymysql" else connector.IntegrityError


@pytest.mark.parametrize("name", ["move", "fail"])
def test_t1_unread_results_of_stream(results_stage: ServerStage, name: str) -> None:
    """The same with a streaming cursor."""
    stage = results_stage
    with must_raise(stage_error(stage)) if name == "fail" else contextlib.nullcontext():
        with stage.db.connection_context() as connection:
            cursor = call_streaming(connection, name, stage)
            assert list(cursor.fetchall()) == [(1,)]
    assert stage.committed() == (MOVED if name == "move" else UNTOUCHED)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_t1_results_read_one_by_one(results_stage: ServerStage, way: Any) -> None:
    """All results can be read, and then the block is committed."""
    stage = results_stage
    with stage.db.connection_context() as connection:
        cursor = way(connection, "move")
        found = []
        while True:
            if cursor.description:
                found.append(list(cursor.fetchall()))
            if not cursor.nextset():
                break
    assert found == ([[(1,)]] if way is several_statements else [[(1,)], [(2,), (3,)]])
    assert stage.committed() == MOVED


def test_t1_out_parameters(results_stage: ServerStage) -> None:
    """A procedure's OUT parameters can be read, and the block goes on and is committed."""
    stage = results_stage
    with stage.db.connection_context() as connection, connection.cursor() as cursor:
        cursor.callproc("double_it", (21, None))
        if stage.driver == "pymysql":
            cursor.execute("SELECT @_double_it_1")
        assert cursor.fetchone() == (42,)
        add(connection, 1, -10)
    assert stage.committed() == HALF_MOVED
    with stage.db.connection_context() as connection:
        connection.cursor().callproc("double_it", (21, None))
        add(connection, 1, 10)
    assert stage.committed() == UNTOUCHED


@pytest.mark.parametrize("way", WAYS[:2], ids=lambda way: way.__name__)
def test_t1_unread_results_of_readonly_block(results_stage: ServerStage, way: Any) -> None:
    """A readonly block reads its results too: its connection is used again, a failure raised."""
    stage = results_stage
    stage.server.execute(f"USE `{stage.database}`")
    stage.server.execute("CREATE PROCEDURE look() BEGIN SELECT 1; SELECT 2; END")
    stage.server.execute("CREATE PROCEDURE stumble() BEGIN SELECT 1; SELECT * FROM nowhere; END")
    with stage.db.connection_context(readonly=True) as connection:
        way(connection, "look")
    assert stage.db.stats().discarded == 0
    with pytest.raises(connection.ProgrammingError):
        with stage.db.connection_context(readonly=True) as connection:
            way(connection, "stumble")


def test_t8_commit_and_rollback_with_results(results_stage: ServerStage) -> None:
    """commit() and rollback() in the middle read the results first."""
    stage = results_stage
    with stage.db.connection_context() as connection:
        call(connection, "move")
        connection.commit()
        assert stage.committed() == MOVED
        call(connection, "move")
        connection.rollback()
        call(connection, "fail")
        connection.rollback()
    assert stage.committed() == MOVED


def test_t4_failed_result_in_nested_block(results_stage: ServerStage) -> None:
    """A nested block with a procedure that fails later is undone; the outer one goes on."""
    stage = results_stage
    with stage.db.connection_context() as connection:
        add(connection, 2, 10)
        with pytest.raises(stage_error(stage)):
            with stage.db.connection_context() as inner:
                call(inner, "fail")
        add(connection, 1, -10)
    assert stage.committed() == MOVED


def test_t1_results_beside_other_cursors(results_stage: ServerStage) -> None:
    """The end of another cursor takes no result away."""
    stage = results_stage
    with stage.db.connection_context() as connection:
        closed, dropped, cursor = (connection.cursor() for _ in range(3))
        for other in (closed, dropped):
            other.execute("SELECT 1")
            other.fetchall()
        cursor.execute("CALL move()")
        closed.close()
        del dropped, other
        gc.collect()
        assert list(cursor.fetchall()) == [(1,)]
        assert cursor.nextset()
        assert list(cursor.fetchall()) == [(2,), (3,)]
    assert stage.committed() == MOVED
