"""T9: a block joins a block that encloses it, and no other.

The table is: who holds the block, what its consumer does meanwhile, how it ends.
"""

from __future__ import annotations

import contextlib
import gc
import unittest
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest

from flask_pooled_db import db_connection_context
from flask_pooled_db.lease.openscopes import scopes_of
from flask_pooled_db.lease.owner import current_owner
from harness.workloads import add, run
from tests.support.sites import warnings_in
from tests.support.stages import UNTOUCHED, FileStage, Stage

LOOK = "SELECT balance FROM accounts WHERE id = 4"


class Entered:
    """A class that enters a block, as many wrappers of an application do."""

    def __enter__(self) -> Any:
        self.block = db_connection_context()
        return self.block.__enter__()

    def __exit__(self, *exc: object) -> None:
        self.block.__exit__(*exc)  # type: ignore[arg-type]


class Advanced:
    """A class that advances a generator."""

    def __enter__(self) -> Any:
        self.rows = plain(lambda conn: None)
        return next(self.rows)

    def __exit__(self, *exc: object) -> None:
        next(self.rows, None)


@contextmanager
def managed() -> Iterator[Any]:
    with db_connection_context() as conn:
        yield conn


@contextmanager
def managed_by_stack() -> Iterator[Any]:
    with ExitStack() as stack:
        yield stack.enter_context(db_connection_context())


@contextmanager
def managed_twice() -> Iterator[Any]:
    with managed() as conn:
        yield conn


@contextmanager
def stacked() -> Iterator[Any]:
    with ExitStack() as stack:
        yield stack.enter_context(managed())


@contextmanager
def of_test_case() -> Iterator[Any]:
    case = unittest.TestCase()
    yield case.enterContext(db_connection_context())
    case.doCleanups()


@contextmanager
def by_hand() -> Iterator[Any]:
    def before_request() -> Any:
        return block.__enter__()

    block = db_connection_context()
    yield before_request()
    block.__exit__(None, None, None)


ENCLOSING: list[Callable[[], AbstractContextManager[Any]]] = [
    db_connection_context,
    Entered,
    Advanced,
    managed,
    managed_by_stack,
    managed_twice,
    stacked,
    of_test_case,
    by_hand,
]


@pytest.mark.parametrize("held", ENCLOSING, ids=lambda held: held.__name__)
def test_t9_helpers(any_stage: Stage, held: Callable[[], AbstractContextManager[Any]]) -> None:
    """What a helper holds on purpose encloses the block of its caller, and nothing later."""
    with held() as outer:
        add(outer, 1, -10)
        with db_connection_context() as inner:
            assert inner is outer
            add(inner, 2, 10)
        assert any_stage.committed() == UNTOUCHED
    assert any_stage.committed() == {**UNTOUCHED, 1: 90, 2: 110}
    with db_connection_context() as other:
        assert other is not outer


@pytest.fixture
def held_by_fixture(sqlite_stage: FileStage) -> Iterator[Any]:
    """A block around a test."""
    with sqlite_stage.db.connection_context() as conn:
        yield conn


def test_t9_fixture(held_by_fixture: Any) -> None:
    """A block that a fixture of pytest holds encloses the test."""
    with db_connection_context() as inner:
        assert inner is held_by_fixture


# What generators hold for themselves

Work = Callable[[Any], object]
Rows = Generator[Any, None, None]


def plain(work: Work) -> Rows:
    with db_connection_context() as conn:
        work(conn)
        yield conn


def with_stack(work: Work) -> Rows:
    with ExitStack() as stack:
        conn = stack.enter_context(db_connection_context())
        work(conn)
        yield conn


def with_class(work: Work) -> Rows:
    with Entered() as conn:
        work(conn)
        yield conn


def with_helper(work: Work) -> Rows:
    with managed_by_stack() as conn:
        work(conn)
        yield conn


def delegating(work: Work) -> Rows:
    yield from plain(work)


def in_expression(work: Work) -> Rows:
    yield from (conn for conn in plain(work))


HOLDERS = [plain, with_stack, with_class, with_helper, delegating, in_expression]


def save() -> None:
    """What the consumer does: a block of its own, which is told to be committed."""
    with db_connection_context() as conn:
        add(conn, 1, 1)


