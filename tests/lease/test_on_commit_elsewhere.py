"""What waits for COMMIT, in generators, other threads, tasks, greenlets, and nested retries."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flask_pooled_db import TransactionAborted, db_connection_context
from harness.processes import PROJECT
from harness.waiting import wait_until
from harness.workloads import add, run
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


def saved(calls: list[str], name: str) -> Generator[int, None, None]:
    """A generator that holds a block."""
    with db_connection_context() as conn:
        add(conn, 1, -10)
        conn.on_commit(lambda: calls.append(name))
        yield 1
        conn.on_commit(lambda: calls.append(f"{name}, resumed"))
        yield 2


@pytest.mark.parametrize("is_exhausted", [True, False])
def test_on_commit_generator(any_stage: Stage, is_exhausted: bool) -> None:
    """A generator's block calls when the generator has come to its end, or not at all."""
    calls: list[str] = []
    rows = saved(calls, "own")
    assert next(rows) == 1
    assert calls == []
    if is_exhausted:
        list(rows)
        assert calls == ["own", "own, resumed"]
        assert any_stage.committed()[1] == 90
    else:
        rows.close()
        assert calls == []
        assert any_stage.committed() == UNTOUCHED


def test_on_commit_generator_in_block(any_stage: Stage) -> None:
    """What a generator asks for inside a block waits for that one's COMMIT; what the block asks for
    while the generator is suspended is the block's own.
    """
    calls: list[str] = []
    with db_connection_context() as outer:
        rows = saved(calls, "generator")
        next(rows)
        outer.on_commit(lambda: calls.append("block"))
        any_stage.db.on_commit(lambda: calls.append("db"))
        list(rows)
        assert calls == []
    assert calls == ["generator", "block", "db", "generator, resumed"]


def test_on_commit_generator_undone(any_stage: Stage) -> None:
    """A generator that an exception ends takes what it had asked for with it, and nothing else."""
    calls: list[str] = []
    with db_connection_context() as outer:
        outer.on_commit(lambda: calls.append("before"))
        rows: Any = saved(calls, "generator")
        next(rows)
        outer.on_commit(lambda: calls.append("between"))
        with contextlib.suppress(LookupError):
            rows.throw(LookupError())
        outer.on_commit(lambda: calls.append("after"))
    assert calls == ["before", "between", "after"]
    assert any_stage.committed() == UNTOUCHED


def test_on_commit_in_thread(any_stage: Stage) -> None:
    """Another thread's block is a transaction of its own; `db.on_commit()` there is not of the
    block around the call.
    """
    calls: list[tuple[str, str]] = []

    def note(name: str) -> Any:
        return lambda: calls.append((name, threading.current_thread().name))

    def work() -> None:
        with any_stage.app.app_context():
            any_stage.db.on_commit(note("at once"))
            with db_connection_context() as conn:
                run(conn, "SELECT 1")
                any_stage.db.on_commit(note("in thread"))

    with ThreadPoolExecutor(1, "executor") as executor:
        with db_connection_context() as conn:
            add(conn, 1, -10)
            conn.on_commit(note("outer"))
            executor.submit(work).result()
            assert [name for name, _ in calls] == ["at once", "in thread"]
    assert [name for name, _ in calls] == ["at once", "in thread", "outer"]
    assert [thread for _, thread in calls][:2] == ["executor_0"] * 2
    assert calls[2][1] == threading.current_thread().name


def test_on_commit_by_connection_in_thread(any_stage: Stage) -> None:
    """What a thread asks of a block's connection that it was given is the innermost block's."""
    calls: list[str] = []
    with ThreadPoolExecutor(1) as executor, db_connection_context() as outer:
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            add(inner, 1, -10)
            executor.submit(inner.on_commit, lambda: calls.append("undone")).result()
            raise LookupError
        executor.submit(outer.on_commit, lambda: calls.append("kept")).result()
    assert calls == ["kept"]


def test_on_commit_tasks(any_stage: Stage) -> None:
    """Each task's block calls after its own COMMIT."""
    calls: list[str] = []

    async def work(name: str, *, fails: bool) -> None:
        with db_connection_context() as conn:
            run(conn, "SELECT 1")
            any_stage.db.on_commit(lambda: calls.append(name))
            await asyncio.sleep(0.01)
            if fails:
                raise LookupError

    async def main() -> None:
        tasks = [work("a", fails=False), work("b", fails=True), work("c", fails=False)]
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert sorted(calls) == ["a", "c"]


