"""T4 and T6: streaming cursors. Either every row is read, or there is an error."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db import UsageError
from harness.server import MariaDBServer
from harness.workloads import add, connection_id, run
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import ON_SHARED_SERVER, UNTOUCHED, ServerStage, on_server

ROWS = 5
FEW_ROWS = " UNION ALL ".join(f"SELECT {row}" for row in range(1, ROWS + 1))
SLOW_ROWS = "SELECT seq, REPEAT('x', 1000), SLEEP(0.0002) FROM seq_1_to_20000 WHERE 1 = %s"
REMEDIES = r"read them to the end or close\(\).*independent=True"


@pytest.fixture(params=ON_SHARED_SERVER)
def stream_stage(request: pytest.FixtureRequest, mariadb: MariaDBServer) -> Iterator[ServerStage]:
    """Each driver in turn."""
    with on_server("ours", mariadb, request.param, is_direct=True) as stage:
        yield stage


def opened(stage: ServerStage, connection: Any, sql: str = FEW_ROWS, *args: Any) -> Any:
    """A streaming cursor that has read the first row."""
    cursor = stage.streaming_cursor(connection)
    cursor.execute(sql, *args)
    assert cursor.fetchone()[0] == 1
    return cursor


# What comes between the rows


def a_statement(stage: ServerStage, connection: Any) -> None:
    add(connection, 1, -10)


def a_nested_block(stage: ServerStage, connection: Any) -> None:
    with stage.db.connection_context() as inner:
        add(inner, 1, -10)


def a_nested_block_without_savepoint(stage: ServerStage, connection: Any) -> None:
    with stage.db.connection_context(savepoint=False) as inner:
        add(inner, 1, -10)


def commit(stage: ServerStage, connection: Any) -> None:
    connection.commit()


def ping(stage: ServerStage, connection: Any) -> None:
    connection.ping()


def another_stream(stage: ServerStage, connection: Any) -> None:
    opened(stage, connection)


def a_procedure(stage: ServerStage, connection: Any) -> None:
    connection.cursor().callproc("nothing")


def many(stage: ServerStage, connection: Any) -> None:
    connection.cursor().executemany("INSERT INTO accounts VALUES (%s, 0)", [(8,), (9,)])


BETWEEN = [a_statement, a_nested_block, commit, ping, another_stream, a_procedure, many]


@pytest.mark.parametrize("between", BETWEEN, ids=lambda between: between.__name__)
@pytest.mark.parametrize("way", ["fetchone", "iteration", "fetchmany", "unbuffered"])
def test_t6_statement_amid_stream(
    stream_stage: ServerStage, between: Callable[[ServerStage, Any], None], way: str
) -> None:
    """What would end a stream is refused before it is sent, with both remedies named; every row can
    still be read, and the transaction goes on.
    """
    stage = stream_stage
    with stage.db.connection_context() as connection:
        cursor = opened(stage, connection)
        with pytest.raises(UsageError, match=REMEDIES):
            between(stage, connection)
        rows = {
            "fetchone": lambda: list(iter(cursor.fetchone, None)),
            "iteration": lambda: list(cursor),
            "fetchmany": lambda: [*cursor.fetchmany(1), *cursor.fetchmany(ROWS)],
            "unbuffered": lambda: list(getattr(cursor, "fetchall_unbuffered", cursor.fetchall)()),
        }[way]()
        assert [row[0] for row in rows] == [2, 3, 4, 5]
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED
    assert stage.db.stats().discarded == 0


def test_t6_refused_nested_block_left_by_error(stream_stage: ServerStage) -> None:
    """A helper's block that is refused amid a stream costs nothing of the outer one."""
    stage = stream_stage
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        seen = 0
        for row in opened(stage, connection):
            if row[0] < ROWS:
                with pytest.raises(UsageError, match=REMEDIES):
                    a_nested_block(stage, connection)
            seen += 1
        assert seen == ROWS - 1
        add(connection, 2, 10)
    assert stage.committed() == MOVED