def save_and_nest() -> None:
    with db_connection_context() as conn:
        add(conn, 2, 1)
        with db_connection_context() as inner:
            assert inner is conn
            add(inner, 1, 1)
        add(conn, 2, -1)


def save_in_managed() -> None:
    with managed() as conn:
        add(conn, 1, 1)


CONSUMERS = [save, save_and_nest, save_in_managed]


def exhaust(rows: Rows) -> None:
    assert list(rows) == []


def close(rows: Rows) -> None:
    rows.close()


def throw(rows: Rows) -> None:
    with pytest.raises(LookupError):
        rows.throw(LookupError())


def drop(rows: Rows) -> None:
    """The last reference to it is that of the caller's list."""


def leave_in_cycle(rows: Rows) -> None:
    cycle: list[Any] = [rows]
    cycle.append(cycle)


ENDS = [exhaust, close, throw, drop, leave_in_cycle]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("consume", CONSUMERS, ids=lambda consume: consume.__name__)
@pytest.mark.parametrize("hold", HOLDERS, ids=lambda hold: hold.__name__)
@pytest.mark.parametrize(
    "place", ["sqlite", pytest.param("pymysql", marks=pytest.mark.shared_server)]
)
def test_t9_generators(
    request: pytest.FixtureRequest,
    place: str,
    hold: Callable[[Work], Rows],
    consume: Callable[[], None],
    end: Callable[[Rows], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a generator holds does not enclose its consumer's block, which commits by itself."""
    stage: Stage = request.getfixturevalue("quiet_stage")
    is_server = place != "sqlite"
    kept = [hold(lambda conn: add(conn, 4, 1) if is_server else run(conn, LOOK))]
    next(kept[0])
    consume()
    end(kept[0])
    kept.clear()
    gc.collect()
    expected = {**UNTOUCHED, 1: 101}
    if is_server and end is exhaust:
        expected[4] = 101
    assert stage.committed() == expected
    assert warnings_in(caplog) == []
    assert stage.db.stats().in_use == 0
    with db_connection_context():
        pass
    assert not scopes_of(current_owner())


@pytest.fixture
def quiet_stage(request: pytest.FixtureRequest, place: str) -> Stage:
    """A stage on the database that the table names."""
    fixture = "sqlite_stage" if place == "sqlite" else "pymysql_stage"
    stage: Stage = request.getfixturevalue(fixture)
    return stage


def test_t9_loop_with_break(sqlite_stage: FileStage, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that saves one row and breaks has saved it."""
    for _ in plain(lambda conn: run(conn, LOOK)):
        save()
        break
    assert sqlite_stage.committed() == {**UNTOUCHED, 1: 101}
    assert warnings_in(caplog) == []


def test_t9_generator_resumed_in_block(pymysql_stage: Stage) -> None:
    """A block in a generator joins the generator's, also where another block resumes it."""

    def rows() -> Iterator[Any]:
        with db_connection_context() as conn:
            yield conn
            with db_connection_context() as inner:
                assert inner is conn
                add(inner, 1, 1)
            yield conn

    generator = rows()
    next(generator)
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        add(conn, 2, 1)
        next(generator)
        raise LookupError
    assert list(generator) == []
    assert pymysql_stage.committed() == {**UNTOUCHED, 1: 101}


def test_t9_other_bind_between(sqlite_stage: FileStage) -> None:
    """`independent=True` in a generator takes part in the order of blocks."""
    with db_connection_context() as outer:

        def rows() -> Iterator[Any]:
            with db_connection_context(independent=True) as conn:
                yield conn
                with db_connection_context() as inner:
                    assert inner is conn

        generator = rows()
        assert next(generator) is not outer
        with db_connection_context() as inner:
            assert inner is outer
            assert next(generator, None) is None


def test_t9_lost_work_in_log(any_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """If a closed generator takes with it what a finished block did, the log names both places."""

    def rows() -> Rows:
        with db_connection_context() as conn:
            save()
            yield conn

    generator = rows()
    next(generator)
    generator.close()
    assert any_stage.committed() == UNTOUCHED
    [message] = warnings_in(caplog)
    first = rows.__code__.co_firstlineno
    assert f"{__file__}:{first + 1}" in message
    assert f"{__file__}:{save.__code__.co_firstlineno + 2}" in message
    assert caplog.records[0].levelname == "ERROR"
