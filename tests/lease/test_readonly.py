"""readonly=True."""

from __future__ import annotations

import contextlib

import pytest

from harness.workloads import add, connection_id, run
from tests.support.scenarios import sessions
from tests.support.scenarios.base import assert_fit
from tests.support.stages import (
    UNTOUCHED,
    ServerStage,
    Stage,
)


def test_readonly_refuses_writes(any_stage: Stage) -> None:
    """A write in a readonly block fails: it neither happens nor vanishes."""
    sessions.write_in_a_readonly_block(any_stage)


def test_readonly_reads_what_is_committed_now(stage: ServerStage) -> None:
    """Each statement sees the database as it is then: there is no snapshot to grow stale."""
    with stage.db.connection_context(readonly=True) as connection:
        assert run(connection, "SELECT balance FROM accounts WHERE id = 3") == [(100,)]
        stage.server.execute(f"UPDATE `{stage.database}`.accounts SET balance = 7 WHERE id = 3")
        assert run(connection, "SELECT balance FROM accounts WHERE id = 3") == [(7,)]


def test_readonly_is_put_back(stage: ServerStage) -> None:
    """The next lease of the same connection writes, commits and rolls back as ever."""
    state = stage.server.sql("SELECT @@autocommit, @@tx_read_only")
    with stage.db.connection_context(readonly=True) as connection:
        before = connection_id(connection)
    with stage.db.connection_context() as connection:
        assert connection_id(connection) == before
        assert run(connection, state) == [(0, 0)]
    assert_fit(stage)


def test_a_nested_block_in_a_readonly_one_is_readonly(any_stage: Stage) -> None:
    """An inner block joins the outer one as it is; it can't write, and a failure dooms nothing."""
    with any_stage.db.connection_context(readonly=True) as outer:
        with contextlib.suppress(LookupError):
            with any_stage.db.connection_context() as inner:
                assert inner is outer
                with pytest.raises(inner.Error):
                    add(inner, 1, 1)
                raise LookupError
        assert run(outer, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
    assert any_stage.committed() == UNTOUCHED
