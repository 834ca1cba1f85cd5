"""Statements and their parameters."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.workloads import add, run
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import (
    UNTOUCHED,
    FileStage,
    ServerStage,
    Stage,
)


@pytest.mark.mariadb_only
def test_rows_returned_by_a_write_are_committed(stage: ServerStage) -> None:
    """`INSERT … RETURNING` returns rows and is committed all the same."""
    with stage.db.connection_context() as connection:
        assert run(connection, "INSERT INTO accounts VALUES (9, 9) RETURNING id") == [(9,)]
    assert stage.committed() == {**UNTOUCHED, 9: 9}


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
