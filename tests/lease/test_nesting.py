"""Nested blocks: they join the outer one, under a savepoint or without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_pooled_db import TransactionAborted, UsageError, db_connection_context
from harness.workloads import add, connection_id, run
from tests.support.apps import pooled_app
from tests.support.scenarios import sessions
from tests.support.scenarios.base import MOVED, Scenario, assert_fit, must_raise
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage, on_file


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


@pytest.mark.parametrize(
    "scenario",
    [sessions.inner_block_sees_the_outer_one, sessions.inner_block_ends_with_the_outer_one],
    ids=lambda scenario: scenario.name,
)
def test_nested_block(any_stage: Stage, scenario: Scenario[Stage]) -> None:
    """A nested block of the same bind shares the transaction of the outer one."""
    scenario(any_stage)


def test_nested_blocks_one_connection(any_stage: Stage) -> None:
    """Nested blocks hold one connection, however deep they nest."""
    with any_stage.db.connection_context() as first:
        with any_stage.db.connection_context() as second:
            with any_stage.db.connection_context(savepoint=False) as third:
                assert first is second is third
                assert any_stage.db.stats().in_use == 1


def test_failed_nested_block(any_stage: Stage) -> None:
    """An exception that leaves a nested block undoes that block; the outer one goes on."""
    with any_stage.db.connection_context() as outer:
        add(outer, 1, -10)
        for _ in range(2):
            with must_raise(LookupError):
                with any_stage.db.connection_context() as inner:
                    add(inner, 3, -1)
                    with any_stage.db.connection_context() as innermost:
                        add(innermost, 4, -1)
                    raise LookupError
        with any_stage.db.connection_context() as inner:
            with must_raise(LookupError):
                with any_stage.db.connection_context() as innermost:
                    add(innermost, 4, -1)
                    raise LookupError
            add(inner, 2, 10)
    assert any_stage.committed() == MOVED


def test_failed_first_nested_block(any_stage: Stage) -> None:
    """A failed nested block is undone alone, even if the outer one has run nothing before it."""
    with any_stage.db.connection_context() as outer:
        with must_raise(LookupError):
            with any_stage.db.connection_context() as inner:
                add(inner, 3, -1)
                raise LookupError
        add(outer, 1, -10)
        with any_stage.db.connection_context() as inner:
            add(inner, 2, 10)
    assert any_stage.committed() == MOVED


def test_empty_nested_block(stage: ServerStage) -> None:
    """An empty nested block sends nothing: a savepoint is set with the first statement."""
    with stage.db.connection_context() as outer:
        add(outer, 1, -10)
        stage.proxy.reset_counts()
        with stage.db.connection_context(), stage.db.connection_context():
            pass
        with contextlib.suppress(LookupError), stage.db.connection_context():
            raise LookupError
        assert stage.proxy.commands == []
        add(outer, 2, 10)
    assert stage.committed() == MOVED


def test_failed_nested_block_without_savepoint(any_stage: Stage) -> None:
    """With `savepoint=False`, an exception that leaves the nested block aborts the outer one."""
    error = LookupError("in the inner block")
    with must_raise(TransactionAborted) as caught:
        with any_stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with must_raise(LookupError):
                with any_stage.db.connection_context(savepoint=False) as inner:
                    add(inner, 2, 10)
                    raise error
            with pytest.raises(TransactionAborted):
                add(outer, 3, 1)
    assert caught[0].__cause__ is error
    assert any_stage.committed() == UNTOUCHED
    assert_fit(any_stage)


def test_round_trips_without_savepoint(stage: ServerStage) -> None:
    """With `savepoint=False`, the nested block costs no round trip."""
    with stage.db.connection_context() as outer:
        add(outer, 1, -10)
        stage.proxy.reset_counts()
        with stage.db.connection_context(savepoint=False) as inner:
            add(inner, 2, 10)
        assert stage.proxy.round_trips == 1
    assert stage.committed() == MOVED


def test_independent_block(stage: ServerStage) -> None:
    """A block with `independent=True` has its own connection: it sees nothing uncommitted, and
    survives a rollback of the outer one.
    """
    with must_raise(LookupError):
        with stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with stage.db.connection_context(independent=True) as own:
                assert own is not outer
                assert connection_id(own) != connection_id(outer)
                assert run(own, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
                add(own, 3, 5)
                with stage.db.connection_context() as nested:
                    assert nested is own
                own.commit()
            with stage.db.connection_context() as inner:
                assert inner is outer
            raise LookupError
    assert stage.committed() == {**UNTOUCHED, 3: 105}


def test_independent_block_on_sqlite(sqlite_stage: FileStage) -> None:
    """On SQLite an independent block can read while the outer one writes."""
    with sqlite_stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with sqlite_stage.db.connection_context(independent=True) as own:
            assert own is not outer
            assert run(own, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
        add(outer, 2, 10)
    assert sqlite_stage.committed() == MOVED


@pytest.mark.parametrize("by_error", [False, True])
def test_outer_block_ends_first(any_stage: Stage, by_error: bool) -> None:
    """An outer block that ends before its nested one raises an error, and nothing is committed."""
    outer, inner = any_stage.db.connection_context(), any_stage.db.connection_context()
    add(outer.__enter__(), 1, -10)
    add(inner.__enter__(), 2, 10)
    if by_error:
        outer.__exit__(LookupError, LookupError(), None)
    else:
        with pytest.raises(UsageError, match="left before one that was entered inside it"):
            outer.__exit__(None, None, None)
    with pytest.raises((UsageError, TransactionAborted)):
        inner.__exit__(None, None, None)
    assert any_stage.committed() == UNTOUCHED
    assert any_stage.db.stats().in_use == 0
    assert_fit(any_stage)


def test_middle_block_ends_first(any_stage: Stage) -> None:
    """If a nested block ends before the one inside it, the outermost block cannot commit."""
    with must_raise(TransactionAborted):
        with any_stage.db.connection_context() as outermost:
            add(outermost, 3, 1)
            outer, inner = any_stage.db.connection_context(), any_stage.db.connection_context()
            assert outer.__enter__() is inner.__enter__()
            add(outermost, 4, 1)
            with pytest.raises(UsageError):
                outer.__exit__(None, None, None)
            with pytest.raises(TransactionAborted):
                inner.__exit__(None, None, None)
    assert any_stage.committed() == UNTOUCHED
    assert_fit(any_stage)


def test_dropped_block(any_stage: Stage) -> None:
    """A generator that is dropped inside its block rolls back and releases."""

    def rows() -> Iterator[None]:
        with any_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            yield

    generator = rows()
    next(generator)
    del generator
    assert any_stage.db.stats().in_use == 0
    assert any_stage.committed() == UNTOUCHED


def test_nested_block_of_another_bind(tmp_path: Path) -> None:
    """A nested block of another bind is a transaction of its own."""
    with on_file("ours", tmp_path / "a.sqlite") as a, on_file("ours", tmp_path / "b.sqlite") as b:
        binds = {"a": f"sqlite:///{a.path}", "b": f"sqlite:///{b.path}"}
        with pooled_app(binds=binds) as (_, db):
            with must_raise(LookupError):
                with db.connection_context("a") as outer:
                    add(outer, 1, -10)
                    with db.connection_context("b") as other:
                        add(other, 1, -10)
                        add(other, 2, 10)
                        with db.connection_context("a") as inner:
                            assert inner is outer
                    raise LookupError
            assert (a.committed(), b.committed()) == (UNTOUCHED, MOVED)
            with pytest.raises(UsageError, match="'c'"):
                db_connection_context("c")
            with pytest.raises(UsageError, match="no default database"):
                db_connection_context()
