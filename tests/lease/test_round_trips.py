"""How many round trips a block costs."""

from __future__ import annotations

from typing import Any

import pytest

from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import ServerStage, on_server


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


def warm(stage: ServerStage, **options: Any) -> None:
    """Have a connection in the pool, and forget what that took."""
    with stage.db.connection_context(**options) as connection:
        run(connection, "SELECT 1")
    stage.proxy.reset_counts()


def test_round_trips_empty_block(stage: ServerStage) -> None:
    """An empty block costs no round trip."""
    warm(stage)
    with stage.db.connection_context() as connection:
        connection.cursor().close()
    assert stage.proxy.commands == []


@pytest.mark.parametrize("statements", [1, 2, 5])
def test_round_trips_statements(stage: ServerStage, statements: int) -> None:
    """n statements cost n + 1 round trips: the last is COMMIT, and no ROLLBACK follows."""
    warm(stage)
    with stage.db.connection_context() as connection:
        for _ in range(statements):
            add(connection, 1, 1)
    assert stage.proxy.round_trips == statements + 1
    assert stage.proxy.commands[-1].starts_with(b"COMMIT")


def test_round_trips_rollback(stage: ServerStage) -> None:
    """n statements and their rollback cost n + 1 round trips."""
    warm(stage)
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            add(connection, 1, 1)
            raise LookupError
    assert stage.proxy.round_trips == 2
    assert stage.proxy.commands[-1].starts_with(b"ROLLBACK")


def test_round_trips_readonly(stage: ServerStage) -> None:
    """n statements in a readonly block cost n round trips, once the connection is in that mode."""
    warm(stage, readonly=True)
    with stage.db.connection_context(readonly=True) as connection:
        for _ in range(3):
            run(connection, "SELECT * FROM accounts")
    assert stage.proxy.round_trips == 3


def test_round_trips_without_transaction(mariadb: MariaDBServer) -> None:
    """No COMMIT is sent if the driver knows that no transaction is open."""
    with on_server("ours", mariadb, "mariadbconnector") as stage:
        warm(stage)
        with stage.db.connection_context() as connection:
            run(connection, "SELECT 1")
        assert stage.proxy.round_trips == 1
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            connection.commit()
            run(connection, "SELECT 1")
        assert stage.committed() == MOVED
