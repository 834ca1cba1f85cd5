"""What waits for COMMIT is done once it is certain, and never otherwise."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import (
    CommitOutcomeUnknown,
    PooledDB,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from harness.waiting import wait_until
from harness.workloads import add, run
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage


@pytest.fixture
def stage(wired_stage: ServerStage) -> ServerStage:
    """Our pool on each server in turn."""
    return wired_stage


class Told:
    """What was called, and what was committed by then."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.calls: list[str] = []

    def __call__(self, name: str) -> Callable[[], None]:
        def note() -> None:
            assert self.stage.db.stats().in_use == 0, "the connection was not given back before"
            self.calls.append(name)

        return note


@pytest.fixture
def told(any_stage: Stage) -> Told:
    return Told(any_stage)


def test_on_commit_after_commit(any_stage: Stage, told: Told) -> None:
    """Functions are called in their order, once, when the work can be seen by all."""
    with db_connection_context() as conn:
        conn.on_commit(lambda: told.calls.append(str(any_stage.committed()[1])))
        any_stage.db.on_commit(told("second"))
        add(conn, 1, -10)
        conn.on_commit(told("third"))
        assert told.calls == []
    assert told.calls == ["90", "second", "third"]
    with db_connection_context() as conn:
        add(conn, 1, -10)
    assert len(told.calls) == 3


