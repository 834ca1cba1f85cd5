"""What becomes of transactions is counted, each time under one name."""

from __future__ import annotations

import contextlib
from dataclasses import asdict

import pytest

from flask_pooled_db import PoolStats, TransactionAborted
from flask_pooled_db.errors import CommitOutcomeUnknown
from harness.workloads import add
from tests.support.pools import call
from tests.support.scenarios.base import must_raise, rival
from tests.support.stages import ServerStage, Stage

ENDS = ("commits", "rollbacks", "aborted", "outcomes_unknown", "implicit_commits", "leaked")


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


def _ends(stats: PoolStats) -> dict[str, int]:
    return {name: count for name, count in asdict(stats).items() if name in ENDS and count}


def _cut_commit(stage: ServerStage) -> None:
    stage.proxy.wait_for_command(b"COMMIT")
    stage.proxy.cut()


def test_ends_that_were_wanted(any_stage: Stage) -> None:
    """A scope that ends with work in it is a commit, or a rollback; one without is neither."""
    db = any_stage.db
    with db.connection_context():
        pass
    assert _ends(db.stats()) == {}
    with db.connection_context() as connection:
        add(connection, 1, 1)
    assert _ends(db.stats()) == {"commits": 1}
    with must_raise(LookupError), db.connection_context() as connection:
        add(connection, 1, 1)
        raise LookupError
    assert _ends(db.stats()) == {"commits": 1, "rollbacks": 1}
    with db.connection_context() as connection:
        add(connection, 1, 1)
        connection.commit()
        add(connection, 1, 1)
        connection.rollback()
    assert _ends(db.stats()) == {"commits": 2, "rollbacks": 2}


def test_a_readonly_scope_ends_nothing(any_stage: Stage) -> None:
    """A readonly scope is neither a commit nor a rollback, whatever leaves it."""
    db = any_stage.db
    with db.connection_context(readonly=True) as connection:
        connection.cursor().execute("SELECT 1")
    with must_raise(LookupError), db.connection_context(readonly=True) as connection:
        connection.cursor().execute("SELECT 1")
        raise LookupError
    assert _ends(db.stats()) == {}


def test_t4_a_killed_transaction_is_aborted(stage: ServerStage) -> None:
    """A transaction whose connection was killed is aborted, and no rollback."""
    with must_raise(TransactionAborted), stage.db.connection_context() as connection:
        add(connection, 1, 1)
        stage.kill(connection)
        with contextlib.suppress(Exception):
            add(connection, 2, 1)
    assert _ends(stage.db.stats()) == {"aborted": 1}
    assert stage.db.stats().evictions == {"broken": 1}


def test_t4_a_deadlock_is_an_abort(mariadb_stage: ServerStage) -> None:
    """A deadlock's victim is aborted, and so is one that acknowledges that by `rollback()`."""
    for acknowledges in (False, True):
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(TransactionAborted))
            connection = stack.enter_context(mariadb_stage.db.connection_context())
            add(connection, 1, -10)
            with rival(mariadb_stage, holds=[2, 3], then=1), must_raise(Exception):
                add(connection, 2, 10)
            if acknowledges:
                connection.rollback()
    assert _ends(mariadb_stage.db.stats()) == {"aborted": 2}


def test_t5_an_unknown_outcome(stage: ServerStage) -> None:
    """A COMMIT whose answer is lost is neither a commit nor an abort."""
    with must_raise(CommitOutcomeUnknown), stage.db.connection_context() as connection:
        add(connection, 1, 1)
        stage.proxy.hold_replies_to(b"COMMIT")
        cutter = call(_cut_commit, stage)
        connection.commit()
    cutter.wait()
    assert _ends(stage.db.stats()) == {"outcomes_unknown": 1}


def test_t10_an_implicit_commit(mariadb_stage: ServerStage) -> None:
    """What DDL commits by itself is an implicit commit, and what follows it another transaction."""
    with mariadb_stage.db.connection_context() as connection:
        add(connection, 1, 1)
        connection.cursor().execute("CREATE TABLE made (id INT)")
        add(connection, 1, 1)
    assert _ends(mariadb_stage.db.stats()) == {"commits": 1, "implicit_commits": 1}


def test_a_leak_is_counted_once(any_stage: Stage) -> None:
    """A lease that its context takes back is one leak, and a rollback of what it did."""
    with any_stage.app.app_context():
        connection = any_stage.db.pool().lease()
        add(connection, 1, 1)
        connection.revoke("was taken back")
    assert _ends(any_stage.db.stats()) == {"rollbacks": 1, "leaked": 1}


@pytest.mark.parametrize("ends", ["commit", "roll back"])
def test_a_nested_scope_is_no_transaction(any_stage: Stage, ends: str) -> None:
    """A nested scope counts with the one around it, however it ends."""
    with any_stage.db.connection_context() as connection:
        add(connection, 1, 1)
        with contextlib.suppress(LookupError), any_stage.db.connection_context() as inner:
            add(inner, 1, 1)
            if ends == "roll back":
                raise LookupError
    assert _ends(any_stage.db.stats()) == {"commits": 1}


def test_t4_killed_before_the_error_of_its_caller(stage: ServerStage) -> None:
    """A transaction that was killed is aborted, also if its caller's own error leaves the block."""
    with must_raise(LookupError), stage.db.connection_context() as connection:
        add(connection, 1, 1)
        stage.kill(connection)
        raise LookupError
    assert _ends(stage.db.stats()) == {"aborted": 1}
