"""Nesting, and what one scope leaves to the next."""

from __future__ import annotations

from harness.workloads import add, run
from tests.support.scenarios.base import (
    EVERYWHERE,
    ON_MARIADB,
    assert_fit,
    assert_untouched,
    must_raise,
    scenario,
)
from tests.support.stages import ServerStage, Stage


@scenario(EVERYWHERE)
def inner_block_sees_the_outer_one(stage: Stage) -> None:
    """A block inside a block is a part of its transaction."""
    with stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with stage.db.connection_context() as inner:
            assert run(inner, "SELECT balance FROM accounts WHERE id = 1") == [(90,)]


@scenario(ON_MARIADB)
def inner_block_ends_with_the_outer_one(stage: ServerStage) -> None:
    """What an inner block did is undone with the outer one."""
    with must_raise(LookupError):
        with stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with stage.db.connection_context() as inner:
                add(inner, 2, 10)
            raise LookupError
    assert_untouched(stage)


@scenario(ON_MARIADB)
def autocommit_by_sql(stage: ServerStage) -> None:
    """Autocommit switched on by SQL in one lease does no harm to the next."""
    with stage.db.connection_context() as connection:
        run(connection, "SET autocommit = 1")
    assert_fit(stage)


@scenario(ON_MARIADB)
def autocommit_by_sql_before_reading(stage: ServerStage) -> None:
    """The same where the last statement of the lease returned rows."""
    with stage.db.connection_context() as connection:
        run(connection, "SET autocommit = 1")
        run(connection, "SELECT * FROM accounts")
    assert_fit(stage)


@scenario(EVERYWHERE)
def write_in_a_readonly_block(stage: Stage) -> None:
    """A write in a readonly block fails: it neither happens nor vanishes."""
    with stage.db.connection_context(readonly=True) as connection:
        run(connection, "SELECT * FROM accounts")
        with must_raise(Exception):
            add(connection, 1, -10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def slow_statement(stage: ServerStage) -> None:
    """A statement that takes longer than its scope allows is ended by the server."""
    with stage.db.connection_context(statement_timeout=0.2) as connection:
        with must_raise(Exception):
            run(connection, "SELECT SLEEP(2)")
    with stage.db.connection_context() as connection:
        assert run(connection, "SELECT @@max_statement_time + 0") == [(0.0,)]
    assert_fit(stage)


@scenario(ON_MARIADB)
def statement_and_commit(stage: ServerStage) -> None:
    """A warm connection needs one round trip for each statement and one for COMMIT."""
    assert_fit(stage)
    stage.proxy.reset_counts()
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.proxy.round_trips == 3
