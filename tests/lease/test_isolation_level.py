"""isolation_level=."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from flask_pooled_db import (
    UsageError,
)
from harness.workloads import add, connection_id, run
from tests.support.scenarios.base import MOVED, assert_fit
from tests.support.stages import (
    FileStage,
    ServerStage,
    Stage,
)


def level_of_a_write(stage: ServerStage, connection: Any) -> str:
    """The isolation level that the server gave the transaction of a connection."""
    id_ = connection_id(connection)
    add(connection, 4, 0)
    time.sleep(0.15)  # the table is a cache, renewed once nobody has read it for 0.1 s
    ((level,),) = stage.server.query(
        "SELECT trx_isolation_level FROM information_schema.innodb_trx"
        " WHERE trx_mysql_thread_id = %s",
        id_,
    )
    return str(level)


@pytest.mark.parametrize(
    "level", ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
)
def test_isolation_level_is_that_of_the_transaction_alone(stage: ServerStage, level: str) -> None:
    """A block has the level it asks for, in each of its transactions; the next has the usual."""
    with stage.db.connection_context(isolation_level=level) as connection:
        before = connection_id(connection)
        assert level_of_a_write(stage, connection) == level
        connection.commit()
        assert level_of_a_write(stage, connection) == level
    with stage.db.connection_context() as connection:
        assert connection_id(connection) == before
        assert level_of_a_write(stage, connection) == "REPEATABLE READ"


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT nonsense", "SELECT * FROM accounts"])
@pytest.mark.parametrize("failing", [False, True])
def test_isolation_level_does_not_outlive_a_block_that_wrote_nothing(
    stage: ServerStage, sql: str, failing: bool
) -> None:
    """The level is gone with its block also where no transaction came of it."""
    with contextlib.suppress(LookupError):
        with stage.db.connection_context(isolation_level="SERIALIZABLE") as connection:
            with contextlib.suppress(connection.Error):
                run(connection, sql)
            if failing:
                raise LookupError
    with stage.db.connection_context() as connection:
        assert level_of_a_write(stage, connection) == "REPEATABLE READ"


def test_isolation_level_of_an_empty_block_costs_nothing(stage: ServerStage) -> None:
    """A block that runs nothing sends nothing."""
    assert_fit(stage)
    stage.proxy.reset_counts()
    with stage.db.connection_context(isolation_level="SERIALIZABLE"):
        pass
    assert stage.proxy.commands == []


def test_every_isolation_level_is_had_on_sqlite(sqlite_stage: FileStage) -> None:
    """SQLite's transactions are serializable: whoever asks for less or as much has it."""
    with sqlite_stage.db.connection_context(isolation_level="SERIALIZABLE") as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert sqlite_stage.committed() == MOVED


def test_isolation_level_is_for_the_outermost_block(any_stage: Stage) -> None:
    """In a nested block the transaction has begun: asking for a level says so."""
    with any_stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with pytest.raises(UsageError, match="outermost"):
            any_stage.db.connection_context(isolation_level="SERIALIZABLE").__enter__()
        add(outer, 2, 10)
    assert any_stage.committed() == MOVED


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"isolation_level": "serializable"}, "isolation_level must be one of"),
        ({"isolation_level": "SERIALIZABLE; DROP TABLE x"}, "isolation_level must be one of"),
        ({"isolation_level": "SERIALIZABLE", "readonly": True}, "no meaning"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": "1"}, "timeout must be"),
        ({"statement_timeout": -0.1}, "statement_timeout must be"),
        ({"statement_timeout": float("nan")}, "statement_timeout must be"),
        ({"statement_timeout": True}, "statement_timeout must be"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    any_stage: Stage, options: dict[str, Any], what: str
) -> None:
    """A wrong option is an error of its own, before anything is lent."""
    with pytest.raises(UsageError, match=what):
        any_stage.db.connection_context(**options)