@pytest.mark.parametrize("remedy", ["read", "close", "with", "independent"])
def test_t6_remedies(stream_stage: ServerStage, remedy: str) -> None:
    """Both remedies work."""
    stage = stream_stage
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        cursor = opened(stage, connection)
        if remedy == "read":
            assert len(cursor.fetchall()) == ROWS - 1
        elif remedy == "close":
            cursor.close()
        elif remedy == "with":
            with cursor:
                pass
        else:
            with stage.db.connection_context(independent=True) as other:
                add(other, 2, 10)
            assert len(cursor.fetchall()) == ROWS - 1
        if remedy != "independent":
            add(connection, 2, 10)
    assert stage.committed() == MOVED
    assert stage.db.stats().discarded == 0


def test_t6_single_row(stream_stage: ServerStage) -> None:
    """A stream whose last row was read is in nobody's way, also before its end was seen."""
    stage = stream_stage
    with stage.db.connection_context() as connection:
        cursor = opened(stage, connection, "SELECT 1")
        add(connection, 1, -10)
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        assert cursor.fetchone() is None
        add(connection, 2, 10)
    assert stage.committed() == MOVED
    assert stage.db.stats().discarded == 0


def test_t6_dropped_stream(stream_stage: ServerStage) -> None:
    """A streaming cursor that was dropped does not block its connection."""
    stage = stream_stage
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        for _ in opened(stage, connection):
            break
        gc.collect()
        add(connection, 2, 10)
    assert stage.committed() == MOVED


def test_t6_rollback_amid_stream(stream_stage: ServerStage) -> None:
    """rollback() drops the rows, and whoever goes on reading them gets an error."""
    stage = stream_stage
    with stage.db.connection_context() as connection:
        add(connection, 3, -10)
        cursor = opened(stage, connection)
        connection.rollback()
        for read in (cursor.fetchone, cursor.fetchall, lambda: list(cursor)):
            with pytest.raises(UsageError, match="were dropped"):
                read()
        cursor.execute(FEW_ROWS)
        assert len(cursor.fetchall()) == ROWS
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED


def test_t6_stream_of_nested_block(stream_stage: ServerStage) -> None:
    """What a nested block has not read is dropped at its end, with an error for who reads on."""
    stage = stream_stage
    with stage.db.connection_context() as connection:
        with stage.db.connection_context() as inner:
            add(inner, 1, -10)
            cursor = opened(stage, inner)
        with pytest.raises(UsageError, match="were dropped"):
            cursor.fetchone()
        add(connection, 2, 10)
    assert stage.committed() == MOVED


def test_t6_other_cursors_amid_stream(stream_stage: ServerStage) -> None:
    """Other cursors may be made, closed and dropped amid a stream. They can be read then or, where
    the driver can't do that, later.
    """
    stage = stream_stage
    with stage.db.connection_context() as connection:
        read, closed, dropped = (connection.cursor() for _ in range(3))
        for cursor in (read, closed, dropped):
            cursor.execute("SELECT 1 WHERE 'x' = %s UNION SELECT 2", (b"x",))
        in_text = connection.cursor()
        in_text.execute("SELECT 3")
        del cursor
        stream = opened(stage, connection)
        closed.close()
        del dropped
        connection.cursor().close()
        gc.collect()
        assert list(in_text.fetchall()) == [(3,)]
        if stage.driver == "mariadbconnector":
            for fetch in (read.fetchone, read.fetchall, read.fetchmany, lambda: next(read)):
                with pytest.raises(UsageError, match=REMEDIES):
                    fetch()
        assert len(stream.fetchall()) == ROWS - 1
        assert read.fetchone() == (1,)
        stream.execute(FEW_ROWS)
        if stage.driver == "mariadbconnector":
            with pytest.raises(UsageError, match=REMEDIES):
                read.fetchone()
        stream.close()
        assert list(read.fetchall()) == [(2,)]
        read.execute("SELECT 1 WHERE 'x' = %s", (b"x",))
        assert list(read.fetchall()) == [(1,)]
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED


# A stream that is cut


IN_A_MOMENT = """
import json, sys, time, pymysql
connection = pymysql.connect(**json.loads(sys.argv[1]))
time.sleep(0.3)
connection.cursor().execute(sys.argv[2])
connection.close()
"""


