"""Statements and their parameters."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from harness.workloads import add, run
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage


@pytest.mark.mariadb_only
def test_returning_is_committed(stage: ServerStage) -> None:
    """`INSERT … RETURNING` returns rows and is committed."""
    with stage.db.connection_context() as connection:
        assert run(connection, "INSERT INTO accounts VALUES (9, 9) RETURNING id") == [(9,)]
    assert stage.committed() == {**UNTOUCHED, 9: 9}


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=TEXT | st.sampled_from(["%", "%%", "%s", "%(a)s", "\\", "'", '"', "?", ":a", "\0"]))
def test_text_parameters(any_stage: Stage, text: str) -> None:
    """Any text passes through a parameter unchanged, beside a literal `%%`."""
    assume("\0" not in text or any_stage.driver != "psycopg")  # whose server has no such text
    with any_stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT %s, '100%%', '%%s'", (text,))
        assert cursor.fetchall() in ([(text, "100%", "%s")], ((text, "100%", "%s"),))
        cursor.execute("SELECT %(text)s, '100%%'", {"text": text})
        assert tuple(cursor.fetchone()) == (text, "100%")
        cursor.close()


def test_statement_without_parameters(any_stage: Stage) -> None:
    """A statement without parameters is sent unchanged, percent signs included."""
    with any_stage.db.connection_context() as connection:
        cursor = connection.cursor()
        for arguments in ((), (None,)):
            cursor.execute("SELECT '100%', '%%', '%s'", *arguments)
            assert tuple(cursor.fetchone()) == ("100%", "%%", "%s")
        cursor.close()


class Strange(list):  # type: ignore[type-arg]
    """Parameters, or a row, that can't be compared, as an array can't."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None


def test_strange_parameters(any_stage: Stage) -> None:
    """Parameters are never compared: an array in their place is as good as a list."""
    with any_stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT %s, %s", Strange([1, "x"]))
        assert tuple(cursor.fetchone()) == (1, "x")
        cursor.close()
        cursor = connection.cursor()
        cursor.executemany("UPDATE accounts SET balance = %s WHERE id = %s", [Strange([7, 1])])
        cursor.close()
    assert any_stage.committed() == {**UNTOUCHED, 1: 7}


def test_strange_rows(sqlite_stage: FileStage) -> None:
    """Rows are never compared: a cursor may be iterated over whatever they are."""
    with sqlite_stage.db.connection_context() as connection:
        found = connection.execute("SELECT %s", Strange([1]))  # the driver's own short cut
        assert found.fetchone() == (1,)
        cursor = connection.cursor()
        cursor.row_factory = lambda _, row: Strange(row)
        cursor.execute("SELECT id FROM accounts ORDER BY id")
        assert [row[0] for row in cursor] == list(UNTOUCHED)


def test_executemany(any_stage: Stage) -> None:
    """`executemany()` takes the same placeholders, and is part of the transaction."""
    with must_raise(LookupError):
        with any_stage.db.connection_context() as connection:
            connection.cursor().executemany(
                "UPDATE accounts SET balance = balance + %s WHERE id = %s", [(1, 1), (2, 2)]
            )
            rows = run(connection, "SELECT balance FROM accounts WHERE id < 3 ORDER BY id")
            assert rows == [(101,), (102,)]
            raise LookupError
    assert any_stage.committed() == UNTOUCHED


def test_sqlite_read_then_write(sqlite_stage: FileStage) -> None:
    """A transaction on SQLite that read first can write later, even if another one wrote in
    between.
    """
    with sqlite_stage.db.connection_context() as connection:
        run(connection, "SELECT * FROM accounts")
        other = sqlite3.connect(sqlite_stage.path)
        with other:
            other.execute("UPDATE accounts SET balance = 7 WHERE id = 3")
        other.close()
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert sqlite_stage.committed() == {**MOVED, 3: 7}
