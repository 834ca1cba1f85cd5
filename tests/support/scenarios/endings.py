"""T1, T2: commit, rollback, the caller's exception."""

from __future__ import annotations

from harness.workloads import add
from tests.support.scenarios.base import (
    EVERYWHERE,
    MOVED,
    ON_MARIADB,
    assert_fit,
    assert_untouched,
    must_raise,
    scenario,
)
from tests.support.stages import ServerStage, Stage


@scenario(EVERYWHERE)
def left_normally(stage: Stage) -> None:
    """A block that is left normally has committed."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(EVERYWHERE)
def left_by_an_exception(stage: Stage) -> None:
    """A block that is left by an exception has rolled back, and the exception is the caller's."""
    for error in (ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
        with must_raise(type(error)) as caught:
            with stage.db.connection_context() as connection:
                add(connection, 1, -10)
                raise error
        assert caught == [error]
        assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def rollback_fails(stage: ServerStage) -> None:
    """Where the rollback fails too, the caller sees its own exception."""
    error = LookupError("the caller's own")
    with must_raise(Exception) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            raise error
    assert caught == [error]
    assert_untouched(stage)
    assert_fit(stage)
