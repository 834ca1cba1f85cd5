"""T9: blocks of generators in one transaction. A block never undoes what is not its own.

Whatever the order, either what is committed is what every block was told, or the outermost block
fails and nothing is.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Generator
from typing import Any

import pytest

from flask_pooled_db import TransactionAborted, UsageError, db_connection_context
from harness.workloads import add, run
from tests.support.scenarios.base import must_raise
from tests.support.sites import warnings_in
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage, join

Rows = Generator[Any, None, None]


def save(account: int, amount: int = 1) -> None:
    with db_connection_context() as conn:
        add(conn, account, amount)


def rows(account: int | None = None, *, savepoint: bool = True) -> Rows:
    """A block that adds to an account, or does nothing, before it yields and after."""
    with db_connection_context(savepoint=savepoint) as conn:
        if account is not None:
            add(conn, account, 1)
        yield 1
        if account is not None:
            add(conn, account, 1)


def look() -> Rows:
    with db_connection_context() as conn:
        run(conn, "SELECT balance FROM accounts WHERE id = 4")
        yield 1


def test_t9_consumer_between_rows(any_stage: Stage) -> None:
    """A generator that is closed early undoes what it did; where its consumer wrote meanwhile,
    that would be lost, and the outer block fails instead.
    """
    with must_raise(TransactionAborted) as caught:
        with db_connection_context():
            save(1)
            it = rows(4)
            next(it)
            save(2)
            it.close()
            with pytest.raises(TransactionAborted):
                save(3)
    assert any_stage.committed() == UNTOUCHED
    cause = caught[0].__cause__
    assert isinstance(cause, UsageError)
    line = rows.__code__.co_firstlineno + 2
    for part in (f"{__file__}:{line}", "GeneratorExit", "exhaust or close", "independent=True"):
        assert part in str(cause)


@pytest.mark.parametrize(
    ("before", "between", "end", "expected"),
    [
        # The generator runs nothing before its consumer does: its savepoint is not set for others.
        pytest.param(None, 2, "close", {1: 101, 2: 101, 3: 101}, id="idle"),
        pytest.param(None, 2, "exhaust", {1: 101, 2: 101, 3: 101}, id="idle-to-its-end"),
        pytest.param(4, None, "close", {1: 101, 3: 101}, id="undone-alone"),
        pytest.param(4, None, "throw", {1: 101, 3: 101}, id="undone-alone-by-an-error"),
        pytest.param(4, 2, "exhaust", {1: 101, 2: 101, 3: 101, 4: 102}, id="exhausted"),
        pytest.param(4, 2, "throw", None, id="mixed"),
    ],
)
def test_t9_ends_of_generators(
    any_stage: Stage,
    before: int | None,
    between: int | None,
    end: str,
    expected: dict[int, int] | None,
) -> None:
    """What a generator did in an outer block is undone alone, or all of the block is."""
    with must_raise(TransactionAborted) if expected is None else contextlib.nullcontext():
        with db_connection_context():
            save(1)
            it = rows(before)
            next(it)
            if between is not None:
                save(between)
            if end == "close":
                it.close()
            elif end == "throw":
                with pytest.raises(LookupError):
                    it.throw(LookupError())
            else:
                assert list(it) == []
            with contextlib.nullcontext() if expected else pytest.raises(TransactionAborted):
                save(3)
    assert any_stage.committed() == {**UNTOUCHED, **(expected or {})}


def test_t9_two_generators(any_stage: Stage) -> None:
    """Generators in step, both exhausted, in either order."""
    for first, second in ((0, 1), (1, 0)):
        with db_connection_context():
            both = [rows(1), rows(2)]
            for it in both:
                next(it)
            save(3)
            assert list(both[first]) == []
            save(3)
            assert list(both[second]) == []
            with contextlib.suppress(LookupError), db_connection_context() as conn:
                add(conn, 4, 1)  # under a name that a savepoint had before
                raise LookupError
    assert any_stage.committed() == {1: 104, 2: 104, 3: 104, 4: 100}


@pytest.mark.parametrize("writes", [False, True])
def test_t9_zip(any_stage: Stage, writes: bool) -> None:
    """zip() closes its second generator: without a word if nothing is lost by that."""
    with must_raise(TransactionAborted) if writes else contextlib.nullcontext():
        with db_connection_context() as conn:
            add(conn, 1, 1)
            for _ in zip(look(), look(), strict=False):
                if writes:
                    save(2)
    assert any_stage.committed() == (UNTOUCHED if writes else {**UNTOUCHED, 1: 101})


def test_t9_generator_closed_in_block(any_stage: Stage) -> None:
    """A block that began while a generator was open goes on when that was closed."""
    with db_connection_context():
        it = rows(1)
        next(it)
        with contextlib.suppress(LookupError), db_connection_context():
            assert list(it) == []
            save(2)
            raise LookupError
        with db_connection_context() as inner:
            add(inner, 3, 1)
    assert any_stage.committed() == {**UNTOUCHED, 1: 102, 3: 101}


def test_t9_failed_block_around_row(any_stage: Stage) -> None:
    """A block that fails after a generator of the outer block wrote in its midst fails it all."""
    with must_raise(TransactionAborted):
        with db_connection_context():
            it = rows(1)
            next(it)
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                add(inner, 2, 1)
                next(it, None)
                raise LookupError
    assert any_stage.committed() == UNTOUCHED


def test_t9_block_ends_before_generator_inside(any_stage: Stage) -> None:
    """A block that ends before a generator that joined it fails."""
    with must_raise(TransactionAborted):
        with db_connection_context():
            with must_raise(UsageError), db_connection_context():
                it = rows(1)
                next(it)
            it.close()
    with must_raise(UsageError) as caught, db_connection_context():
        it = rows(1)
        next(it)
    assert "exhaust or close" in str(caught[0])
    assert any_stage.committed() == UNTOUCHED
    assert any_stage.db.stats().in_use == 0


def test_t9_generator_without_savepoint(any_stage: Stage) -> None:
    """A generator whose block has no savepoint takes the outer block with it."""
    with must_raise(TransactionAborted):
        with db_connection_context():
            it = rows(1, savepoint=False)
            next(it)
            it.close()
    assert any_stage.committed() == UNTOUCHED


def test_t9_lost_work_in_log_of_nested(any_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A closed generator inside an outer block that undoes a finished block says so in the log."""

    def working() -> Rows:
        with db_connection_context():
            save(2)
            yield 1

    with db_connection_context() as conn:
        add(conn, 1, 1)
        it = working()
        next(it)
        it.close()
    assert any_stage.committed() == {**UNTOUCHED, 1: 101}
    [message] = warnings_in(caplog)
    assert f"{__file__}:{save.__code__.co_firstlineno + 1}" in message


