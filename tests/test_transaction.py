"""The transaction scope, promises T1 to T5, T7 and T8: commit, rollback, and nothing in between."""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_pooled_db import CommitOutcomeUnknown, TransactionAborted, UsageError, get_db_connection
from flask_pooled_db.dbapi import DriverAttribute, DriverException
from tests.support import scenarios
from tests.support.scenarios import MOVED, Scenario, add, must_raise, rival, run
from tests.support.server import MariaDBServer
from tests.support.sockets import is_readable
from tests.support.stages import (
    UNTOUCHED,
    FileStage,
    ServerStage,
    Stage,
    join,
    on_server,
)
from tests.support.workloads import connection_id


@pytest.fixture
def play_on_own_server(mariadb_driver: str) -> Callable[[Scenario[Any]], None]:
    """Plays a scenario with our pool on a server started with the options that it needs."""

    def play(scenario: Scenario[Any]) -> None:
        with (
            MariaDBServer(scenario.options) as server,
            on_server("ours", server, mariadb_driver) as stage,
        ):
            scenario(stage)

    return play


# -- T1: commits or rolls back, and releases once -------------------------------------------------


def test_t1_left_normally_it_commits(any_stage: Stage) -> None:
    """A block that is left normally has committed."""
    scenarios.left_normally(any_stage)


def test_t1_left_by_an_exception_it_rolls_back(any_stage: Stage) -> None:
    """A block left by an exception, of whatever kind, has rolled back."""
    scenarios.left_by_an_exception(any_stage)


@pytest.mark.parametrize("error", [None, ValueError(), SystemExit(), GeneratorExit()], ids=repr)
def test_t1_the_connection_is_released_exactly_once(
    any_stage: Stage, error: BaseException | None
) -> None:
    """However a block is left, its connection is idle afterwards, and counted once."""
    for _ in range(3):
        with contextlib.suppress(type(error) if error else LookupError):
            with any_stage.db.connection_context() as connection:
                add(connection, 1, 0)
                assert any_stage.db.stats().in_use == 1
                if error:
                    raise error
    stats = any_stage.db.stats()
    assert (stats.in_use, stats.idle, stats.open, stats.checkouts) == (0, 1, 1, 3)


def test_t1_a_write_that_sqlite3_takes_for_none_is_rolled_back(sqlite_stage: FileStage) -> None:
    """A write that begins with WITH, or creates a table, is rolled back like any other."""
    scenarios.first_statement_is_no_plain_one(sqlite_stage)


def test_t1_a_script_is_a_part_of_the_transaction(sqlite_stage: FileStage) -> None:
    """`executescript()` commits nothing by itself."""
    with must_raise(LookupError):
        with sqlite_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            connection.cursor().executescript(
                "UPDATE accounts SET balance = 0; CREATE TABLE more (a TEXT DEFAULT ';');"
            )
            raise LookupError
    assert sqlite_stage.committed() == UNTOUCHED
    with sqlite_stage.db.connection_context() as connection:
        connection.cursor().executescript(
            "-- a; b\nCREATE TABLE more (a); INSERT INTO more VALUES (';')"
        )
    with sqlite_stage.db.connection_context() as connection:
        assert run(connection, "SELECT a FROM more") == [(";",)]


def test_t1_a_block_is_entered_once(any_stage: Stage) -> None:
    """One `db_connection_context()` is one transaction: it can't be entered again."""
    scope = any_stage.db.connection_context()
    with scope:
        with pytest.raises(UsageError, match="entered once"):
            scope.__enter__()
    with pytest.raises(UsageError, match="left already"):
        scope.__exit__(None, None, None)
    with pytest.raises(UsageError, match="entered once"):
        scope.__enter__()


def test_t1_a_cursor_that_can_not_be_made_costs_nothing(any_stage: Stage) -> None:
    """Of a cursor the server learns nothing: wrong arguments are the caller's to correct, and the
    transaction goes on.
    """
    with any_stage.db.connection_context() as connection:
        add(connection, 1, -10)
        with pytest.raises(TypeError):
            connection.cursor(no_such_option=True)
        add(connection, 2, 10)
    assert any_stage.committed() == MOVED