def test_on_commit_nested_run_transaction(stage: ServerStage) -> None:
    """A nested `run_transaction()` waits for the outer COMMIT, and counts once however often the
    outer one was started over.
    """
    calls: list[str] = []
    attempts: list[int] = []

    def inner(conn: Any) -> None:
        add(conn, 2, 10)
        stage.db.on_commit(lambda: calls.append(f"inner {attempts[-1]}"))

    def outer(conn: Any) -> None:
        attempts.append(len(attempts))
        add(conn, 1, -10)
        conn.on_commit(lambda: calls.append(f"outer {attempts[-1]}"))
        stage.db.run_transaction(inner)
        assert calls == []
        if attempts[-1] == 0:
            stage.kill(conn)
            run(conn, "SELECT 1")

    stage.db.run_transaction(outer)
    assert attempts == [0, 1]
    assert calls == ["outer 1", "inner 1"]
    assert stage.committed() == {**UNTOUCHED, 1: 90, 2: 110}


def test_on_commit_run_transaction_inside(any_stage: Stage) -> None:
    """`run_transaction()` inside such a function is a new transaction, with calls of its own."""
    calls: list[str] = []

    def work(conn: Any) -> None:
        add(conn, 2, 10)
        conn.on_commit(lambda: calls.append(str(any_stage.committed()[2])))

    with db_connection_context() as conn:
        add(conn, 1, -10)
        conn.on_commit(lambda: any_stage.db.run_transaction(work))
    assert calls == ["110"]


def test_on_commit_by_text(stage: ServerStage) -> None:
    """What COMMIT by text has committed is called at the end of the block, and what a ROLLBACK by
    text undid is not; with a lost transaction neither is what came after.
    """
    calls: list[str] = []

    def note(name: str) -> Any:
        return lambda: calls.append(name)

    with contextlib.suppress(LookupError), db_connection_context() as conn:
        add(conn, 1, -10)
        conn.on_commit(note("committed"))
        run(conn, "COMMIT")
        add(conn, 1, -10)
        conn.on_commit(note("undone"))
        run(conn, "ROLLBACK")
        add(conn, 1, -10)
        conn.on_commit(note("lost"))
        raise LookupError
    assert calls == ["committed"]
    assert stage.committed() == {**UNTOUCHED, 1: 90}


def test_on_commit_routine(mariadb_stage: ServerStage, caplog: pytest.LogCaptureFixture) -> None:
    """Where a routine has ended the transaction, nothing is called, for nobody knows how."""
    calls: list[str] = []
    with db_connection_context() as conn:
        run(conn, "CREATE PROCEDURE commits() COMMIT")

    def work() -> None:
        with db_connection_context() as conn:
            add(conn, 1, -10)
            conn.on_commit(lambda: calls.append("unknown"))
            run(conn, "CALL commits()")
            add(conn, 1, -10)

    with pytest.raises(TransactionAborted):
        work()
    assert calls == []
    wait_until(lambda: "was not called" in caplog.text)


UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import sys
import gevent
from tests.support.apps import pooled_app

calls = []
with pooled_app(sys.argv[1]) as (app, db):
    def work(name, fails):
        with app.app_context(), db.connection_context() as conn:
            conn.cursor().execute("SELECT 1")
            db.on_commit(lambda: calls.append(name))
            gevent.sleep(0.01)
            if fails:
                raise LookupError
    db.on_commit(lambda: calls.append("0"))
    greenlets = [gevent.spawn(work, "a", False), gevent.spawn(work, "b", True),
                 gevent.spawn(work, "c", False)]
    with db.connection_context() as conn:
        conn.on_commit(lambda: calls.append("d"))
        gevent.joinall(greenlets)
print("".join(sorted(calls)))
"""


def test_on_commit_gevent(sqlite_stage: FileStage) -> None:
    """Each greenlet's block calls after its own COMMIT."""
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT, f"sqlite:///{sqlite_stage.path}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["0acd"]
