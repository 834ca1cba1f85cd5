"""get_db_connection: a connection that `close()` gives back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from flask import (
    Flask,
)

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


def test_close_rolls_back_what_was_not_committed(app_context: PooledDB) -> None:
    """As PEP 249 says."""
    conn = get_db_connection()
    insert(conn, 1)
    conn.commit()
    insert(conn, 2)
    conn.close()
    assert ids() == [1]
    assert app_context.stats().in_use == 0


def test_closing_twice_is_harmless(app_context: PooledDB) -> None:
    """The connection is given back once, whoever has it by then."""
    conn = get_db_connection()
    conn.close()
    other = get_db_connection()
    conn.close()
    assert app_context.stats().in_use == 1
    insert(other, 1)
    other.close()


def test_with_closes_and_does_not_commit(app_context: PooledDB) -> None:
    """`with get_db_connection() as conn` gives it back; committing is the code's own affair."""
    with get_db_connection() as conn:
        insert(conn, 1)
    assert ids() == []
    with contextlib.suppress(LookupError), get_db_connection() as conn:
        insert(conn, 2)
        conn.commit()
        raise LookupError
    assert ids() == [2]
    assert app_context.stats().in_use == 0


def test_rollback_goes_on_with_the_same_connection(app_context: PooledDB) -> None:
    """A connection serves one transaction after the other."""
    with get_db_connection() as conn:
        insert(conn, 1)
        conn.rollback()
        insert(conn, 2)
        conn.commit()
    assert ids() == [2]
    assert app_context.stats().connects == 1


def test_each_call_is_a_connection_of_its_own(app_context: PooledDB) -> None:
    """It is no scope: it joins none, and none joins it."""
    with db_connection_context() as outer, get_db_connection() as conn:
        assert conn is not outer
        with get_db_connection() as other:
            assert other is not conn
            assert app_context.stats().in_use == 3


def test_begin_is_taken_where_no_transaction_is_open(app_context: PooledDB) -> None:
    """Code that begins explicitly runs as it is; in the middle of a transaction it is refused."""
    with get_db_connection() as conn:
        conn.begin()
        insert(conn, 1)
        with pytest.raises(UsageError, match="open transaction"):
            conn.begin()
        conn.commit()
        conn.begin()
        conn.rollback()
    assert ids() == [1]


def test_timeout_is_how_long_it_waits(url: str) -> None:
    """An exhausted pool is told after `timeout` seconds."""
    with pooled_app(url, maxconnections=1, acquire_timeout=60), get_db_connection():
        with pytest.raises(PoolTimeout) as caught:
            get_db_connection(timeout=0.01)
    assert caught.value.waited < 30
