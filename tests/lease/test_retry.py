"""run_transaction: what is started over, and what never is."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import (
    CommitOutcomeUnknown,
    PooledDB,
    TransactionAborted,
    UsageError,
    db_connection_context,
)
from flask_pooled_db.lease.retry import pause_after, run_in_transaction
from harness.server import MariaDBServer
from harness.waiting import PATIENCE
from harness.workloads import add, run
from tests.support.apps import pooled_app
from tests.support.scenarios.base import MOVED, must_raise, rival
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage, on_file, on_server


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


def move(connection: Any, calls: list[int]) -> str:
    """A transfer that counts how often it is begun."""
    calls.append(len(calls))
    add(connection, 1, -10)
    add(connection, 2, 10)
    return "done"


def test_run_transaction(any_stage: Stage) -> None:
    """run_transaction passes arguments and the result on, commits, and calls the function once."""
    calls: list[int] = []
    assert any_stage.db.run_transaction(move, calls=calls) == "done"
    assert any_stage.committed() == MOVED
    assert calls == [0]


def test_retry_after_deadlock(stage: ServerStage) -> None:
    """A deadlock's victim is started over as a whole."""
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
def test_retry_after_lock_wait_timeout(mariadb_driver: str, on_timeout: str) -> None:
    """A transaction is started over after 1205, whether the server rolled back the statement or all
    of it.
    """
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
def test_retry_after_lost_connection(stage: ServerStage, last: bool) -> None:
    """A transaction whose connection was lost before COMMIT is started over."""
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


def test_retry_after_swallowed_loss(stage: ServerStage) -> None:
    """A transaction is started over even if the function swallowed the loss."""
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


def test_no_retry_after_lost_commit(stage: ServerStage) -> None:
    """A transaction is not started over if the answer to COMMIT was lost."""
    calls: list[int] = []
    stage.proxy.hold_replies_to(b"COMMIT")
    with pytest.raises(CommitOutcomeUnknown):
        stage.db.run_transaction(move, calls)
    assert calls == [0]
    assert stage.committed() == MOVED


def test_no_retry_after_lost_explicit_commit(
    stage: ServerStage,
) -> None:
    """The same holds for a function's own commit(), even if it swallows the error."""
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


def test_no_retry_after_explicit_commit(stage: ServerStage) -> None:
    """A function that committed before the loss is not started over."""
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
def test_no_retry_after_application_error(any_stage: Stage, error: BaseException) -> None:
    """An error of the application rolls back and is raised at once."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        raise error

    with pytest.raises(type(error)):
        any_stage.db.run_transaction(work)
    assert calls == [0]
    assert any_stage.committed() == UNTOUCHED


def test_no_retry_after_statement_error(any_stage: Stage) -> None:
    """A duplicate key is raised at once."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        run(connection, "INSERT INTO accounts VALUES (1, 1)")

    with pytest.raises(Exception, match=r"(?i)duplicate|unique"):
        any_stage.db.run_transaction(work)
    assert calls == [0]
    assert any_stage.committed() == UNTOUCHED


def test_retry_attempts(stage: ServerStage) -> None:
    """After the last attempt its error is raised."""
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


def test_pauses() -> None:
    """A pause is random, doubles, and never exceeds its cap, after however many attempts."""
    for attempt, most in ((1, 0.02), (2, 0.04), (6, 0.5), (20, 0.5), (5000, 0.5)):
        pauses = [pause_after(attempt) for _ in range(100)]
        assert 0 <= min(pauses) < max(pauses) <= most


def locked_out(db: PooledDB, path: Path, attempts: int) -> int:
    """How often a transaction is begun that another one locks out for good."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(1)
        add(connection, 1, -10)

    db.pool().lease(timeout=PATIENCE).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            db.run_transaction(work, attempts=attempts)
    return len(calls)


def test_retry_within_acquire_timeout(tmp_path: Path) -> None:
    """All pauses together fit into ACQUIRE_TIMEOUT; then the last error is raised."""
    with on_file("ours", tmp_path / "db") as maker:
        url = f"sqlite:///{maker.path}?timeout=0"
    with pooled_app(url, acquire_timeout=1) as (_, db):
        started = time.monotonic()
        assert 2 < locked_out(db, maker.path, attempts=10**6) < 1000
        assert time.monotonic() - started < PATIENCE
    with pooled_app(url, acquire_timeout=0) as (_, db):
        assert locked_out(db, maker.path, attempts=10**6) == 1


def test_retry_within_timeout_of_scope(tmp_path: Path) -> None:
    """The pauses fit into the scope's own `timeout`, if it has one."""
    with on_file("ours", tmp_path / "db") as maker:
        url = f"sqlite:///{maker.path}?timeout=0"
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(1)
        add(connection, 1, -10)

    with pooled_app(url) as (_, db), contextlib.closing(sqlite3.connect(maker.path)) as other:
        db.pool().lease().close()
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            run_in_transaction(lambda: db_connection_context(timeout=0), work, 5)
    assert calls == [1]


def test_run_transaction_nested(mariadb_stage: ServerStage) -> None:
    """run_transaction inside a block is a nested block, and is not started over once the outer
    transaction is lost.
    """
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        with rival(mariadb_stage, [2, 3], then=1):
            add(connection, 2, 10)

    with must_raise(TransactionAborted):
        with mariadb_stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with pytest.raises(outer.OperationalError):
                mariadb_stage.db.run_transaction(work)
    assert calls == [0]
    assert mariadb_stage.committed() == UNTOUCHED


def test_retry_nested(mariadb_driver: str) -> None:
    """run_transaction inside a block starts over if only the nested block failed."""
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


def test_retry_locked_sqlite(tmp_path: Path) -> None:
    """A transaction on an SQLite database that stayed locked beyond the busy timeout is started
    over.
    """
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


def test_no_retry_after_time_limit(tmp_path: Path) -> None:
    """A statement that exceeded its limit would do so again, although its transaction is lost."""
    with on_file("ours", tmp_path / "db", statement_timeout=0.1) as stage:
        calls: list[int] = []

        def work(connection: Any) -> None:
            calls.append(len(calls))
            add(connection, 1, -10)
            run(
                connection,
                "INSERT INTO accounts WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL "
                "SELECT i + 1 FROM n WHERE i < 100000000) SELECT i, i FROM n",
            )

        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            stage.db.run_transaction(work)
        assert calls == [0]
        assert stage.committed() == UNTOUCHED
