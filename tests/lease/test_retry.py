"""run_transaction: what is started over, and what never is."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import (
    CommitOutcomeUnknown,
    TransactionAborted,
    UsageError,
)
from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.support.apps import pooled_app
from tests.support.scenarios.base import MOVED, must_raise, rival
from tests.support.stages import (
    UNTOUCHED,
    FileStage,
    ServerStage,
    Stage,
    on_file,
    on_server,
)


def move(connection: Any, calls: list[int]) -> str:
    """A transfer that counts how often it is begun."""
    calls.append(len(calls))
    add(connection, 1, -10)
    add(connection, 2, 10)
    return "done"


def test_run_transaction_returns_what_the_function_returns(any_stage: Stage) -> None:
    """It passes arguments on, commits, and calls once where once will do."""
    calls: list[int] = []
    assert any_stage.db.run_transaction(move, calls=calls) == "done"
    assert any_stage.committed() == MOVED
    assert calls == [0]


def test_run_transaction_starts_over_after_a_deadlock(stage: ServerStage) -> None:
    """A deadlock's victim is tried again as a whole, on whatever connection."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        add(connection, 1, -10)
        with rival(stage, [2, 3], then=1) if len(calls) == 1 else contextlib.nullcontext():
            add(connection, 2, 10)

    stage.db.run_transaction(work)
    assert calls == [0, 1]
    assert stage.committed() == MOVED


@pytest.mark.parametrize("on_timeout", ["ON", "OFF"])
def test_run_transaction_starts_over_after_a_lock_wait_timeout(
    mariadb_driver: str, on_timeout: str
) -> None:
    """1205 is tried again, whether the server rolled back the statement or the transaction."""
    calls: list[int] = []
    options = [f"--innodb-rollback-on-timeout={on_timeout}", "--innodb-lock-wait-timeout=1"]
    with MariaDBServer(options) as server, on_server("ours", server, mariadb_driver) as stage:

        def work(connection: Any) -> None:
            calls.append(len(calls))
            add(connection, 1, -10)
            with rival(stage, [2]) if len(calls) == 1 else contextlib.nullcontext():
                add(connection, 2, 10)

        stage.db.run_transaction(work)
        assert calls == [0, 1]
        assert stage.committed() == MOVED


@pytest.mark.parametrize("last", [False, True], ids=["between", "before COMMIT"])
def test_run_transaction_starts_over_after_a_lost_connection(
    stage: ServerStage, last: bool
) -> None:
    """A connection lost before COMMIT was sent is no reason to give up."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        add(connection, 1, -10)
        if len(calls) == 1 and not last:
            stage.kill(connection)
        add(connection, 2, 10)
        if len(calls) == 1 and last:
            stage.kill(connection)

    stage.db.run_transaction(work)
    assert calls == [0, 1]
    assert stage.committed() == MOVED


def test_run_transaction_starts_over_where_the_loss_was_swallowed(stage: ServerStage) -> None:
    """Also where the function swallowed the error, and the scope ended in one."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        add(connection, 1, -10)
        if len(calls) == 1:
            stage.kill(connection)
        with contextlib.suppress(connection.Error, TransactionAborted):
            add(connection, 2, 10)

    stage.db.run_transaction(work)
    assert calls == [0, 1]
    assert stage.committed() == MOVED


def test_run_transaction_never_starts_over_after_a_lost_commit(stage: ServerStage) -> None:
    """Whether that COMMIT took place is not known: doing it again might do it twice."""
    calls: list[int] = []
    stage.proxy.hold_replies_to(b"COMMIT")
    with pytest.raises(CommitOutcomeUnknown):
        stage.db.run_transaction(move, calls)
    assert calls == [0]
    assert stage.committed() == MOVED