@pytest.mark.parametrize("how", ["in another thread", "in a statement"])
def test_t9_garbage_generator(sqlite_stage: FileStage, how: str) -> None:
    """A generator that is closed where nothing can be sent takes the outer block with it."""
    kept: list[Rows] = []

    def release() -> None:
        kept.clear()
        gc.collect()

    with must_raise(TransactionAborted) as caught:
        with db_connection_context() as conn:
            add(conn, 1, 1)
            kept.append(rows(2))
            next(kept[0])
            if how == "in another thread":
                thread = threading.Thread(target=release)
                thread.start()
                join(thread)
            else:
                conn.create_function("release", 0, release)
                run(conn, "SELECT release()")
    assert isinstance(caught[0].__cause__, UsageError)
    assert sqlite_stage.committed() == UNTOUCHED


def test_t9_round_trips(stage: ServerStage) -> None:
    """Only a transaction with a generator's savepoint watches its statements, for no round trip."""
    with db_connection_context() as conn:
        add(conn, 1, 1)
        stage.proxy.reset_counts()
        it = rows(2)
        next(it)
        add(conn, 3, 1)
        assert list(it) == []
        assert [command.payload.split()[0] for command in stage.proxy.commands] == [
            b"SAVEPOINT",
            b"UPDATE",
            b"UPDATE",
            b"UPDATE",
            b"RELEASE",
        ]
    assert stage.committed() == {**UNTOUCHED, 1: 101, 2: 102, 3: 101}


def test_t9_time_limits(pymysql_stage: Stage) -> None:
    """A time limit of a generator's block is not its consumer's, during it or after it."""

    def limit(conn: Any) -> float:
        return float(run(conn, "SELECT @@max_statement_time")[0][0])

    def limited() -> Rows:
        with db_connection_context(statement_timeout=5) as conn:
            yield limit(conn)
            yield limit(conn)

    with db_connection_context(statement_timeout=9) as outer:
        it = limited()
        assert (next(it), limit(outer)) == (5, 9)
        with db_connection_context() as inner:
            assert (limit(inner), next(it), limit(inner)) == (9, 5, 9)
            assert list(it) == []
        assert limit(outer) == 9
