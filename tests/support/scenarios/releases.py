"""T7: after release."""

from __future__ import annotations

from harness.workloads import add, run
from tests.support.scenarios.base import (
    EVERYWHERE,
    MOVED,
    assert_fit,
    assert_untouched,
    must_raise,
    scenario,
)
from tests.support.stages import Stage


@scenario(EVERYWHERE)
def cursor_used_after_release(stage: Stage) -> None:
    """A cursor that outlived its block can't touch what another one now holds."""
    with stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.fetchall()
    with stage.db.connection_context() as other:
        run(other, "SELECT 1")
        with must_raise(Exception):
            cursor.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    assert_untouched(stage)


@scenario(EVERYWHERE)
def rows_fetched_after_release(stage: Stage) -> None:
    """A cursor that outlived its block can't read what another one asked for."""
    with stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM accounts")
    with must_raise(Exception):
        cursor.fetchall()
    assert_fit(stage)


@scenario(EVERYWHERE)
def connection_used_after_release(stage: Stage) -> None:
    """A connection that outlived its block can't touch what another one now holds."""
    with stage.db.connection_context() as connection:
        run(connection, "SELECT 1")
    with stage.db.connection_context() as other:
        add(other, 1, -10)
        for method in ("cursor", "commit", "rollback"):
            with must_raise(Exception):
                getattr(connection, method)()
        add(other, 2, 10)
    assert stage.committed() == MOVED
