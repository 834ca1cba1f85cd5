"""Work that ROLLBACK TO SAVEPOINT has undone by text is not told as lost."""

from __future__ import annotations

import pytest

from flask_pooled_db import get_db_connection
from tests.support.sites import warnings_in
from tests.support.stages import Stage

INSERT = "INSERT INTO accounts VALUES (9, 9)"


def warned_of(statements: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> bool:
    conn = get_db_connection()
    for statement in statements:
        if statement == "commit":
            conn.commit()
        else:
            quote = '"' if conn.driver.name == "psycopg" else "`"
            conn.cursor().execute(statement.replace("`", quote))
    conn.close()
    return any("was rolled back" in warning for warning in warnings_in(caplog))


@pytest.mark.parametrize(
    "statements",
    [
        ("SAVEPOINT a", INSERT, "ROLLBACK TO SAVEPOINT a"),
        ("savepoint A;", INSERT, "rollback to a"),
        ("SAVEPOINT a", "SAVEPOINT b", INSERT, "ROLLBACK TO a"),
        ("SAVEPOINT a", INSERT, "SAVEPOINT b", INSERT.replace("9", "8"), "ROLLBACK TO a"),
        ("SAVEPOINT a", INSERT, "ROLLBACK TO a", "SAVEPOINT `b`", INSERT, "ROLLBACK TO b"),
    ],
)
def test_t10_work_undone_by_savepoint(
    any_stage: Stage, statements: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """What was undone to a savepoint in front of all work is not lost."""
    assert not warned_of(statements, caplog)


@pytest.mark.parametrize(
    "statements",
    [
        (INSERT, "SAVEPOINT a", "UPDATE accounts SET balance = 1", "ROLLBACK TO a"),
        ("SAVEPOINT a", INSERT, "SAVEPOINT a", "DELETE FROM accounts", "ROLLBACK TO a"),
        ("SAVEPOINT a", INSERT, "SAVEPOINT b", "ROLLBACK TO b"),
        ("SAVEPOINT a", INSERT, "ROLLBACK TO a", INSERT),
        ("SAVEPOINT a", "commit", INSERT, "SAVEPOINT a", "ROLLBACK TO a"),
    ],
)
def test_t10_work_before_savepoint(
    any_stage: Stage, statements: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """What was written before the savepoint, or after it was undone, is lost."""
    assert warned_of(statements, caplog)
