"""T5, T8 and T10: what is told about a COMMIT, and `commit()` and `rollback()` by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flask_pooled_db import CommitOutcomeUnknown, TransactionAborted, UsageError
from harness.server import MariaDBServer
from harness.sockets import is_readable
from harness.workloads import add
from tests.support.scenarios import commits
from tests.support.scenarios.base import MOVED, Scenario, must_raise, rival
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage, on_server


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


@pytest.mark.parametrize(
    "scenario",
    [commits.commit_answer_lost, commits.commit_lost, commits.killed_before_commit],
    ids=lambda scenario: scenario.name,
)
def test_t5_commit_outcome_unknown(stage: ServerStage, scenario: Scenario[ServerStage]) -> None:
    """`CommitOutcomeUnknown` is raised if COMMIT was sent and not answered, and only then."""
    scenario(stage)


def test_t5_commit_refused_by_server(
    play_on_own_server: Callable[[Scenario[Any]], None],
) -> None:
    """A COMMIT that the server refuses raises the driver's error, and leaves no
    lock and no change.
    """
    play_on_own_server(commits.commit_refused)


def test_t5_commit_refused_by_constraint(
    sqlite_stage: FileStage,
) -> None:
    """A deferred constraint that fails at COMMIT raises the driver's error, and
    leaves no change.
    """
    commits.commit_refused_by_a_constraint(sqlite_stage)


def test_t5_explicit_commit_outcome_unknown(stage: ServerStage) -> None:
    """`conn.commit()` raises CommitOutcomeUnknown too; if it is swallowed, the scope raises it."""
    with must_raise(CommitOutcomeUnknown) as at_end:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.hold_replies_to(b"COMMIT")
            with pytest.raises(CommitOutcomeUnknown) as caught:
                connection.commit()
            assert isinstance(caught.value.__cause__, connection.Error)
            with pytest.raises(CommitOutcomeUnknown):
                add(connection, 3, 1)
    assert at_end[0].__cause__ is caught.value.__cause__
    assert stage.committed() == MOVED


def test_t10_tls_ticket_before_commit(tls_mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A session ticket that arrives before COMMIT does not end the connection:
    the block commits.
    """
    with on_server("ours", tls_mariadb, mariadb_driver) as stage:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.send_tickets()
            assert is_readable(stage.db.pool().driver.fileno(connection._entry.raw))
        assert stage.committed() == MOVED


def test_t8_outermost_block(any_stage: Stage) -> None:
    """`commit()` and `rollback()` work in the outermost block, which goes on."""
    with must_raise(LookupError):
        with any_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            connection.rollback()
            add(connection, 1, -10)
            add(connection, 2, 10)
            connection.commit()
            assert any_stage.committed() == MOVED
            add(connection, 3, 5)
            raise LookupError
    assert any_stage.committed() == MOVED


def test_t8_nested_block(any_stage: Stage) -> None:
    """`commit()` and `rollback()` raise in a nested block, and both blocks go on."""
    with any_stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with any_stage.db.connection_context() as inner:
            for use in (inner.commit, inner.rollback, outer.commit):
                with pytest.raises(UsageError, match="nested"):
                    use()
            add(inner, 2, 10)
        assert any_stage.committed() == UNTOUCHED
    assert any_stage.committed() == MOVED


def test_t8_rollback_after_deadlock(stage: ServerStage) -> None:
    """After a deadlock, `rollback()` in the outermost block makes the connection usable again."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -50)
        with rival(stage, holds=[2, 3], then=1):
            with pytest.raises(connection.OperationalError):
                add(connection, 2, 50)
        connection.rollback()
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED


def test_t8_rollback_after_lost_connection(stage: ServerStage) -> None:
    """`rollback()` does not revive a lost connection."""
    with must_raise(TransactionAborted):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            with pytest.raises(connection.Error):
                add(connection, 2, 10)
            with pytest.raises(TransactionAborted):
                connection.rollback()
            with pytest.raises(TransactionAborted):
                add(connection, 2, 10)
    assert stage.committed() == UNTOUCHED