# -- T2: the caller's exception -------------------------------------------------------------------


def test_t2_a_failing_rollback_is_logged_and_never_raised(
    stage: ServerStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the rollback fails too, the caller sees its own exception, and the log the other."""
    with caplog.at_level(logging.WARNING, "flask_pooled_db"):
        scenarios.rollback_fails(stage)
    assert "Rolling back a connection failed" in caplog.text


@pytest.mark.slow
def test_t2_a_rollback_that_hangs_is_cut_short(
    server: MariaDBServer, mariadb_driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that never answers the ROLLBACK does not keep the caller's exception from it."""
    with on_server("ours", server, mariadb_driver, connect_timeout=1) as stage:
        try:
            with caplog.at_level(logging.WARNING, "flask_pooled_db"), must_raise(LookupError):
                with stage.db.connection_context() as connection:
                    add(connection, 1, -10)
                    stage.proxy.deaf()
                    raise LookupError
        finally:
            stage.proxy.hear()
        assert "Rolling back a connection failed" in caplog.text
        assert stage.db.stats().in_use == 0


@pytest.mark.parametrize("close", [True, False])
def test_t2_closing_a_cursor_hides_no_error(stage: ServerStage, close: bool) -> None:
    """A cursor closed in a `finally` does not replace the error that ended the transaction."""
    with must_raise(stage_errors(stage)) as caught:
        with stage.db.connection_context() as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.fetchall()
            stage.kill(connection)
            try:
                if close:
                    cursor.execute("SELECT 2")
                else:
                    with cursor:
                        cursor.execute("SELECT 2")
            finally:
                cursor.close()
    assert not isinstance(caught[0], TransactionAborted)


def stage_errors(stage: Stage) -> type[Exception]:
    """The root of the driver's errors."""
    with stage.db.connection_context() as connection:
        error: type[Exception] = connection.Error
    return error


# -- T3, T4: a transaction that is gone -----------------------------------------------------------


def test_t3_no_statement_is_sent_twice(stage: ServerStage) -> None:
    """A statement whose answer was lost is not sent again."""
    scenarios.nothing_is_sent_twice(stage)


def test_t3_a_lease_never_goes_on_with_another_connection(stage: ServerStage) -> None:
    """A lease that has only read so far ends with its connection too."""
    scenarios.killed_before_the_first_write(stage)
    stage.proxy.reset_counts()
    with contextlib.suppress(TransactionAborted):
        with stage.db.connection_context() as connection:
            stage.kill(connection)
            for _ in range(3):
                with pytest.raises((connection.Error, TransactionAborted)):
                    run(connection, "SELECT 1")
    assert len({command.connection for command in stage.proxy.commands}) <= 1
    assert stage.proxy.connections <= 1


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.killed_between_two_updates,
        scenarios.killed_and_swallowed,
        scenarios.cut_between_two_updates,
        scenarios.deadlock,
        scenarios.deadlock_swallowed,
    ],
    ids=lambda scenario: scenario.name,
)
def test_t4_a_lost_transaction_ends_in_an_error(
    stage: ServerStage, scenario: Scenario[ServerStage]
) -> None:
    """Raised or swallowed, the loss of a transaction ends its scope in an error: no half of it
    is committed.
    """
    scenario(stage)


def test_t4_a_lock_wait_timeout_that_rolled_back_ends_in_an_error(
    play_on_own_server: Callable[[Scenario[Any]], None],
) -> None:
    """With innodb_rollback_on_timeout, a swallowed 1205 ends the scope in an error."""
    play_on_own_server(scenarios.lock_wait_timeout_that_rolls_back)


def test_t4_a_lock_wait_timeout_costs_the_statement_alone(
    play_on_own_server: Callable[[Scenario[Any]], None],
) -> None:
    """By default a swallowed 1205 leaves the transaction alive: it goes on and commits."""
    play_on_own_server(scenarios.lock_wait_timeout)


