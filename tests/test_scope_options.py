"""What a scope can be asked for: nesting, readonly, isolation, timeouts, binds, children."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import greenlet
import pytest

from flask_pooled_db import (
    CommitOutcomeUnknown,
    PoolTimeout,
    TransactionAborted,
    UsageError,
    db_connection_context,
)
from tests.support import scenarios
from tests.support.apps import pooled_app
from tests.support.scenarios import MOVED, Scenario, add, must_raise, rival, run
from tests.support.server import MariaDBServer
from tests.support.stages import (
    UNTOUCHED,
    FileStage,
    ServerStage,
    Stage,
    join,
    on_file,
    on_server,
)
from tests.support.workloads import connection_id

# -- nesting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [scenarios.inner_block_sees_the_outer_one, scenarios.inner_block_ends_with_the_outer_one],
    ids=lambda scenario: scenario.name,
)
def test_a_nested_block_is_a_part_of_the_outer_one(
    any_stage: Stage, scenario: Scenario[Stage]
) -> None:
    """A block inside a block of the same bind shares its transaction and its fate."""
    scenario(any_stage)


def test_nested_blocks_hold_one_connection(any_stage: Stage) -> None:
    """However deep a request nests, it holds one connection: it can't run out of them by itself."""
    with any_stage.db.connection_context() as first:
        with any_stage.db.connection_context() as second:
            with any_stage.db.connection_context(savepoint=False) as third:
                assert first is second is third
                assert any_stage.db.stats().in_use == 1


def test_a_failed_nested_block_costs_its_own_work_alone(any_stage: Stage) -> None:
    """An exception that leaves an inner block undoes that block; the outer one goes on."""
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


def test_a_nested_block_that_comes_first_is_undone_alone(any_stage: Stage) -> None:
    """The same where the outer block has run nothing before the inner one."""
    with any_stage.db.connection_context() as outer:
        with must_raise(LookupError):
            with any_stage.db.connection_context() as inner:
                add(inner, 3, -1)
                raise LookupError
        add(outer, 1, -10)
        with any_stage.db.connection_context() as inner:
            add(inner, 2, 10)
    assert any_stage.committed() == MOVED


def test_a_nested_block_that_runs_nothing_sends_nothing(stage: ServerStage) -> None:
    """A savepoint is set with the first statement that needs it."""
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


def test_without_savepoint_a_failed_nested_block_dooms_the_outer_one(any_stage: Stage) -> None:
    """With `savepoint=False` an exception that leaves the inner block aborts the whole."""
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
    scenarios.assert_fit(any_stage)


def test_without_savepoint_a_nested_block_sends_nothing_of_its_own(stage: ServerStage) -> None:
    """With `savepoint=False` the inner block costs no round trip."""
    with stage.db.connection_context() as outer:
        add(outer, 1, -10)
        stage.proxy.reset_counts()
        with stage.db.connection_context(savepoint=False) as inner:
            add(inner, 2, 10)
        assert stage.proxy.round_trips == 1
    assert stage.committed() == MOVED


def test_an_independent_block_is_a_transaction_of_its_own(stage: ServerStage) -> None:
    """`independent=True` takes its own connection: it sees nothing uncommitted, and stays when
    the outer block rolls back.
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


def test_an_independent_block_reads_what_is_committed(sqlite_stage: FileStage) -> None:
    """On SQLite too, where another connection can read while one writes."""
    with sqlite_stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with sqlite_stage.db.connection_context(independent=True) as own:
            assert own is not outer
            assert run(own, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
        add(outer, 2, 10)
    assert sqlite_stage.committed() == MOVED


def block(stage: Stage, account: int, amount: int) -> Iterator[Any]:
    """A generator that is inside a block until it is resumed."""
    with stage.db.connection_context() as connection:
        add(connection, account, amount)
        yield connection


def test_blocks_left_out_of_order_roll_back(any_stage: Stage) -> None:
    """An outer block that ends before the inner one is an error, and nothing is committed."""
    outer, inner = block(any_stage, 1, -10), block(any_stage, 2, 10)
    assert next(outer) is next(inner)
    with pytest.raises(UsageError, match="left before one that was entered inside it"):
        next(outer)
    with pytest.raises((UsageError, TransactionAborted)):
        next(inner)
    assert any_stage.committed() == UNTOUCHED
    assert any_stage.db.stats().in_use == 0
    scenarios.assert_fit(any_stage)


def test_blocks_left_out_of_order_roll_back_in_the_middle(any_stage: Stage) -> None:
    """The same for a nested block that ends before one inside it: the outermost can't commit."""
    with must_raise(TransactionAborted):
        with any_stage.db.connection_context() as outermost:
            add(outermost, 3, 1)
            outer, inner = block(any_stage, 1, -10), block(any_stage, 2, 10)
            assert next(outer) is next(inner)
            with pytest.raises(UsageError):
                next(outer)
            with pytest.raises(TransactionAborted):
                next(inner)
    assert any_stage.committed() == UNTOUCHED
    scenarios.assert_fit(any_stage)


