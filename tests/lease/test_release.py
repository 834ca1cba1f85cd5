"""T7: after its release a connection and its cursors refuse to work."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from flask_pooled_db import UsageError, get_db_connection
from flask_pooled_db.lease.attributes import DriverAttribute
from harness.workloads import add
from tests.support.scenarios import releases
from tests.support.scenarios.base import MOVED, Scenario
from tests.support.stages import UNTOUCHED, Stage


@pytest.mark.parametrize(
    "scenario",
    [
        releases.cursor_used_after_release,
        releases.rows_fetched_after_release,
        releases.connection_used_after_release,
    ],
    ids=lambda scenario: scenario.name,
)
def test_t7_use_after_release(any_stage: Stage, scenario: Scenario[Stage]) -> None:
    """What outlives its block cannot use the connection that another block now holds."""
    scenario(any_stage)


def test_t7_methods_after_release(any_stage: Stage) -> None:
    """After release every method and attribute of the connection refuses, and every method of its
    cursors, except close().
    """
    with any_stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM accounts")
        assert cursor.connection is connection
    uses: list[Callable[[], object]] = [
        lambda: cursor.execute("SELECT 1"),
        lambda: cursor.executemany("SELECT %s", [(1,)]),
        cursor.fetchone,
        cursor.fetchmany,
        cursor.fetchall,
        lambda: list(cursor),
        lambda: next(cursor),
        cursor.connection.cursor,
        connection.cursor,
        connection.commit,
        connection.rollback,
        connection.begin,
        connection.ping,
        connection.__enter__,
    ]
    the_drivers = [
        name for name, value in vars(type(connection)).items() if type(value) is DriverAttribute
    ]
    assert the_drivers
    uses += [functools.partial(getattr, connection, name) for name in the_drivers]
    for use in uses:
        with pytest.raises(UsageError, match="was released"):
            use()
    cursor.close()
    connection.close()
    assert issubclass(connection.IntegrityError, connection.Error)


def test_t7_get_db_connection(any_stage: Stage) -> None:
    """`close()` ends what `get_db_connection()` lent, and uncommitted work is rolled back."""
    connection = get_db_connection()
    cursor = connection.cursor()
    add(connection, 1, -10)
    connection.close()
    connection.close()
    for use in (connection.cursor, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(UsageError, match="was released"):
            use()
    assert any_stage.committed() == UNTOUCHED
    assert any_stage.db.stats().in_use == 0


def test_t7_close_inside_block(any_stage: Stage) -> None:
    """`close()` inside a block is refused: the block releases its connection itself."""
    with any_stage.db.connection_context() as connection:
        with pytest.raises(UsageError, match="remove the call"):
            connection.close()
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert any_stage.committed() == MOVED