def test_t4_a_failed_statement_costs_itself_alone(any_stage: Stage) -> None:
    """A duplicate key or a wrong column leaves the transaction alive."""
    scenarios.statement_failed(any_stage)


def test_t4_a_killed_statement_costs_itself_alone(stage: ServerStage) -> None:
    """KILL QUERY ends the statement; the transaction goes on and commits."""
    with stage.db.connection_context() as connection:
        id_ = connection_id(connection)
        add(connection, 1, -10)

        def kill() -> None:
            scenarios.statement_is_sent(stage, b"UPDATE accounts SET balance = SLEEP")()
            stage.server.execute("KILL QUERY %s", id_)

        killer = stage.in_thread(kill)
        with pytest.raises(connection.Error):
            run(connection, "UPDATE accounts SET balance = SLEEP(20) WHERE id = 3")
        join(killer)
        add(connection, 2, 10)
    assert stage.committed() == MOVED


@pytest.mark.mariadb_only
def test_t4_a_changed_snapshot_that_rolled_back_ends_in_an_error(stage: ServerStage) -> None:
    """1020, with innodb_snapshot_isolation: whatever the server made of the transaction, the
    scope does not commit a part of it.
    """
    if not stage.server.query("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'"):
        pytest.skip("this server has no innodb_snapshot_isolation")
    try:
        with stage.db.connection_context() as connection:
            run(connection, "SET SESSION innodb_snapshot_isolation = ON")
            run(connection, "SELECT * FROM accounts")
            add(connection, 1, -10)
            stage.server.execute(f"UPDATE `{stage.database}`.accounts SET balance = 7 WHERE id = 3")
            with pytest.raises(connection.OperationalError, match="changed since"):
                add(connection, 3, 1)
            with contextlib.suppress(TransactionAborted):
                add(connection, 2, 10)
    except TransactionAborted:
        expected = UNTOUCHED
    else:
        expected = MOVED
    assert stage.committed() == {**expected, 3: 7}


def test_t4_sqlite_rolling_back_by_itself_ends_in_an_error(sqlite_stage: FileStage) -> None:
    """Where SQLite ends the transaction by itself, a scope that swallowed it commits nothing."""
    scenarios.database_rolls_back(sqlite_stage)


def test_t4_the_error_names_the_first_one(stage: ServerStage) -> None:
    """What every further use raises, and the end of the scope too, has the first error as cause."""
    with must_raise(TransactionAborted) as at_end:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            with pytest.raises(connection.Error) as first:
                add(connection, 2, 10)
            for use in (connection.cursor, connection.commit, connection.ping):
                with pytest.raises(TransactionAborted) as further:
                    use()
                assert further.value.__cause__ is first.value
    assert at_end[0].__cause__ is first.value


def test_t4_a_loss_in_a_nested_block_is_the_outer_block_s_too(stage: ServerStage) -> None:
    """A deadlock swallowed around an inner block ends the outer block in an error."""
    with must_raise(TransactionAborted):
        with stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with rival(stage, holds=[2, 3], then=1):
                with pytest.raises(outer.OperationalError):
                    with stage.db.connection_context() as inner:
                        add(inner, 2, 10)
            with pytest.raises(TransactionAborted):
                add(outer, 2, 10)
            with pytest.raises(TransactionAborted):
                with stage.db.connection_context() as inner:
                    add(inner, 2, 10)
    assert stage.committed() == UNTOUCHED


def test_t4_the_other_connections_of_the_pool_are_unharmed(stage: ServerStage) -> None:
    """A scope that lost its connection costs one connection, and nothing else is lent of it."""
    with contextlib.suppress(TransactionAborted):
        with stage.db.connection_context() as connection:
            stage.kill(connection)
            with pytest.raises(connection.Error):
                run(connection, "SELECT 1")
    scenarios.assert_fit(stage)
    stats = stage.db.stats()
    assert (stats.in_use, stats.discarded) == (0, 1)


