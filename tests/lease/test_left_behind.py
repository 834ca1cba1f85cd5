"""T9: what generators that are never closed leave behind in their thread."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from flask_pooled_db import PooledDB, db_connection_context
from flask_pooled_db.lease import scope as scope_module
from harness.workloads import run
from tests.support.stages import FileStage

Rows = Generator[Any, None, None]


def plain() -> Rows:
    with db_connection_context() as conn:
        yield conn


def open_scopes() -> int:
    """Return how many scopes a chain of context variables holds."""
    scope, count = scope_module.innermost(), 0
    while scope is not None:
        scope, count = scope._outer, count + 1
    return count


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
