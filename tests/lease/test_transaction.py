"""T1 and T2: a scope commits or rolls back, and the caller sees its own exception."""

from __future__ import annotations

import contextlib
import logging

import pytest

from flask_pooled_db import TransactionAborted, UsageError
from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.support.scenarios import endings, losses
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage, on_server


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


def test_t1_commit(any_stage: Stage) -> None:
    """A block that is left normally commits."""
    endings.left_normally(any_stage)


def test_t1_rollback(any_stage: Stage) -> None:
    """A block that is left by an exception of any kind rolls back."""
    endings.left_by_an_exception(any_stage)


@pytest.mark.parametrize("error", [None, ValueError(), SystemExit(), GeneratorExit()], ids=repr)
def test_t1_released_once(any_stage: Stage, error: BaseException | None) -> None:
    """However a block is left, its connection is idle afterwards, and counted once."""
    for _ in range(3):
        with contextlib.suppress(type(error) if error else LookupError):
            with any_stage.db.connection_context() as connection:
                add(connection, 1, 0)
                assert any_stage.db.stats().in_use == 1
                if error:
                    raise error
    stats = any_stage.db.stats()
    assert (stats.in_use, stats.idle, stats.open, stats.checkouts) == (0, 1, 1, 3)


def test_t1_unrecognised_write_on_sqlite(sqlite_stage: FileStage) -> None:
    """A write that sqlite3 does not recognise (WITH, CREATE TABLE) is rolled
    back like any other.
    """
    losses.first_statement_is_no_plain_one(sqlite_stage)


def test_t1_executescript(sqlite_stage: FileStage) -> None:
    """`executescript()` commits nothing by itself."""
    with must_raise(LookupError):
        with sqlite_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            connection.cursor().executescript(
                "UPDATE accounts SET balance = 0; CREATE TABLE more (a TEXT DEFAULT ';');"
            )
            raise LookupError
    assert sqlite_stage.committed() == UNTOUCHED
    with sqlite_stage.db.connection_context() as connection:
        connection.cursor().executescript(
            "-- a; b\nCREATE TABLE more (a); INSERT INTO more VALUES (';')"
        )
    with sqlite_stage.db.connection_context() as connection:
        assert run(connection, "SELECT a FROM more") == [(";",)]


def test_t1_block_entered_twice(any_stage: Stage) -> None:
    """A `db_connection_context()` cannot be entered a second time."""
    scope = any_stage.db.connection_context()
    with scope:
        with pytest.raises(UsageError, match="entered once"):
            scope.__enter__()
    with pytest.raises(UsageError, match="left already"):
        scope.__exit__(None, None, None)
    with pytest.raises(UsageError, match="entered once"):
        scope.__enter__()


def test_t1_wrong_cursor_arguments(any_stage: Stage) -> None:
    """Wrong arguments to `cursor()` raise an error, and the transaction goes on."""
    with any_stage.db.connection_context() as connection:
        add(connection, 1, -10)
        with pytest.raises(TypeError):
            connection.cursor(no_such_option=True)
        add(connection, 2, 10)
    assert any_stage.committed() == MOVED


def test_t2_failing_rollback(stage: ServerStage, caplog: pytest.LogCaptureFixture) -> None:
    """If the rollback fails, it is logged, and the caller sees its own exception."""
    with caplog.at_level(logging.WARNING, "flask_pooled_db"):
        endings.rollback_fails(stage)
    assert "Rolling back a connection failed" in caplog.text


@pytest.mark.slow
def test_t2_hung_rollback(
    server: MariaDBServer, mariadb_driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A hung ROLLBACK is cut off, so that the caller's exception arrives."""
    with on_server("ours", server, mariadb_driver, connect_timeout=1) as stage:
        try:
            with caplog.at_level(logging.WARNING, "flask_pooled_db"), must_raise(LookupError):
                with stage.db.connection_context() as connection:
                    add(connection, 1, -10)
                    stage.proxy.deaf()
                    raise LookupError
        finally:
            stage.proxy.hear()
        assert "Rolling back a connection failed" in caplog.text
        assert stage.db.stats().in_use == 0


@pytest.mark.parametrize("close", [True, False])
def test_t2_cursor_closed_in_finally(stage: ServerStage, close: bool) -> None:
    """A cursor closed in a `finally` does not replace the error that ended the transaction."""
    with must_raise(stage_errors(stage)) as caught:
        with stage.db.connection_context() as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.fetchall()
            stage.kill(connection)
            try:
                if close:
                    cursor.execute("SELECT 2")
                else:
                    with cursor:
                        cursor.execute("SELECT 2")
            finally:
                cursor.close()
    assert not isinstance(caught[0], TransactionAborted)


def stage_errors(stage: Stage) -> type[Exception]:
    """The root of the driver's errors."""
    with stage.db.connection_context() as connection:
        error: type[Exception] = connection.Error
    return error
