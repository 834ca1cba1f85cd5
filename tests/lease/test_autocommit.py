"""Autocommit is the scope's, and what a lease leaves to the next."""

from __future__ import annotations

import pytest

from flask_pooled_db import UsageError
from harness.workloads import add
from tests.support.scenarios import sessions
from tests.support.scenarios.base import MOVED, Scenario
from tests.support.stages import ServerStage, Stage


@pytest.mark.parametrize(
    "scenario",
    [sessions.autocommit_by_sql, sessions.autocommit_by_sql_before_reading],
    ids=lambda scenario: scenario.name,
)
def test_autocommit_changed_by_sql(stage: ServerStage, scenario: Scenario[ServerStage]) -> None:
    """A connection whose autocommit was changed by SQL is not lent unchanged."""
    scenario(stage)


def test_autocommit_refused(any_stage: Stage) -> None:
    """Setting or requesting autocommit on the connection is an error that names the remedy."""
    with any_stage.db.connection_context() as connection:
        for change in (
            lambda: setattr(connection, "autocommit", True),
            lambda: connection.autocommit(True),
            lambda: setattr(connection, "isolation_level", None),
        ):
            with pytest.raises(UsageError):
                change()
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert any_stage.committed() == MOVED