def test_t4_an_app_context_that_ends_first_takes_the_work_with_it(any_stage: Stage) -> None:
    """A block that outlives its app context ends in an error: its work was rolled back."""
    with any_stage.app.app_context() as context:
        scope = any_stage.db.connection_context()
        add(scope.__enter__(), 1, -10)
    assert not context.g.__dict__
    with pytest.raises(TransactionAborted, match="app context"):
        scope.__exit__(None, None, None)
    assert any_stage.committed() == UNTOUCHED
    assert any_stage.db.stats().in_use == 0


# -- T5: COMMIT ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [scenarios.commit_answer_lost, scenarios.commit_lost, scenarios.killed_before_commit],
    ids=lambda scenario: scenario.name,
)
def test_t5_doubt_about_a_commit_is_told(
    stage: ServerStage, scenario: Scenario[ServerStage]
) -> None:
    """`CommitOutcomeUnknown` is raised where COMMIT was sent and not answered, and only there."""
    scenario(stage)


def test_t5_a_commit_refused_by_the_server_is_the_driver_s_error(
    play_on_own_server: Callable[[Scenario[Any]], None],
) -> None:
    """A COMMIT that the server refuses leaves no doubt, no lock and no change."""
    play_on_own_server(scenarios.commit_refused)


def test_t5_a_commit_refused_by_a_constraint_is_the_driver_s_error(
    sqlite_stage: FileStage,
) -> None:
    """A deferred constraint that fails at COMMIT leaves no doubt and no change."""
    scenarios.commit_refused_by_a_constraint(sqlite_stage)


def test_t5_an_own_commit_whose_answer_is_lost_is_told_too(stage: ServerStage) -> None:
    """`conn.commit()` raises it as the end of the scope does; swallowed, the doubt stays."""
    with must_raise(CommitOutcomeUnknown) as at_end:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.hold_replies_to(b"COMMIT")
            with pytest.raises(CommitOutcomeUnknown) as caught:
                connection.commit()
            assert isinstance(caught.value.__cause__, connection.Error)
            with pytest.raises(CommitOutcomeUnknown):
                add(connection, 3, 1)
    assert at_end[0].__cause__ is caught.value.__cause__
    assert stage.committed() == MOVED


def test_t10_a_tls_ticket_before_commit_is_not_the_end_of_the_connection(
    tls_mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """A session ticket makes the socket readable as its end would, and the server is still there:
    the block commits.
    """
    with on_server("ours", tls_mariadb, mariadb_driver) as stage:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.send_tickets()
            assert is_readable(stage.db.pool().driver.fileno(connection._con.raw))
        assert stage.committed() == MOVED


# -- T7: after release ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.cursor_used_after_release,
        scenarios.rows_fetched_after_release,
        scenarios.connection_used_after_release,
    ],
    ids=lambda scenario: scenario.name,
)
def test_t7_nothing_works_after_release(any_stage: Stage, scenario: Scenario[Stage]) -> None:
    """What outlived its block can't touch what another one now holds."""
    scenario(any_stage)


def test_t7_every_way_in_is_closed_after_release(any_stage: Stage) -> None:
    """Each method and attribute of a released connection and cursor refuses; closing is fine."""
    with any_stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM accounts")
        assert cursor.connection is connection
    uses: list[Callable[[], object]] = [
        lambda: cursor.execute("SELECT 1"),
        lambda: cursor.executemany("SELECT %s", [(1,)]),
        cursor.fetchone,
        cursor.fetchmany,
        cursor.fetchall,
        lambda: list(cursor),
        lambda: next(cursor),
        lambda: cursor.description,
        cursor.connection.cursor,
        connection.cursor,
        connection.commit,
        connection.rollback,
        connection.begin,
        connection.ping,
        connection.__enter__,
    ]
    the_drivers = [
        name
        for name, value in vars(type(connection)).items()
        if isinstance(value, DriverAttribute) and not isinstance(value, DriverException)
    ]
    assert the_drivers
    uses += [functools.partial(getattr, connection, name) for name in the_drivers]
    for use in uses:
        with pytest.raises(UsageError, match="was released"):
            use()
    cursor.close()
    connection.close()
    assert issubclass(connection.IntegrityError, connection.Error)


