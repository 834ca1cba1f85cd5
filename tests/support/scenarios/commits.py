"""T5: COMMIT."""

from __future__ import annotations

from flask_pooled_db import CommitOutcomeUnknown
from harness.workloads import add, run
from tests.support.scenarios.base import (
    MOVED,
    ON_MARIADB,
    ON_SQLITE,
    assert_fit,
    assert_untouched,
    must_raise,
    scenario,
)
from tests.support.stages import FileStage, ServerStage


@scenario(ON_MARIADB)
def commit_answer_lost(stage: ServerStage) -> None:
    """A COMMIT whose answer is lost is told apart from every other failure."""
    with must_raise(CommitOutcomeUnknown) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.hold_replies_to(b"COMMIT")
    assert isinstance(caught[0].__cause__, connection.Error)
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(ON_MARIADB)
def commit_lost(stage: ServerStage) -> None:
    """A COMMIT that was lost on its way is one whose answer is lost: the caller can't tell."""
    with must_raise(CommitOutcomeUnknown) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.cut_before(b"COMMIT")
    assert isinstance(caught[0].__cause__, connection.Error)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def killed_before_commit(stage: ServerStage) -> None:
    """A connection that is gone before COMMIT is sent: an error, and not one that leaves doubt."""
    with must_raise(Exception) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.kill(connection)
    assert not isinstance(caught[0], CommitOutcomeUnknown)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB, ["--innodb-lock-wait-timeout=1"])
def commit_refused(stage: ServerStage) -> None:
    """A COMMIT that the server refuses is the driver's error: nothing was committed, no lock
    stays, and there is no doubt.
    """
    try:
        with must_raise(Exception) as caught:
            with stage.db.connection_context() as connection:
                add(connection, 1, -10)
                add(connection, 2, 10)
                stage.server.execute("SET GLOBAL read_only = ON")
    finally:
        stage.server.execute("SET GLOBAL read_only = OFF")
    assert "read-only" in str(caught[0])
    assert not isinstance(caught[0], CommitOutcomeUnknown)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_SQLITE)
def commit_refused_by_a_constraint(stage: FileStage) -> None:
    """A COMMIT that a deferred constraint refuses is the driver's error, and nothing is left."""
    with stage.db.connection_context() as connection:
        run(
            connection,
            "CREATE TABLE child"
            " (id INTEGER REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED)",
        )
    with must_raise(Exception) as caught:
        with stage.db.connection_context() as connection:
            run(connection, "PRAGMA foreign_keys=ON")
            run(connection, "INSERT INTO child VALUES (99)")
            add(connection, 1, -10)
    assert "FOREIGN KEY" in str(caught[0])
    assert_untouched(stage)
    assert_fit(stage)
