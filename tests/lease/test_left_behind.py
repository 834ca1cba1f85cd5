"""T9: what generators that are never closed leave behind in their thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any

import pytest

from flask_pooled_db import PooledDB, UsageError, db_connection_context
from flask_pooled_db.lease.openscopes import scopes_of
from flask_pooled_db.lease.owner import current_owner
from harness.workloads import run
from tests.support.pools import call
from tests.support.stages import FileStage

Rows = Generator[Any, None, None]


def plain() -> Rows:
    with db_connection_context() as conn:
        yield conn


def open_scopes() -> int:
    """Return how many scopes are kept as open in this thread."""
    return len(scopes_of(current_owner()))


def test_t9_abandoned_generators(site: tuple[Any, PooledDB]) -> None:
    """Generators that are never closed do not pile up in their thread, nor stop its next blocks."""
    app, _ = site
    kept = []
    for _ in range(20):
        with app.app_context():
            kept.append(plain())
            next(kept[-1])
        assert open_scopes() == 1
        with app.app_context(), db_connection_context() as conn:
            run(conn, "SELECT 1")
            assert open_scopes() == 1
        assert open_scopes() == 0


def test_t9_overlapping_generators(sqlite_stage: FileStage) -> None:
    """Generators that overlap for long do not pile up either."""
    last = plain()
    next(last)
    for _ in range(20):
        following = plain()
        next(following)
        assert list(last) == []
        last = following
        assert open_scopes() <= 2
    assert list(last) == []
    assert open_scopes() == 0


def never_left() -> None:
    """Enter a block and lose it, as an interruption right after its entry does."""
    db_connection_context().__enter__()


def closed_elsewhere() -> None:
    """Have a generator that holds a block be closed by another thread."""
    rows = plain()
    next(rows)
    call(rows.close).wait()


@pytest.mark.parametrize("lose", [never_left, closed_elsewhere])
def test_t9_inner_block_is_lost(sqlite_stage: FileStage, lose: Callable[[], None]) -> None:
    """A block that was lost inside another one takes nothing with it: later blocks join the outer
    one as before.
    """

    def work() -> None:
        with db_connection_context() as outer:
            lose()
            with db_connection_context() as inner:
                assert inner is outer

    for _ in range(3):
        with contextlib.suppress(UsageError):  # the one that is never left
            work()
        assert sqlite_stage.db.stats().in_use == 0
        with db_connection_context():
            assert open_scopes() == 1


def test_t9_frame_of_ended_block(sqlite_stage: FileStage) -> None:
    """A scope that has ended keeps no frame, so that no cycle stays."""
    scopes = []

    def rows() -> Rows:
        scopes.append(db_connection_context())
        with scopes[0]:
            yield

    generator = rows()
    next(generator)
    assert scopes[0].frame is not None
    with contextlib.closing(generator):
        pass
    assert scopes[0].frame is None


def enter_for(stack: contextlib.ExitStack) -> Any:
    """Enter a block on behalf of the caller."""
    return stack.enter_context(db_connection_context())


def by_helper() -> Rows:
    with contextlib.ExitStack() as stack:
        yield enter_for(stack)


def test_t9_block_entered_by_helper(sqlite_stage: FileStage) -> None:
    """A generator holds the block that a function has entered for it, and encloses no consumer."""
    rows = by_helper()
    held = next(rows)
    with db_connection_context() as conn:
        assert conn is not held
    rows.close()
    with contextlib.ExitStack() as stack:
        outer = enter_for(stack)
        with db_connection_context() as inner:
            assert inner is outer


class InSteps:
    """Enters a block in a coroutine that another one awaits."""

    async def __aenter__(self) -> Any:
        return await self._begin()

    async def _begin(self) -> Any:
        return await self._begin_in_fact()

    async def _begin_in_fact(self) -> Any:
        self.block = db_connection_context()
        return self.block.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.block.__exit__(*exc)  # type: ignore[arg-type]


def test_t9_block_entered_in_steps(sqlite_stage: FileStage) -> None:
    """A block that coroutines enter for each other encloses what their caller does inside it."""

    async def work() -> None:
        async with InSteps() as outer:
            with db_connection_context() as inner:
                assert inner is outer

    asyncio.run(work())