@pytest.mark.parametrize("has_work", [False, True])
def test_on_commit_after_rollback(any_stage: Stage, told: Told, has_work: bool) -> None:
    """Nothing is called if an exception leaves the block, or `rollback()` came after."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        conn.on_commit(told("lost"))
        if has_work:
            add(conn, 1, -10)
        raise LookupError
    with db_connection_context() as conn:
        conn.on_commit(told("undone"))
        add(conn, 1, -10)
        conn.rollback()
        conn.on_commit(told("kept"))
    assert told.calls == ["kept"]
    assert any_stage.committed() == UNTOUCHED


@pytest.mark.parametrize("options", [{}, {"readonly": True}])
def test_on_commit_nothing_to_commit(any_stage: Stage, told: Told, options: dict[str, Any]) -> None:
    """With nothing to commit, the end of the block counts."""
    with db_connection_context(**options) as conn:
        conn.on_commit(told("empty"))
    with db_connection_context(**options) as conn:
        run(conn, "SELECT 1")
        conn.on_commit(told("read"))
    assert told.calls == ["empty", "read"]


def test_on_commit_nested(any_stage: Stage, told: Told) -> None:
    """A nested block's functions wait for the outermost COMMIT, and are forgotten with its
    savepoint; so are those of the blocks inside it.
    """
    with db_connection_context() as outer:
        outer.on_commit(told("outer"))
        with db_connection_context() as inner:
            add(inner, 1, -10)
            any_stage.db.on_commit(told("inner"))
        with contextlib.suppress(LookupError), db_connection_context() as failed:
            add(failed, 2, -10)
            failed.on_commit(told("failed"))
            with db_connection_context() as innermost:
                add(innermost, 3, -10)
                innermost.on_commit(told("inside failed"))
            raise LookupError
        with contextlib.suppress(LookupError), db_connection_context() as empty:
            empty.on_commit(told("failed, without a statement"))
            raise LookupError
        outer.on_commit(told("last"))
        assert told.calls == []
    assert told.calls == ["outer", "inner", "last"]
    assert any_stage.committed() == {**UNTOUCHED, 1: 90}


def test_on_commit_commit_by_hand(any_stage: Stage, told: Told) -> None:
    """After `commit()` by hand its functions are called at the end of the block, however that
    comes, for their work is committed.
    """
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        conn.on_commit(told("committed"))
        add(conn, 1, -10)
        conn.commit()
        conn.on_commit(told("lost"))
        add(conn, 1, -10)
        raise LookupError
    assert told.calls == ["committed"]


def test_on_commit_own_connection(any_stage: Stage, told: Told) -> None:
    """A connection that is closed by hand calls then what was committed, and nothing else."""
    conn = get_db_connection()
    conn.on_commit(told("committed"))
    add(conn, 1, -10)
    conn.commit()
    conn.on_commit(told("not committed"))
    add(conn, 1, -10)
    assert told.calls == []
    conn.close()
    assert told.calls == ["committed"]
    with pytest.raises(UsageError, match="was released"):
        conn.on_commit(told("too late"))


def test_on_commit_taken_back(site: tuple[Flask, PooledDB]) -> None:
    """A connection that the end of the app context takes back calls what was committed."""
    app, _ = site
    calls: list[str] = []
    with app.app_context():
        conn = get_db_connection()
        conn.on_commit(lambda: calls.append("committed"))
        run(conn, "INSERT INTO t VALUES (1, 'x')")
        conn.commit()
    assert calls == ["committed"]


def test_on_commit_outside(any_stage: Stage) -> None:
    """Outside any block of the bind, the function is called at once."""
    calls: list[int] = []
    any_stage.db.on_commit(lambda: calls.append(1))
    assert calls == [1]


def test_on_commit_failing_function(
    any_stage: Stage, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """What a function raises is logged with its place; the others are called, and the caller sees
    no error.
    """

    def fail() -> None:
        raise LookupError("no mail today")

    with caplog.at_level(logging.ERROR), db_connection_context() as conn:
        add(conn, 1, -10)
        conn.on_commit(fail)
        conn.on_commit(told("next"))
    assert told.calls == ["next"]
    wait_until(lambda: "no mail today" in caplog.text)
    assert "fail (asked for at" in caplog.text
    assert __file__ in caplog.text
    assert any_stage.committed()[1] == 90


def test_on_commit_new_transaction(any_stage: Stage, told: Told) -> None:
    """A block inside such a function is a new transaction, with functions of its own."""

    def more() -> None:
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            add(conn, 1, -1)
            raise LookupError
        with db_connection_context() as conn:
            add(conn, 2, -1)
            conn.on_commit(told("inner"))
        told.calls.append("outer")

    with db_connection_context() as conn:
        add(conn, 1, -10)
        conn.on_commit(more)
    assert told.calls == ["inner", "outer"]
    assert any_stage.committed() == {**UNTOUCHED, 1: 90, 2: 99}


def test_on_commit_run_transaction(stage: ServerStage) -> None:
    """In `run_transaction()` only the attempt that committed counts."""
    calls: list[int] = []
    attempts: list[int] = []

    def work(conn: Any) -> None:
        attempts.append(len(attempts))
        number = attempts[-1]
        conn.on_commit(lambda: calls.append(number))
        add(conn, 1, -10)
        if number == 0:
            stage.kill(conn)
            add(conn, 2, 10)

    stage.db.run_transaction(work)
    assert attempts == [0, 1]
    assert calls == [1]


@pytest.mark.parametrize("by_hand", [False, True])
def test_on_commit_unknown_outcome(
    stage: ServerStage, caplog: pytest.LogCaptureFixture, by_hand: bool
) -> None:
    """If the answer to COMMIT is lost nothing is called, and a warning names what was not."""
    calls: list[int] = []

    def send_mail() -> None:
        calls.append(1)

    def work() -> None:
        with db_connection_context() as conn:
            conn.on_commit(send_mail)
            add(conn, 1, -10)
            stage.proxy.hold_replies_to(b"COMMIT")
            if by_hand:
                conn.commit()

    with caplog.at_level(logging.WARNING), pytest.raises(CommitOutcomeUnknown):
        work()
    assert calls == []
    wait_until(lambda: "send_mail (asked for at" in caplog.text)


def test_on_commit_wrong_argument(sqlite_stage: FileStage) -> None:
    """What can't be called is refused at once."""
    wrong: Any = "mail"
    with db_connection_context() as conn:
        with pytest.raises(UsageError, match="takes a function"):
            conn.on_commit(wrong)
        with pytest.raises(UsageError, match="takes a function"):
            sqlite_stage.db.on_commit(wrong)
    with pytest.raises(UsageError, match="takes a function"):
        sqlite_stage.db.on_commit(wrong)
