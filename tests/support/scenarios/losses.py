"""T3, T4: a transaction that is gone."""

from __future__ import annotations

import contextlib

from harness.workloads import add, run
from tests.support.scenarios.base import (
    EVERYWHERE,
    MOVED,
    ON_MARIADB,
    ON_SQLITE,
    assert_fit,
    assert_untouched,
    must_raise,
    rival,
    scenario,
)
from tests.support.stages import FileStage, ServerStage, Stage


@scenario(ON_MARIADB)
def killed_between_two_updates(stage: ServerStage) -> None:
    """A transfer whose connection is killed in its middle ends in an error, and moves nothing."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def killed_and_swallowed(stage: ServerStage) -> None:
    """The same where the caller swallows the error and goes on."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            with must_raise(Exception):
                add(connection, 2, 10)
            with must_raise(Exception):
                add(connection, 3, 10)
            with must_raise(Exception):
                run(connection, "SELECT 1")
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def cut_between_two_updates(stage: ServerStage) -> None:
    """A transfer whose connection the network drops in its middle ends in an error."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.proxy.cut()
            with contextlib.suppress(Exception):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def nothing_is_sent_twice(stage: ServerStage) -> None:
    """A statement whose answer was lost is not sent again."""
    with contextlib.suppress(Exception):
        with stage.db.connection_context() as connection:
            run(connection, "SELECT 1")
            stage.proxy.hold_replies_to(b"UPDATE")
            with contextlib.suppress(Exception):
                add(connection, 1, -10)
    sent = [command for command in stage.proxy.commands if command.starts_with(b"UPDATE")]
    assert len(sent) == 1
    assert_untouched(stage)


@scenario(ON_MARIADB)
def killed_before_the_first_write(stage: ServerStage) -> None:
    """A lease that has only read so far does not go on with another connection either."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            stage.kill(connection)
            with contextlib.suppress(Exception):
                add(connection, 1, -10)
            with contextlib.suppress(Exception):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def deadlock(stage: ServerStage) -> None:
    """A deadlock's victim gets the error, and nothing of its transaction remains."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with rival(stage, holds=[2, 3], then=1):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def deadlock_swallowed(stage: ServerStage) -> None:
    """A deadlock's victim that swallows the error and goes on commits nothing of it."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with rival(stage, holds=[2, 3], then=1):
                with must_raise(Exception):
                    add(connection, 2, 10)
            with must_raise(Exception):
                add(connection, 4, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB, ["--innodb-rollback-on-timeout=ON", "--innodb-lock-wait-timeout=1"])
def lock_wait_timeout_that_rolls_back(stage: ServerStage) -> None:
    """Where a lock wait timeout ends the transaction, the scope that swallowed it ends in an
    error, and commits nothing.
    """
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with rival(stage, holds=[2]):
                with must_raise(Exception):
                    add(connection, 2, 10)
            with must_raise(Exception):
                add(connection, 3, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB, ["--innodb-lock-wait-timeout=1"])
def lock_wait_timeout(stage: ServerStage) -> None:
    """By default a lock wait timeout costs the statement alone: the scope goes on and commits."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        with rival(stage, holds=[3]):
            with must_raise(Exception):
                add(connection, 3, 10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(EVERYWHERE)
def statement_failed(stage: Stage) -> None:
    """A duplicate key or a wrong column costs the statement alone: the scope goes on."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        with must_raise(Exception):
            run(connection, "INSERT INTO accounts VALUES (1, 0)")
        with must_raise(Exception):
            run(connection, "SELECT nonsense FROM accounts")
        add(connection, 2, 10)
    assert stage.committed() == MOVED


@scenario(ON_SQLITE)
def database_rolls_back(stage: FileStage) -> None:
    """Where SQLite ends the transaction by itself, the scope that swallowed it commits nothing."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with must_raise(Exception):
                run(connection, "INSERT OR ROLLBACK INTO accounts VALUES (1, 0)")
            with must_raise(Exception):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_SQLITE)
def first_statement_is_no_plain_one(stage: FileStage) -> None:
    """A write that begins with WITH, or creates a table, is rolled back like any other."""
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            run(connection, "WITH x(i) AS (SELECT 9) INSERT INTO accounts SELECT i, i FROM x")
            raise LookupError
    assert_untouched(stage)
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            run(connection, "CREATE TABLE more (id INTEGER)")
            raise LookupError
    with stage.db.connection_context() as connection:
        assert run(connection, "SELECT name FROM sqlite_master WHERE name = 'more'") == []
