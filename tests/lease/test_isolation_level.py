"""isolation_level=."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from flask_pooled_db import UsageError
from harness.workloads import add, connection_id, run
from tests.support.scenarios.base import MOVED, assert_fit
from tests.support.stages import FileStage, ServerStage, Stage


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
def test_isolation_level_of_transaction(stage: ServerStage, level: str) -> None:
    """Each transaction of a block has the level it asks for; the next block has the usual one."""
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
def test_isolation_level_unused(stage: ServerStage, sql: str, failing: bool) -> None:
    """The level ends with its block, even if no transaction was begun."""
    with contextlib.suppress(LookupError):
        with stage.db.connection_context(isolation_level="SERIALIZABLE") as connection:
            with contextlib.suppress(connection.Error):
                run(connection, sql)
            if failing:
                raise LookupError
    with stage.db.connection_context() as connection:
        assert level_of_a_write(stage, connection) == "REPEATABLE READ"


def test_isolation_level_empty_block(stage: ServerStage) -> None:
    """An empty block with a level sends nothing."""
    assert_fit(stage)
    stage.proxy.reset_counts()
    with stage.db.connection_context(isolation_level="SERIALIZABLE"):
        pass
    assert stage.proxy.commands == []


def test_isolation_level_on_sqlite(sqlite_stage: FileStage) -> None:
    """SQLite accepts every level, since its transactions are serializable."""
    with sqlite_stage.db.connection_context(isolation_level="SERIALIZABLE") as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert sqlite_stage.committed() == MOVED


def test_isolation_level_nested_block(any_stage: Stage) -> None:
    """A nested block that asks for a level is refused: its transaction has begun."""
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
def test_invalid_option(any_stage: Stage, options: dict[str, Any], what: str) -> None:
    """An invalid option raises an error before a connection is lent."""
    with pytest.raises(UsageError, match=what):
        any_stage.db.connection_context(**options)