def test_a_block_that_is_dropped_gives_its_connection_back(any_stage: Stage) -> None:
    """A generator that is dropped inside its block rolls back and releases."""
    generator = block(any_stage, 1, -10)
    next(generator)
    del generator
    assert any_stage.db.stats().in_use == 0
    assert any_stage.committed() == UNTOUCHED


# -- readonly -------------------------------------------------------------------------------------


def test_readonly_refuses_writes(any_stage: Stage) -> None:
    """A write in a readonly block fails: it neither happens nor vanishes."""
    scenarios.write_in_a_readonly_block(any_stage)


def test_readonly_reads_what_is_committed_now(stage: ServerStage) -> None:
    """Each statement sees the database as it is then: there is no snapshot to grow stale."""
    with stage.db.connection_context(readonly=True) as connection:
        assert run(connection, "SELECT balance FROM accounts WHERE id = 3") == [(100,)]
        stage.server.execute(f"UPDATE `{stage.database}`.accounts SET balance = 7 WHERE id = 3")
        assert run(connection, "SELECT balance FROM accounts WHERE id = 3") == [(7,)]


def test_readonly_is_put_back(stage: ServerStage) -> None:
    """The next lease of the same connection writes, commits and rolls back as ever."""
    state = stage.server.sql("SELECT @@autocommit, @@tx_read_only")
    with stage.db.connection_context(readonly=True) as connection:
        before = connection_id(connection)
    with stage.db.connection_context() as connection:
        assert connection_id(connection) == before
        assert run(connection, state) == [(0, 0)]
    scenarios.assert_fit(stage)


def test_a_nested_block_in_a_readonly_one_is_readonly(any_stage: Stage) -> None:
    """An inner block joins the outer one as it is; it can't write, and a failure dooms nothing."""
    with any_stage.db.connection_context(readonly=True) as outer:
        with contextlib.suppress(LookupError):
            with any_stage.db.connection_context() as inner:
                assert inner is outer
                with pytest.raises(inner.Error):
                    add(inner, 1, 1)
                raise LookupError
        assert run(outer, "SELECT balance FROM accounts WHERE id = 1") == [(100,)]
    assert any_stage.committed() == UNTOUCHED


# -- isolation_level ------------------------------------------------------------------------------


def level_of_a_write(stage: ServerStage, connection: Any) -> str:
    """The isolation level that the server gave the transaction of a connection."""
    id_ = connection_id(connection)
    add(connection, 4, 0)
    time.sleep(0.15)  # the table is a cache, renewed once nobody has read it for 0.1 s
    ((level,),) = stage.server.query(
        "SELECT trx_isolation_level FROM information_schema.innodb_trx"
        " WHERE trx_mysql_thread_id = %s",
        id_,
    )
    return str(level)


@pytest.mark.parametrize(
    "level", ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
)
def test_isolation_level_is_that_of_the_transaction_alone(stage: ServerStage, level: str) -> None:
    """A block has the level it asks for, in each of its transactions; the next has the usual."""
    with stage.db.connection_context(isolation_level=level) as connection:
        before = connection_id(connection)
        assert level_of_a_write(stage, connection) == level
        connection.commit()
        assert level_of_a_write(stage, connection) == level
    with stage.db.connection_context() as connection:
        assert connection_id(connection) == before
        assert level_of_a_write(stage, connection) == "REPEATABLE READ"


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT nonsense", "SELECT * FROM accounts"])
@pytest.mark.parametrize("failing", [False, True])
def test_isolation_level_does_not_outlive_a_block_that_wrote_nothing(
    stage: ServerStage, sql: str, failing: bool
) -> None:
    """The level is gone with its block also where no transaction came of it."""
    with contextlib.suppress(LookupError):
        with stage.db.connection_context(isolation_level="SERIALIZABLE") as connection:
            with contextlib.suppress(connection.Error):
                run(connection, sql)
            if failing:
                raise LookupError
    with stage.db.connection_context() as connection:
        assert level_of_a_write(stage, connection) == "REPEATABLE READ"


