"""T6: signals, exceptions and cancelled tasks in the middle of a transaction."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Generator

import pytest

from harness.workloads import add, connection_id, run
from tests.support.scenarios import interruptions
from tests.support.scenarios.base import MOVED, SCENARIOS, assert_fit, must_raise, signalled
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


@pytest.mark.parametrize("name", [n for n in SCENARIOS if n.startswith("interrupted_by")])
def test_t6_signal_interrupts_statement(stage: ServerStage, name: str) -> None:
    """An exception that a signal raises inside a statement rolls back, and the connection is not
    used again.
    """
    SCENARIOS[name](stage)
    stats = stage.db.stats()
    assert (stats.in_use, stats.discarded) == (0, 1)


def test_t6_swallowed_interruption(stage: ServerStage) -> None:
    """A caller that swallows the interruption of a statement cannot use the lease further."""
    interruptions.interrupted_and_swallowed(stage)


def test_t6_signal_interrupts_sqlite(sqlite_stage: FileStage) -> None:
    """A signal in the middle of an endless SELECT on SQLite rolls back, and the pool lends on."""
    interruptions.interrupted_while_reading(sqlite_stage)
    assert sqlite_stage.db.stats().in_use == 0


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_t6_signal_interrupts_commit(
    stage: ServerStage, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller sees what interrupted its COMMIT; the doubt is logged, and the connection is not
    used again.
    """
    with contextlib.ExitStack() as signals, must_raise(type(error)):
        with stage.db.connection_context() as connection:
            before = connection_id(connection)
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.delay = 0.3  # COMMIT is on record, and its answer far away
            commit_is_sent = functools.partial(stage.proxy.wait_for_command, b"COMMIT")
            signals.enter_context(signalled(error, commit_is_sent))
    stage.proxy.delay = 0.0
    assert "COMMIT was interrupted" in caplog.text
    with stage.db.connection_context() as connection:
        assert connection_id(connection) != before
    assert stage.committed() in (UNTOUCHED, MOVED)
    assert stage.db.stats().in_use == 0


def test_t6_generator_closed(direct_stage: Stage) -> None:
    """Closing a generator inside its block rolls back."""

    def rows() -> Generator[int, None, None]:
        with direct_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            yield 1
            add(connection, 2, 10)

    generator = rows()
    next(generator)
    generator.close()
    assert direct_stage.committed() == UNTOUCHED
    assert direct_stage.db.stats().in_use == 0
    assert_fit(direct_stage)


def test_t6_task_cancelled(direct_stage: Stage) -> None:
    """Cancelling a task inside its block rolls back."""

    async def work(inside: asyncio.Event) -> None:
        with direct_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            inside.set()
            await asyncio.Event().wait()

    async def main() -> None:
        inside = asyncio.Event()
        task = asyncio.ensure_future(work(inside))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with direct_stage.db.connection_context() as connection:
            add(connection, 3, 0)

    asyncio.run(main())
    assert direct_stage.committed() == UNTOUCHED
    assert direct_stage.db.stats().in_use == 0


def test_t6_interrupted_while_classifying(
    stage: ServerStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption that comes while an error is being understood breaks the lease, and is what
    the caller sees, also where it closes a cursor on the way out.
    """
    error = SystemExit(1)

    def interrupt(*args: object) -> None:
        raise error

    driver = stage.db.pool().driver
    with must_raise(SystemExit) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            number = connection_id(connection)
            monkeypatch.setattr(driver, "classify", interrupt)
            run(connection, "SELECT nonsense")
    monkeypatch.undo()
    assert caught == [error]
    with stage.db.connection_context() as connection:
        assert connection_id(connection) != number
    assert stage.committed() == UNTOUCHED
