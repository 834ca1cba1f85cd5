"""Tasks, threads and greenlets never share the connection of their parent."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import greenlet
import pytest

from flask_pooled_db import UsageError
from harness.workloads import add, connection_id, run
from tests.support.scenarios.base import MOVED, statement_is_sent
from tests.support.stages import ServerStage, Stage, join


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


def ids_in_child_tasks(stage: ServerStage) -> tuple[int, tuple[int, int]]:
    """The parent's connection and those of two child tasks inside its block."""

    async def child(barrier: list[asyncio.Event], number: int) -> int:
        with stage.db.connection_context() as connection:
            barrier[number].set()
            await barrier[1 - number].wait()  # both are inside at the same time
            return connection_id(connection)

    async def parent() -> tuple[int, tuple[int, int]]:
        barrier = [asyncio.Event(), asyncio.Event()]
        with stage.db.connection_context() as connection:
            children = await asyncio.gather(child(barrier, 0), child(barrier, 1))
            return connection_id(connection), children

    return asyncio.run(parent())


def test_child_tasks(stage: ServerStage) -> None:
    """Child tasks inherit the context of a block, but not its connection."""
    parent, children = ids_in_child_tasks(stage)
    assert len({parent, *children}) == 3
    assert stage.db.stats().in_use == 0


def test_to_thread(stage: ServerStage) -> None:
    """`asyncio.to_thread()` copies the context of a block, but not its connection."""

    def child() -> int:
        with stage.db.connection_context() as connection:
            assert run(connection, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
            return connection_id(connection)

    async def parent() -> None:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            assert await asyncio.to_thread(child) != connection_id(connection)
            with stage.db.connection_context() as inner:
                assert inner is connection
            add(connection, 2, 10)

    asyncio.run(parent())
    assert stage.committed() == MOVED


def test_copied_context(any_stage: Stage) -> None:
    """`copy_context().run` in a thread copies the context of a block, but not its connection."""
    seen: list[Any] = []

    def child() -> None:
        with any_stage.db.connection_context() as connection:
            seen.append(connection)
            seen.append(run(connection, "SELECT balance FROM accounts WHERE id = 1"))

    with any_stage.db.connection_context() as parent:
        add(parent, 1, -10)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(child,))
        thread.start()
        join(thread)
        assert seen[0] is not parent
        assert seen[1] == [(100,)]
        add(parent, 2, 10)
    assert any_stage.committed() == MOVED


def test_greenlet(any_stage: Stage) -> None:
    """A greenlet that runs in the context of a block has its own connection."""

    def child() -> Any:
        with any_stage.db.connection_context() as connection:
            greenlet.getcurrent().parent.switch(connection)
            return run(connection, "SELECT balance FROM accounts WHERE id = 1")

    with any_stage.db.connection_context() as parent:
        add(parent, 1, -10)
        other = greenlet.greenlet(child)
        other.gr_context = contextvars.copy_context()
        assert other.switch() is not parent
        with any_stage.db.connection_context() as inner:
            assert inner is parent
        assert other.switch() == [(100,)]
        add(parent, 2, 10)
    assert any_stage.committed() == MOVED
    assert any_stage.db.stats().in_use == 0


def test_concurrent_use(mariadb_stage: ServerStage) -> None:
    """A second thread that uses a connection in use gets an error."""
    with mariadb_stage.db.connection_context() as connection:
        id_ = connection_id(connection)

        def sleep() -> None:
            with pytest.raises(connection.Error):
                run(connection, "UPDATE accounts SET balance = SLEEP(20) WHERE id = 3")

        thread = mariadb_stage.in_thread(sleep)
        statement_is_sent(mariadb_stage, b"UPDATE accounts SET balance = SLEEP")()
        with pytest.raises(UsageError, match="in use by another thread"):
            run(connection, "SELECT 1")
        mariadb_stage.server.execute("KILL QUERY %s", id_)
        join(thread)
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert mariadb_stage.committed() == MOVED
