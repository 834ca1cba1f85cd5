"""T3 and T4: a transaction that is gone ends in an error, and nothing is sent twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from flask_pooled_db import TransactionAborted
from harness.workloads import add, connection_id, run
from tests.support.scenarios import losses
from tests.support.scenarios.base import (
    MOVED,
    Scenario,
    assert_fit,
    must_raise,
    rival,
    statement_is_sent,
)
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage, join


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


def test_t3_statement_sent_once(stage: ServerStage) -> None:
    """A statement whose answer was lost is not sent again."""
    losses.nothing_is_sent_twice(stage)


def test_t3_connection_never_replaced(stage: ServerStage) -> None:
    """A lease ends with its connection, even if it has only read so far."""
    losses.killed_before_the_first_write(stage)
    stage.proxy.reset_counts()
    with contextlib.suppress(TransactionAborted):
        with stage.db.connection_context() as connection:
            stage.kill(connection)
            for _ in range(3):
                with pytest.raises((connection.Error, TransactionAborted)):
                    run(connection, "SELECT 1")
    assert len({command.connection for command in stage.proxy.commands}) <= 1
    assert stage.proxy.connections <= 1


@pytest.mark.parametrize(
    "scenario",
    [
        losses.killed_between_two_updates,
        losses.killed_and_swallowed,
        losses.cut_between_two_updates,
        losses.deadlock,
        losses.deadlock_swallowed,
    ],
    ids=lambda scenario: scenario.name,
)
def test_t4_lost_transaction(stage: ServerStage, scenario: Scenario[ServerStage]) -> None:
    """The loss of a transaction, raised or swallowed, ends its scope in an error, and nothing of it
    is committed.
    """
    scenario(stage)


def test_t4_lock_wait_timeout_rolls_back(
    play_on_own_server: Callable[[Scenario[Any]], None],
) -> None:
    """With innodb_rollback_on_timeout, a swallowed 1205 ends the scope in an error."""
    play_on_own_server(losses.lock_wait_timeout_that_rolls_back)


def test_t4_lock_wait_timeout(
    play_on_own_server: Callable[[Scenario[Any]], None],
) -> None:
    """By default a swallowed 1205 costs only the statement: the transaction commits."""
    play_on_own_server(losses.lock_wait_timeout)


def test_t4_failed_statement(forgiving_stage: Stage) -> None:
    """A duplicate key or a wrong column leaves the transaction alive."""
    losses.statement_failed(forgiving_stage)


def test_t4_killed_statement(mariadb_stage: ServerStage) -> None:
    """KILL QUERY ends the statement; the transaction goes on and commits."""
    with mariadb_stage.db.connection_context() as connection:
        id_ = connection_id(connection)
        add(connection, 1, -10)

        def kill() -> None:
            statement_is_sent(mariadb_stage, b"UPDATE accounts SET balance = SLEEP")()
            mariadb_stage.server.execute("KILL QUERY %s", id_)

        killer = mariadb_stage.in_thread(kill)
        with pytest.raises(connection.Error):
            run(connection, "UPDATE accounts SET balance = SLEEP(20) WHERE id = 3")
        join(killer)
        add(connection, 2, 10)
    assert mariadb_stage.committed() == MOVED


@pytest.mark.mariadb_only
def test_t4_changed_snapshot(mariadb_stage: ServerStage) -> None:
    """After error 1020 with innodb_snapshot_isolation, the scope commits no part of its
    transaction.
    """
    if not mariadb_stage.server.query("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'"):
        pytest.skip("this server has no innodb_snapshot_isolation")
    try:
        with mariadb_stage.db.connection_context() as connection:
            run(connection, "SET SESSION innodb_snapshot_isolation = ON")
            run(connection, "SELECT * FROM accounts")
            add(connection, 1, -10)
            mariadb_stage.server.execute(
                f"UPDATE `{mariadb_stage.database}`.accounts SET balance = 7 WHERE id = 3"
            )
            with pytest.raises(connection.OperationalError, match="changed since"):
                add(connection, 3, 1)
            with contextlib.suppress(TransactionAborted):
                add(connection, 2, 10)
    except TransactionAborted:
        expected = UNTOUCHED
    else:
        expected = MOVED
    assert mariadb_stage.committed() == {**expected, 3: 7}


def test_t4_sqlite_rolls_back(sqlite_stage: FileStage) -> None:
    """If SQLite ends the transaction by itself, a scope that swallowed the
    error commits nothing.
    """
    losses.database_rolls_back(sqlite_stage)


def test_t4_first_error_as_cause(stage: ServerStage) -> None:
    """Each further use, and the end of the scope, raises an error caused by the first one."""
    with must_raise(TransactionAborted) as at_end:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            with pytest.raises(connection.Error) as first:
                add(connection, 2, 10)
            for use in (connection.cursor, connection.commit, connection.ping):
                with pytest.raises(TransactionAborted) as further:
                    use()
                assert further.value.__cause__ is first.value
    assert at_end[0].__cause__ is first.value


def test_t4_loss_in_nested_block(mariadb_stage: ServerStage) -> None:
    """A deadlock swallowed around a nested block ends the outer block in an error."""
    with must_raise(TransactionAborted):
        with mariadb_stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with rival(mariadb_stage, holds=[2, 3], then=1):
                with pytest.raises(outer.OperationalError):
                    with mariadb_stage.db.connection_context() as inner:
                        add(inner, 2, 10)
            with pytest.raises(TransactionAborted):
                add(outer, 2, 10)
            with pytest.raises(TransactionAborted):
                with mariadb_stage.db.connection_context() as inner:
                    add(inner, 2, 10)
    assert mariadb_stage.committed() == UNTOUCHED


def test_t4_other_connections(stage: ServerStage) -> None:
    """A scope that lost its connection costs the pool only that connection."""
    with contextlib.suppress(TransactionAborted):
        with stage.db.connection_context() as connection:
            stage.kill(connection)
            with pytest.raises(connection.Error):
                run(connection, "SELECT 1")
    assert_fit(stage)
    stats = stage.db.stats()
    assert (stats.in_use, stats.discarded) == (0, 1)


def test_t4_app_context_ends_first(any_stage: Stage) -> None:
    """A block that outlives its app context ends in an error, and its work is rolled back."""
    with any_stage.app.app_context() as context:
        scope = any_stage.db.connection_context()
        add(scope.__enter__(), 1, -10)
    assert not context.g.__dict__
    with pytest.raises(TransactionAborted, match="app context"):
        scope.__exit__(None, None, None)
    assert any_stage.committed() == UNTOUCHED
    assert any_stage.db.stats().in_use == 0