def test_t7_holds_for_get_db_connection(any_stage: Stage) -> None:
    """`close()` ends what `get_db_connection()` lent, once and for all; uncommitted work goes."""
    connection = get_db_connection()
    cursor = connection.cursor()
    add(connection, 1, -10)
    connection.close()
    connection.close()
    for use in (connection.cursor, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(UsageError, match="was released"):
            use()
    assert any_stage.committed() == UNTOUCHED
    assert any_stage.db.stats().in_use == 0


def test_t7_a_scope_s_connection_is_not_closed_by_hand(any_stage: Stage) -> None:
    """`close()` inside a block says so: the block releases its connection itself."""
    with any_stage.db.connection_context() as connection:
        with pytest.raises(UsageError, match="remove the call"):
            connection.close()
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert any_stage.committed() == MOVED


# -- T8: commit() and rollback() ------------------------------------------------------------------


def test_t8_commit_and_rollback_work_in_the_outermost_block(any_stage: Stage) -> None:
    """What `commit()` ended stays, what `rollback()` ended is gone, and the block goes on."""
    with must_raise(LookupError):
        with any_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            connection.rollback()
            add(connection, 1, -10)
            add(connection, 2, 10)
            connection.commit()
            assert any_stage.committed() == MOVED
            add(connection, 3, 5)
            raise LookupError
    assert any_stage.committed() == MOVED


def test_t8_commit_and_rollback_raise_in_a_nested_block(any_stage: Stage) -> None:
    """In a nested block they would end the outer transaction: they raise, and all goes on."""
    with any_stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with any_stage.db.connection_context() as inner:
            for use in (inner.commit, inner.rollback, outer.commit):
                with pytest.raises(UsageError, match="nested"):
                    use()
            add(inner, 2, 10)
        assert any_stage.committed() == UNTOUCHED
    assert any_stage.committed() == MOVED


def test_t8_rollback_accepts_the_loss_of_a_transaction(stage: ServerStage) -> None:
    """After a deadlock, `rollback()` in the outermost block makes the connection usable again."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -50)
        with rival(stage, holds=[2, 3], then=1):
            with pytest.raises(connection.OperationalError):
                add(connection, 2, 50)
        connection.rollback()
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED


def test_t8_rollback_does_not_bring_back_a_lost_connection(stage: ServerStage) -> None:
    """A lost connection stays lost, whatever is called."""
    with must_raise(TransactionAborted):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            with pytest.raises(connection.Error):
                add(connection, 2, 10)
            with pytest.raises(TransactionAborted):
                connection.rollback()
            with pytest.raises(TransactionAborted):
                add(connection, 2, 10)
    assert stage.committed() == UNTOUCHED


# -- round trips ----------------------------------------------------------------------------------


def warm(stage: ServerStage, **options: Any) -> None:
    """Have a connection in the pool, and forget what that took."""
    with stage.db.connection_context(**options) as connection:
        run(connection, "SELECT 1")
    stage.proxy.reset_counts()


def test_round_trips_of_an_empty_block(stage: ServerStage) -> None:
    """A block that runs nothing sends nothing."""
    warm(stage)
    with stage.db.connection_context() as connection:
        connection.cursor().close()
    assert stage.proxy.commands == []


@pytest.mark.parametrize("statements", [1, 2, 5])
def test_round_trips_of_n_statements(stage: ServerStage, statements: int) -> None:
    """n statements take n + 1: the last is COMMIT, and no ROLLBACK comes after it."""
    warm(stage)
    with stage.db.connection_context() as connection:
        for _ in range(statements):
            add(connection, 1, 1)
    assert stage.proxy.round_trips == statements + 1
    assert stage.proxy.commands[-1].starts_with(b"COMMIT")


def test_round_trips_of_a_rollback(stage: ServerStage) -> None:
    """n statements and their rollback take n + 1."""
    warm(stage)
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            add(connection, 1, 1)
            raise LookupError
    assert stage.proxy.round_trips == 2
    assert stage.proxy.commands[-1].starts_with(b"ROLLBACK")


def test_round_trips_of_readonly(stage: ServerStage) -> None:
    """n statements in a readonly block take n, once the connection is in that mode."""
    warm(stage, readonly=True)
    with stage.db.connection_context(readonly=True) as connection:
        for _ in range(3):
            run(connection, "SELECT * FROM accounts")
    assert stage.proxy.round_trips == 3


def test_round_trips_of_a_commit_that_is_not_needed(mariadb: MariaDBServer) -> None:
    """Where the driver truly knows that no transaction is open, there is no COMMIT to send."""
    with on_server("ours", mariadb, "mariadbconnector") as stage:
        warm(stage)
        with stage.db.connection_context() as connection:
            run(connection, "SELECT 1")
        assert stage.proxy.round_trips == 1
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            connection.commit()
            run(connection, "SELECT 1")
        assert stage.committed() == MOVED


@pytest.mark.mariadb_only
def test_rows_returned_by_a_write_are_committed(stage: ServerStage) -> None:
    """`INSERT … RETURNING` returns rows and is committed all the same."""
    with stage.db.connection_context() as connection:
        assert run(connection, "INSERT INTO accounts VALUES (9, 9) RETURNING id") == [(9,)]
    assert stage.committed() == {**UNTOUCHED, 9: 9}


# -- parameters -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=TEXT | st.sampled_from(["%", "%%", "%s", "%(a)s", "\\", "'", '"', "?", ":a", "\0"]))
def test_text_goes_in_and_comes_out_as_it_was(any_stage: Stage, text: str) -> None:
    """Any text is a parameter like any other, beside a literal percent sign written `%%`."""
    with any_stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT %s, '100%%', '%%s'", (text,))
        assert cursor.fetchall() in ([(text, "100%", "%s")], ((text, "100%", "%s"),))
        cursor.execute("SELECT %(text)s, '100%%'", {"text": text})
        assert tuple(cursor.fetchone()) == (text, "100%")
        cursor.close()


def test_a_statement_without_parameters_is_sent_as_it_is(any_stage: Stage) -> None:
    """Without parameters there are no placeholders, and a percent sign is a percent sign."""
    with any_stage.db.connection_context() as connection:
        cursor = connection.cursor()
        for arguments in ((), (None,)):
            cursor.execute("SELECT '100%', '%%', '%s'", *arguments)
            assert tuple(cursor.fetchone()) == ("100%", "%%", "%s")
        cursor.close()


def test_many_sets_of_parameters(any_stage: Stage) -> None:
    """`executemany()` takes the same placeholders, and is a part of the transaction."""
    with must_raise(LookupError):
        with any_stage.db.connection_context() as connection:
            connection.cursor().executemany(
                "UPDATE accounts SET balance = balance + %s WHERE id = %s", [(1, 1), (2, 2)]
            )
            rows = run(connection, "SELECT balance FROM accounts WHERE id < 3 ORDER BY id")
            assert rows == [(101,), (102,)]
            raise LookupError
    assert any_stage.committed() == UNTOUCHED


def test_sqlite_waits_for_its_lock_at_the_first_write(sqlite_stage: FileStage) -> None:
    """A transaction that read first can write later, also when another wrote in between."""
    with sqlite_stage.db.connection_context() as connection:
        run(connection, "SELECT * FROM accounts")
        other = sqlite3.connect(sqlite_stage.path)
        with other:
            other.execute("UPDATE accounts SET balance = 7 WHERE id = 3")
        other.close()
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert sqlite_stage.committed() == {**MOVED, 3: 7}
