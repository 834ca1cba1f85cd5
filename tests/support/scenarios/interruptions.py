"""T6: interrupted, or not read to the end."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

from flask import Response, stream_with_context

from harness.waiting import wait_until
from harness.workloads import add, connection_id, run
from tests.support.scenarios.base import (
    EVERYWHERE,
    MOVED,
    ON_MARIADB,
    ON_SQLITE,
    assert_fit,
    assert_untouched,
    must_raise,
    scenario,
    signalled,
    statement_is_sent,
)
from tests.support.stages import FileStage, ServerStage, Stage


class Timeout(BaseException):
    """One of the exceptions with which workers and libraries end what takes too long."""


def _interrupted_by(error: BaseException) -> None:
    def play(stage: ServerStage) -> None:
        """What interrupts a statement is what the caller sees; the connection is not used again."""
        with must_raise(type(error)) as caught:
            with stage.db.connection_context() as connection:
                before = connection_id(connection)
                add(connection, 1, -10)
                with signalled(error, statement_is_sent(stage, stage.sleep(1).encode())):
                    run(connection, stage.sleep(1))
        assert caught == [error]
        with stage.db.connection_context() as connection:
            assert connection_id(connection) != before
        wait_until(lambda: before not in stage.server.connections(), "the connection is closed")
        assert_untouched(stage)
        assert_fit(stage)

    play.__name__ = f"interrupted_by_{type(error).__name__.lower()}"
    scenario(ON_MARIADB)(play)


for _error in (
    SystemExit(1),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    Timeout(),
):
    _interrupted_by(_error)


@scenario(ON_MARIADB)
def interrupted_and_swallowed(stage: ServerStage) -> None:
    """A caller that swallows what interrupted a statement can't go on with the connection."""
    error = Timeout()
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with must_raise(Timeout):
                with signalled(error, statement_is_sent(stage, stage.sleep(1).encode())):
                    run(connection, stage.sleep(1))
            with must_raise(Exception):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_SQLITE)
def interrupted_while_reading(stage: FileStage) -> None:
    """A signal in the middle of an endless SELECT: rolled back, and the pool lends on."""
    error = KeyboardInterrupt()
    with must_raise(KeyboardInterrupt) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            cursor = connection.cursor()
            cursor.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
            )
            with signalled(error, lambda: time.sleep(0.05)):
                while True:
                    cursor.fetchone()
    assert caught == [error]
    assert_untouched(stage)
    assert_fit(stage)


@scenario(EVERYWHERE, is_direct=True)
def half_read_on_commit(stage: Stage) -> None:
    """Rows that nobody read do not stand in the way of COMMIT, nor of the next lease."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
        cursor = stage.streaming_cursor(connection)
        cursor.execute(stage.many_rows)
        assert cursor.fetchone() == (1,)
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(EVERYWHERE, is_direct=True)
def half_read_on_rollback(stage: Stage) -> None:
    """Rows that nobody read do not stand in the way of a rollback, nor of the next lease."""
    error = LookupError("the caller's own")
    with must_raise(Exception) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            cursor = stage.streaming_cursor(connection)
            cursor.execute(stage.many_rows)
            assert cursor.fetchone() == (1,)
            raise error
    assert caught == [error]
    assert_untouched(stage)
    assert_fit(stage)


@scenario(EVERYWHERE, is_direct=True)
def half_read_and_dropped(stage: Stage) -> None:
    """The same where the cursor was dropped without being closed."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
        cursor = stage.streaming_cursor(connection)
        cursor.execute(stage.many_rows)
        assert cursor.fetchone() == (1,)
        del cursor
        gc.collect()
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(ON_MARIADB, is_direct=True)
def half_read_is_not_read_on(stage: ServerStage) -> None:
    """A connection with unread rows that is rolled back is closed, and not used again."""
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            before = connection_id(connection)
            cursor = stage.streaming_cursor(connection)
            cursor.execute(stage.many_rows)
            cursor.fetchone()
            raise LookupError
    with stage.db.connection_context() as connection:
        assert connection_id(connection) != before


@scenario(EVERYWHERE, is_direct=True)
def abandoned_stream(stage: Stage) -> None:
    """A streamed response whose client goes away: rolled back, and its connection is back."""

    @stage.app.get("/stream")
    def stream() -> Response:
        def rows() -> Iterator[str]:
            with stage.db.connection_context() as connection:
                add(connection, 1, -10)
                cursor = stage.streaming_cursor(connection)
                cursor.execute(stage.many_rows)
                while (row := cursor.fetchone()) is not None:
                    yield f"{row[0]}\n"

        return Response(stream_with_context(rows()))

    response = stage.app.test_client().get("/stream", buffered=False)
    chunks = response.iter_encoded()
    assert next(chunks) == b"1\n"
    response.close()
    assert_untouched(stage)
    assert_fit(stage)
