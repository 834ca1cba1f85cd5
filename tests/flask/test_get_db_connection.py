"""get_db_connection: a connection that `close()` gives back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from flask import Flask

from flask_pooled_db import (
    PooledDB,
    PoolTimeout,
    TransactionAborted,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from flask_pooled_db.pool import Entry
from tests.support.apps import pooled_app
from tests.support.sites import ids, insert, warnings_in


@pytest.fixture
def app_context(site: tuple[Flask, PooledDB]) -> Iterator[PooledDB]:
    """The extension, inside the app's context."""
    with site[0].app_context():
        yield site[1]


def test_close_rolls_back(app_context: PooledDB) -> None:
    """`conn.close()` rolls back what was not committed, as PEP 249 says."""
    conn = get_db_connection()
    insert(conn, 1)
    conn.commit()
    insert(conn, 2)
    conn.close()
    assert ids() == [1]
    assert app_context.stats().in_use == 0


def test_close_twice(app_context: PooledDB) -> None:
    """A second `conn.close()` does nothing, whoever has the connection by then."""
    conn = get_db_connection()
    conn.close()
    other = get_db_connection()
    conn.close()
    assert app_context.stats().in_use == 1
    insert(other, 1)
    other.close()


def test_t1_with_statement(app_context: PooledDB) -> None:
    """`with get_db_connection() as conn` commits if left normally, rolls back if left by an
    exception, and gives the connection back.
    """
    with get_db_connection() as conn:
        insert(conn, 1)
    assert ids() == [1]
    with contextlib.suppress(LookupError), get_db_connection() as conn:
        insert(conn, 2)
        conn.commit()
        insert(conn, 3)
        raise LookupError
    assert ids() == [1, 2]
    assert app_context.stats().in_use == 0
    with pytest.raises(UsageError, match="closed"):
        conn.cursor()


def test_t1_close_in_with_statement(
    app_context: PooledDB, caplog: pytest.LogCaptureFixture
) -> None:
    """`close()` inside the block ends it: what was not committed by then is rolled back."""
    with get_db_connection() as conn:
        insert(conn, 1)
        conn.commit()
        insert(conn, 2)
        conn.close()
    assert ids() == [1]
    assert len(warnings_in(caplog)) == 1
    assert app_context.stats().in_use == 0


def test_t1_with_statement_taken_back(site: tuple[Flask, PooledDB]) -> None:
    """A block whose connection was taken back before its end says so."""
    with site[0].app_context():
        conn = get_db_connection()
        conn.__enter__()
        insert(conn, 1)
    with pytest.raises(TransactionAborted, match="taken back"):
        conn.__exit__(None, None, None)


def test_t2_with_statement(app_context: PooledDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller sees its own exception, also when the rollback fails."""
    monkeypatch.setattr(Entry, "roll_back", lambda _: 1 / 0)

    def work() -> None:
        with get_db_connection() as conn:
            insert(conn, 1)
            raise LookupError

    with pytest.raises(LookupError):
        work()
    monkeypatch.undo()
    assert ids() == []


def test_rollback(app_context: PooledDB) -> None:
    """After `rollback()` the same connection serves the next transaction."""
    with get_db_connection() as conn:
        insert(conn, 1)
        conn.rollback()
        insert(conn, 2)
        conn.commit()
    assert ids() == [2]
    assert app_context.stats().connects == 1


def test_independent_calls(app_context: PooledDB) -> None:
    """Each call of get_db_connection() returns a connection of its own."""
    with db_connection_context() as outer, get_db_connection() as conn:
        assert conn is not outer
        with get_db_connection() as other:
            assert other is not conn
            assert app_context.stats().in_use == 3


def test_begin(app_context: PooledDB) -> None:
    """`begin()` is accepted unless a transaction is open."""
    with get_db_connection() as conn:
        conn.begin()
        insert(conn, 1)
        with pytest.raises(UsageError, match="open transaction"):
            conn.begin()
        conn.commit()
        conn.begin()
        conn.rollback()
    assert ids() == [1]


def test_timeout(url: str) -> None:
    """An exhausted pool raises after `timeout` seconds."""
    with pooled_app(url, maxconnections=1, acquire_timeout=60), get_db_connection():
        with pytest.raises(PoolTimeout) as caught:
            get_db_connection(timeout=0.01)
    assert caught.value.waited < 30