def test_run_transaction_never_starts_over_after_an_own_commit_was_lost(
    stage: ServerStage,
) -> None:
    """The same where the function commits by itself, also where it swallows the error."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        stage.proxy.hold_replies_to(b"COMMIT")
        with contextlib.suppress(CommitOutcomeUnknown):
            connection.commit()

    with pytest.raises(CommitOutcomeUnknown):
        stage.db.run_transaction(work)
    assert calls == [0]
    assert stage.committed() == MOVED


def test_run_transaction_never_repeats_what_its_function_committed(stage: ServerStage) -> None:
    """What a function committed by itself before the loss is not done again."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        connection.commit()
        stage.kill(connection)
        add(connection, 3, 1)

    with stage.db.connection_context() as connection:
        errors = connection.Error
    with pytest.raises(errors):
        stage.db.run_transaction(work)
    assert calls == [0]
    assert stage.committed() == MOVED


@pytest.mark.parametrize("error", [LookupError(), SystemExit()], ids=repr)
def test_run_transaction_leaves_the_application_s_errors_alone(
    any_stage: Stage, error: BaseException
) -> None:
    """An error of the application rolls back and is raised, at once."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        raise error

    with pytest.raises(type(error)):
        any_stage.db.run_transaction(work)
    assert calls == [0]
    assert any_stage.committed() == UNTOUCHED


def test_run_transaction_leaves_errors_of_a_statement_alone(any_stage: Stage) -> None:
    """A duplicate key would be one again."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        run(connection, "INSERT INTO accounts VALUES (1, 1)")

    with pytest.raises(Exception, match=r"(?i)duplicate|unique"):
        any_stage.db.run_transaction(work)
    assert calls == [0]
    assert any_stage.committed() == UNTOUCHED


def test_run_transaction_gives_up_after_its_attempts(stage: ServerStage) -> None:
    """The last error is raised as it is."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        stage.kill(connection)
        add(connection, 1, -10)

    with stage.db.connection_context() as connection:
        errors = connection.Error
    for attempts in (1, 2):
        calls.clear()
        with pytest.raises(errors):
            stage.db.run_transaction(work, attempts=attempts)
        assert len(calls) == attempts
    for wrong in (0, True, "3"):
        with pytest.raises(UsageError, match="attempts"):
            stage.db.run_transaction(work, attempts=wrong)


def test_run_transaction_inside_a_block_is_a_nested_one(stage: ServerStage) -> None:
    """Inside a block the transaction is the outer one's: when it is gone, so is that."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        with rival(stage, [2, 3], then=1):
            add(connection, 2, 10)

    with must_raise(TransactionAborted):
        with stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with pytest.raises(outer.OperationalError):
                stage.db.run_transaction(work)
    assert calls == [0]
    assert stage.committed() == UNTOUCHED


def test_run_transaction_inside_a_block_may_try_its_own_part_again(mariadb_driver: str) -> None:
    """What cost no more than the inner block is tried again, under the savepoint."""
    calls: list[int] = []
    options = ["--innodb-lock-wait-timeout=1"]
    with MariaDBServer(options) as server, on_server("ours", server, mariadb_driver) as stage:

        def work(connection: Any) -> None:
            calls.append(len(calls))
            add(connection, 3, 0)
            with rival(stage, [2]) if len(calls) == 1 else contextlib.nullcontext():
                add(connection, 2, 10)

        with stage.db.connection_context() as outer:
            add(outer, 1, -10)
            stage.db.run_transaction(work)
        assert calls == [0, 1]
        assert stage.committed() == MOVED


def test_run_transaction_retries_a_locked_sqlite_database(tmp_path: Path) -> None:
    """A database that stayed locked for longer than the busy timeout is tried again."""
    with on_file("ours", tmp_path / "f.sqlite") as maker:
        path = maker.path
    with pooled_app(f"sqlite:///{path}?timeout=0.1") as (_, db):
        holder = FileStage("ours", "sqlite", _, db, path)
        calls: list[int] = []

        def work(connection: Any) -> None:
            calls.append(len(calls))
            if len(calls) == 1:
                with holder.db.connection_context(independent=True) as other:
                    add(other, 3, 0)
                    add(connection, 1, -10)
            add(connection, 1, -10)
            add(connection, 2, 10)

        db.run_transaction(work)
        assert calls == [0, 1]
        assert holder.committed() == MOVED