@contextlib.contextmanager
def cut(stage: ServerStage, connection: Any, how: str) -> Iterator[None]:
    """Have another process end what runs: the connector reads while it holds the GIL."""
    if how == "timeout":
        yield  # the session has a limit
        return
    arguments = json.dumps(stage.server.connect_args())
    sql = f"{how} {connection_id(connection)}"
    with subprocess.Popen([sys.executable, "-c", IN_A_MOMENT, arguments, sql]):
        yield


@pytest.mark.mariadb_only
@pytest.mark.parametrize("how", ["timeout", "KILL QUERY", "KILL"])
@pytest.mark.parametrize("way", ["fetchone", "fetchmany", "fetchall", "close", "end"])
@pytest.mark.parametrize("parameter", [1, b"1"], ids=["text", "binary"])
def test_t4_stream_is_cut(stream_stage: ServerStage, how: str, way: str, parameter: Any) -> None:
    """A stream that its server ends half-way raises, and does not just end."""
    stage = stream_stage
    limit = 0.5 if how == "timeout" else None
    with must_raise(stage_error(stage)):
        with stage.db.connection_context(statement_timeout=limit) as connection:
            add(connection, 1, -10)
            cursor = stage.streaming_cursor(connection)
            with cut(stage, connection, how):
                cursor.execute(SLOW_ROWS, (parameter,))
                read(cursor, way)
    assert stage.committed() == UNTOUCHED


@pytest.mark.mariadb_only
def test_t4_goes_on_after_cut_stream(stream_stage: ServerStage) -> None:
    """A stream that exceeded its time costs its rows alone: the transaction goes on."""
    stage = stream_stage
    with stage.db.connection_context(statement_timeout=0.3) as connection:
        add(connection, 1, -10)
        cursor = stage.streaming_cursor(connection)
        cursor.execute(SLOW_ROWS, (1,))
        with pytest.raises(connection.Error):
            cursor.fetchall()
        add(connection, 2, 10)
    assert stage.committed() == MOVED
    assert stage.db.stats().discarded == 0


def read(cursor: Any, way: str) -> None:
    """Read to what looks like the end, or leave the rest to close(), or to the end of the block."""
    if way == "fetchone":
        while cursor.fetchone() is not None:
            pass
    elif way == "fetchmany":
        while len(cursor.fetchmany(100)) == 100:
            pass
    elif way == "fetchall":
        cursor.fetchall()
    elif way == "close":
        cursor.close()
    else:
        cursor.fetchone()


def stage_error(stage: ServerStage) -> type[Exception]:
    import mariadb as connector
    import pymysql

    return pymysql.Error if stage.driver == "pymysql" else connector.Error


def test_t6_readonly_stream(stream_stage: ServerStage) -> None:
    """A readonly block refuses in the same way."""
    stage = stream_stage
    with stage.db.connection_context(readonly=True) as connection:
        cursor = opened(stage, connection)
        with pytest.raises(UsageError, match=REMEDIES):
            run(connection, "SELECT 1")
        assert len(cursor.fetchall()) == ROWS - 1
        assert run(connection, "SELECT 1") == [(1,)]


def test_t6_streaming_by_default(mariadb: MariaDBServer) -> None:
    """PyMySQL's cursors stream too where the connect arguments say so, or the app's own class."""
    from pymysql.cursors import Cursor, SSDictCursor

    class Own(Cursor):
        def _query(self, q: Any) -> Any:
            self._clear_result()  # type: ignore[attr-defined]
            self._get_db().query(q, unbuffered=True)  # type: ignore[attr-defined]
            self._do_get_result()  # type: ignore[attr-defined]

        def fetchone(self) -> Any:
            return self._result._read_rowdata_packet_unbuffered()  # type: ignore[attr-defined]

    for kind in (SSDictCursor, Own):
        arguments = {"cursorclass": kind}
        with on_server("ours", mariadb, "pymysql", is_direct=True, CONNECT_ARGS=arguments) as stage:
            with stage.db.connection_context() as connection:
                cursor = connection.cursor()
                cursor.execute(FEW_ROWS)
                cursor.fetchone()
                with pytest.raises(UsageError, match=REMEDIES):
                    run(connection, "SELECT 1")
                assert len(list(iter(cursor.fetchone, None))) == ROWS - 1