def test_isolation_level_of_an_empty_block_costs_nothing(stage: ServerStage) -> None:
    """A block that runs nothing sends nothing."""
    scenarios.assert_fit(stage)
    stage.proxy.reset_counts()
    with stage.db.connection_context(isolation_level="SERIALIZABLE"):
        pass
    assert stage.proxy.commands == []


def test_every_isolation_level_is_had_on_sqlite(sqlite_stage: FileStage) -> None:
    """SQLite's transactions are serializable: whoever asks for less or as much has it."""
    with sqlite_stage.db.connection_context(isolation_level="SERIALIZABLE") as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert sqlite_stage.committed() == MOVED


def test_isolation_level_is_for_the_outermost_block(any_stage: Stage) -> None:
    """In a nested block the transaction has begun: asking for a level says so."""
    with any_stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with pytest.raises(UsageError, match="outermost"):
            any_stage.db.connection_context(isolation_level="SERIALIZABLE").__enter__()
        add(outer, 2, 10)
    assert any_stage.committed() == MOVED


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"isolation_level": "serializable"}, "isolation_level must be one of"),
        ({"isolation_level": "SERIALIZABLE; DROP TABLE x"}, "isolation_level must be one of"),
        ({"isolation_level": "SERIALIZABLE", "readonly": True}, "no meaning"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": "1"}, "timeout must be"),
        ({"statement_timeout": -0.1}, "statement_timeout must be"),
        ({"statement_timeout": float("nan")}, "statement_timeout must be"),
        ({"statement_timeout": True}, "statement_timeout must be"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    any_stage: Stage, options: dict[str, Any], what: str
) -> None:
    """A wrong option is an error of its own, before anything is lent."""
    with pytest.raises(UsageError, match=what):
        any_stage.db.connection_context(**options)


# -- statement_timeout and timeout ----------------------------------------------------------------


@pytest.mark.mariadb_only
def test_statement_timeout_ends_a_statement_and_is_put_back(stage: ServerStage) -> None:
    """A statement that takes longer is ended by the server; the next lease has no such limit."""
    scenarios.slow_statement(stage)


@pytest.mark.mariadb_only
def test_statement_timeout_costs_the_statement_alone(stage: ServerStage) -> None:
    """The transaction of a statement that was ended so goes on and commits."""
    with stage.db.connection_context(statement_timeout=0.2) as connection:
        add(connection, 1, -10)
        with pytest.raises(connection.Error):
            run(connection, "SELECT SLEEP(20)")
        add(connection, 2, 10)
    assert stage.committed() == MOVED


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"


def test_statement_timeout_on_sqlite(sqlite_stage: FileStage) -> None:
    """On SQLite too a statement that takes longer is ended, and the transaction goes on."""
    with sqlite_stage.db.connection_context(statement_timeout=0.1) as connection:
        add(connection, 1, -10)
        with pytest.raises(connection.OperationalError, match="interrupted"):
            run(connection, ENDLESS)
        add(connection, 2, 10)
    assert sqlite_stage.committed() == MOVED
    with sqlite_stage.db.connection_context() as connection:
        run(connection, ENDLESS.replace("FROM n)", "FROM n LIMIT 300000)"))


def test_statement_timeout_hides_no_interrupt_on_sqlite(sqlite_stage: FileStage) -> None:
    """A signal that comes while such a statement runs is what the caller sees."""
    with must_raise(SystemExit):
        with sqlite_stage.db.connection_context(statement_timeout=20) as connection:
            with scenarios.signalled(SystemExit(1), lambda: time.sleep(0.3)):
                run(connection, ENDLESS.replace("FROM n)", "FROM n LIMIT 3000000)"))
                time.sleep(10)


@pytest.mark.mariadb_only
def test_statement_timeout_of_a_nested_block_ends_with_it(stage: ServerStage) -> None:
    """Inside it holds, and the outer block has its own again."""
    limit = "SELECT @@max_statement_time + 0"
    with stage.db.connection_context(statement_timeout=9) as outer:
        assert run(outer, limit) == [(9.0,)]
        with stage.db.connection_context(statement_timeout=5) as inner:
            assert run(inner, limit) == [(5.0,)]
            with stage.db.connection_context(statement_timeout=0) as innermost:
                assert run(innermost, limit) == [(0.0,)]
            assert run(inner, limit) == [(5.0,)]
        assert run(outer, limit) == [(9.0,)]


@pytest.mark.mariadb_only
def test_statement_timeout_and_readonly_are_one_round_trip(stage: ServerStage) -> None:
    """Both are set with one statement, and none when the connection is in that state already."""
    options = {"readonly": True, "statement_timeout": 7.5}
    scenarios.assert_fit(stage)
    for expected in (2, 1):
        stage.proxy.reset_counts()
        with stage.db.connection_context(**options) as connection:
            assert run(connection, "SELECT @@max_statement_time + 0") == [(7.5,)]
        assert stage.proxy.round_trips == expected


@pytest.mark.mariadb_only
def test_the_configured_statement_timeout_is_everybody_s(
    mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """`POOLED_DB_STATEMENT_TIMEOUT` holds in every scope that asks for no other."""
    with on_server("ours", mariadb, mariadb_driver, statement_timeout=3) as stage:
        for options, expected in (({}, 3.0), ({"statement_timeout": 0}, 0.0), ({}, 3.0)):
            with stage.db.connection_context(**options) as connection:
                assert run(connection, "SELECT @@max_statement_time + 0") == [(expected,)]


def test_timeout_bounds_the_wait_for_a_connection(tmp_path: Path) -> None:
    """`timeout` stands in for the configured one; 0 waits for nothing."""
    with on_file("ours", tmp_path / "f.sqlite", maxconnections=1, acquire_timeout=100) as stage:
        with stage.db.connection_context():
            for seconds in (0, 0.1):
                started = time.monotonic()
                with pytest.raises(PoolTimeout):
                    stage.db.connection_context(timeout=seconds, independent=True).__enter__()
                assert time.monotonic() - started < 50
        assert stage.db.stats().in_use == 0


# -- binds ----------------------------------------------------------------------------------------


def test_binds_are_databases_of_their_own(tmp_path: Path) -> None:
    """A block inside a block of another bind is a transaction of its own."""
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


# -- children never share their parent's connection -----------------------------------------------


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


def test_child_tasks_have_their_own_connections(stage: ServerStage) -> None:
    """Tasks that inherit the context of a block do not inherit its connection."""
    parent, children = ids_in_child_tasks(stage)
    assert len({parent, *children}) == 3
    assert stage.db.stats().in_use == 0


def test_a_thread_of_to_thread_has_its_own_connection(stage: ServerStage) -> None:
    """`asyncio.to_thread()` copies the context, not the connection."""

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


def test_a_thread_with_a_copied_context_has_its_own_connection(any_stage: Stage) -> None:
    """`copy_context().run` in a thread copies the context, not the connection."""
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


def test_a_greenlet_has_its_own_connection(any_stage: Stage) -> None:
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


def test_a_connection_serves_one_thread_at_a_time(stage: ServerStage) -> None:
    """A connection handed to another thread, used by both at once, is an error of the second."""
    with stage.db.connection_context() as connection:
        id_ = connection_id(connection)

        def sleep() -> None:
            with pytest.raises(connection.Error):
                run(connection, "UPDATE accounts SET balance = SLEEP(20) WHERE id = 3")

        thread = stage.in_thread(sleep)
        scenarios.statement_is_sent(stage, b"UPDATE accounts SET balance = SLEEP")()
        with pytest.raises(UsageError, match="in use by another thread"):
            run(connection, "SELECT 1")
        stage.server.execute("KILL QUERY %s", id_)
        join(thread)
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED


# -- what a lease leaves to the next --------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [scenarios.autocommit_by_sql, scenarios.autocommit_by_sql_before_reading],
    ids=lambda scenario: scenario.name,
)
def test_autocommit_by_sql_does_not_harm_the_next_lease(
    stage: ServerStage, scenario: Scenario[ServerStage]
) -> None:
    """A connection whose autocommit was changed by SQL is not lent as it is."""
    scenario(stage)


def test_autocommit_is_the_scope_s(any_stage: Stage) -> None:
    """Setting it, or asking for it, on the connection is an error that says what to do."""
    with any_stage.db.connection_context() as connection:
        for change in (
            lambda: setattr(connection, "autocommit", True),
            lambda: connection.autocommit(True),
            lambda: setattr(connection, "isolation_level", None),
        ):
            with pytest.raises(UsageError):
                change()
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert any_stage.committed() == MOVED


# -- run_transaction ------------------------------------------------------------------------------


def move(connection: Any, calls: list[int]) -> str:
    """A transfer that counts how often it is begun."""
    calls.append(len(calls))
    add(connection, 1, -10)
    add(connection, 2, 10)
    return "done"


def test_run_transaction_returns_what_the_function_returns(any_stage: Stage) -> None:
    """It passes arguments on, commits, and calls once where once will do."""
    calls: list[int] = []
    assert any_stage.db.run_transaction(move, calls=calls) == "done"
    assert any_stage.committed() == MOVED
    assert calls == [0]


def test_run_transaction_starts_over_after_a_deadlock(stage: ServerStage) -> None:
    """A deadlock's victim is tried again as a whole, on whatever connection."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        add(connection, 1, -10)
        with rival(stage, [2, 3], then=1) if len(calls) == 1 else contextlib.nullcontext():
            add(connection, 2, 10)

    stage.db.run_transaction(work)
    assert calls == [0, 1]
    assert stage.committed() == MOVED


@pytest.mark.parametrize("on_timeout", ["ON", "OFF"])
def test_run_transaction_starts_over_after_a_lock_wait_timeout(
    mariadb_driver: str, on_timeout: str
) -> None:
    """1205 is tried again, whether the server rolled back the statement or the transaction."""
    calls: list[int] = []
    options = [f"--innodb-rollback-on-timeout={on_timeout}", "--innodb-lock-wait-timeout=1"]
    with MariaDBServer(options) as server, on_server("ours", server, mariadb_driver) as stage:

        def work(connection: Any) -> None:
            calls.append(len(calls))
            add(connection, 1, -10)
            with rival(stage, [2]) if len(calls) == 1 else contextlib.nullcontext():
                add(connection, 2, 10)

        stage.db.run_transaction(work)
        assert calls == [0, 1]
        assert stage.committed() == MOVED


@pytest.mark.parametrize("last", [False, True], ids=["between", "before COMMIT"])
def test_run_transaction_starts_over_after_a_lost_connection(
    stage: ServerStage, last: bool
) -> None:
    """A connection lost before COMMIT was sent is no reason to give up."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        add(connection, 1, -10)
        if len(calls) == 1 and not last:
            stage.kill(connection)
        add(connection, 2, 10)
        if len(calls) == 1 and last:
            stage.kill(connection)

    stage.db.run_transaction(work)
    assert calls == [0, 1]
    assert stage.committed() == MOVED


def test_run_transaction_starts_over_where_the_loss_was_swallowed(stage: ServerStage) -> None:
    """Also where the function swallowed the error, and the scope ended in one."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        add(connection, 1, -10)
        if len(calls) == 1:
            stage.kill(connection)
        with contextlib.suppress(connection.Error, TransactionAborted):
            add(connection, 2, 10)

    stage.db.run_transaction(work)
    assert calls == [0, 1]
    assert stage.committed() == MOVED


def test_run_transaction_never_starts_over_after_a_lost_commit(stage: ServerStage) -> None:
    """Whether that COMMIT took place is not known: doing it again might do it twice."""
    calls: list[int] = []
    stage.proxy.hold_replies_to(b"COMMIT")
    with pytest.raises(CommitOutcomeUnknown):
        stage.db.run_transaction(move, calls)
    assert calls == [0]
    assert stage.committed() == MOVED


def test_run_transaction_never_starts_over_after_an_own_commit_was_lost(
    stage: ServerStage,
) -> None:
    """The same where the function commits by itself, also where it swallows the error."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        stage.proxy.hold_replies_to(b"COMMIT")
        with contextlib.suppress(CommitOutcomeUnknown):
            connection.commit()

    with pytest.raises(CommitOutcomeUnknown):
        stage.db.run_transaction(work)
    assert calls == [0]
    assert stage.committed() == MOVED


def test_run_transaction_never_repeats_what_its_function_committed(stage: ServerStage) -> None:
    """What a function committed by itself before the loss is not done again."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        connection.commit()
        stage.kill(connection)
        add(connection, 3, 1)

    with stage.db.connection_context() as connection:
        errors = connection.Error
    with pytest.raises(errors):
        stage.db.run_transaction(work)
    assert calls == [0]
    assert stage.committed() == MOVED


@pytest.mark.parametrize("error", [LookupError(), SystemExit()], ids=repr)
def test_run_transaction_leaves_the_application_s_errors_alone(
    any_stage: Stage, error: BaseException
) -> None:
    """An error of the application rolls back and is raised, at once."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        raise error

    with pytest.raises(type(error)):
        any_stage.db.run_transaction(work)
    assert calls == [0]
    assert any_stage.committed() == UNTOUCHED


def test_run_transaction_leaves_errors_of_a_statement_alone(any_stage: Stage) -> None:
    """A duplicate key would be one again."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        move(connection, calls)
        run(connection, "INSERT INTO accounts VALUES (1, 1)")

    with pytest.raises(Exception, match=r"(?i)duplicate|unique"):
        any_stage.db.run_transaction(work)
    assert calls == [0]
    assert any_stage.committed() == UNTOUCHED


def test_run_transaction_gives_up_after_its_attempts(stage: ServerStage) -> None:
    """The last error is raised as it is."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        stage.kill(connection)
        add(connection, 1, -10)

    with stage.db.connection_context() as connection:
        errors = connection.Error
    for attempts in (1, 2):
        calls.clear()
        with pytest.raises(errors):
            stage.db.run_transaction(work, attempts=attempts)
        assert len(calls) == attempts
    for wrong in (0, True, "3"):
        with pytest.raises(UsageError, match="attempts"):
            stage.db.run_transaction(work, attempts=wrong)


def test_run_transaction_inside_a_block_is_a_nested_one(stage: ServerStage) -> None:
    """Inside a block the transaction is the outer one's: when it is gone, so is that."""
    calls: list[int] = []

    def work(connection: Any) -> None:
        calls.append(len(calls))
        with rival(stage, [2, 3], then=1):
            add(connection, 2, 10)

    with must_raise(TransactionAborted):
        with stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with pytest.raises(outer.OperationalError):
                stage.db.run_transaction(work)
    assert calls == [0]
    assert stage.committed() == UNTOUCHED


def test_run_transaction_inside_a_block_may_try_its_own_part_again(mariadb_driver: str) -> None:
    """What cost no more than the inner block is tried again, under the savepoint."""
    calls: list[int] = []
    options = ["--innodb-lock-wait-timeout=1"]
    with MariaDBServer(options) as server, on_server("ours", server, mariadb_driver) as stage:

        def work(connection: Any) -> None:
            calls.append(len(calls))
            add(connection, 3, 0)
            with rival(stage, [2]) if len(calls) == 1 else contextlib.nullcontext():
                add(connection, 2, 10)

        with stage.db.connection_context() as outer:
            add(outer, 1, -10)
            stage.db.run_transaction(work)
        assert calls == [0, 1]
        assert stage.committed() == MOVED


def test_run_transaction_retries_a_locked_sqlite_database(tmp_path: Path) -> None:
    """A database that stayed locked for longer than the busy timeout is tried again."""
    with on_file("ours", tmp_path / "f.sqlite") as maker:
        path = maker.path
    with pooled_app(f"sqlite:///{path}?timeout=0.1") as (_, db):
        holder = FileStage("ours", "sqlite", _, db, path)
        calls: list[int] = []

        def work(connection: Any) -> None:
            calls.append(len(calls))
            if len(calls) == 1:
                with holder.db.connection_context(independent=True) as other:
                    add(other, 3, 0)
                    add(connection, 1, -10)
            add(connection, 1, -10)
            add(connection, 2, 10)

        db.run_transaction(work)
        assert calls == [0, 1]
        assert holder.committed() == MOVED
