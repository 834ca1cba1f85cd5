"""readonly=True."""

from __future__ import annotations

import contextlib

import pytest

from flask_pooled_db import UsageError
from harness.workloads import add, connection_id, run
from tests.support.scenarios import sessions
from tests.support.scenarios.base import MOVED, assert_fit
from tests.support.stages import UNTOUCHED, ServerStage, Stage


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


def test_readonly_write(any_stage: Stage) -> None:
    """A write in a readonly block fails on the server."""
    sessions.write_in_a_readonly_block(any_stage)


def test_readonly_without_snapshot(stage: ServerStage) -> None:
    """Each statement of a readonly block sees what is committed by then: there is no snapshot."""
    with stage.db.connection_context(readonly=True) as connection:
        assert run(connection, "SELECT balance FROM accounts WHERE id = 3") == [(100,)]
        stage.server.execute(f"UPDATE `{stage.database}`.accounts SET balance = 7 WHERE id = 3")
        assert run(connection, "SELECT balance FROM accounts WHERE id = 3") == [(7,)]


def test_readonly_ends_with_lease(mariadb_stage: ServerStage) -> None:
    """The next lease of the same connection writes, commits and rolls back."""
    state = mariadb_stage.server.sql("SELECT @@autocommit, @@tx_read_only")
    with mariadb_stage.db.connection_context(readonly=True) as connection:
        before = connection_id(connection)
    with mariadb_stage.db.connection_context() as connection:
        assert connection_id(connection) == before
        assert run(connection, state) == [(0, 0)]
    assert_fit(mariadb_stage)


def test_readonly_in_writing_block(any_stage: Stage) -> None:
    """readonly=True inside a block that writes is refused: that one's transaction would write."""
    with any_stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with pytest.raises(UsageError, match=r"leave it out, or use independent=True"):
            any_stage.db.connection_context(readonly=True).__enter__()
        with any_stage.db.connection_context(readonly=True, independent=True) as other:
            assert run(other, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
        add(outer, 2, 10)
    assert any_stage.committed() == MOVED


def test_readonly_in_readonly_block(any_stage: Stage) -> None:
    """readonly=True inside a readonly block is a part of that one."""
    with any_stage.db.connection_context(readonly=True) as outer:
        with any_stage.db.connection_context(readonly=True) as inner:
            assert inner is outer
            with pytest.raises(inner.Error):
                add(inner, 1, 1)
        assert run(outer, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
    assert any_stage.committed() == UNTOUCHED


def test_readonly_nested_block(any_stage: Stage) -> None:
    """A nested block in a readonly one is readonly, and its failure aborts nothing."""
    with any_stage.db.connection_context(readonly=True) as outer:
        with contextlib.suppress(LookupError):
            with any_stage.db.connection_context() as inner:
                assert inner is outer
                with pytest.raises(inner.Error):
                    add(inner, 1, 1)
                raise LookupError
        assert run(outer, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
    assert any_stage.committed() == UNTOUCHED
