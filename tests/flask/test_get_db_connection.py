"""get_db_connection: a connection that `close()` gives back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from flask import Flask

from flask_pooled_db import (
    PooledDB,
    PoolTimeout,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from tests.support.apps import pooled_app
from tests.support.sites import ids, insert


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


def test_with_statement(app_context: PooledDB) -> None:
    """`with get_db_connection() as conn` releases the connection and does not commit."""
    with get_db_connection() as conn:
        insert(conn, 1)
    assert ids() == []
    with contextlib.suppress(LookupError), get_db_connection() as conn:
        insert(conn, 2)
        conn.commit()
        raise LookupError
    assert ids() == [2]
    assert app_context.stats().in_use == 0


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
