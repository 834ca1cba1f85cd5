"""PostgreSQL through psycopg: the transaction promises, and what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from flask import Flask

from flask_pooled_db import (
    CommitOutcomeUnknown,
    PooledDB,
    TransactionAborted,
    db_connection_context,
    get_db_connection,
)
from harness.sockets import free_port
from harness.waiting import wait_until
from tests.drivers.relay import relay
from tests.support.apps import pooled_app


@pytest.fixture(scope="module")
def url(postgresql: str) -> str:
    """The URL of an empty database on PostgreSQL."""
    return postgresql


@pytest.fixture
def app(url: str) -> Iterator[tuple[Flask, PooledDB]]:
    """An app with an empty table `t`."""
    with pooled_app(url) as pair:
        with db_connection_context() as conn:
            conn.cursor().execute("DROP TABLE IF EXISTS t")
            conn.cursor().execute("CREATE TABLE t (id INT PRIMARY KEY)")
        yield pair


def insert(conn: object, number: int) -> None:
    """Insert one row."""
    with conn.cursor() as cur:  # type: ignore[attr-defined]
        cur.execute("INSERT INTO t VALUES (%s)", (number,))


def rows() -> list[int]:
    """What was committed."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute("SELECT id FROM t ORDER BY id")
        return [row[0] for row in cur.fetchall()]


def test_p4_host_down(url: str) -> None:
    """A host that is down is skipped."""
    user, host = url.rsplit("@", 1)
    with pooled_app(f"{user}@127.0.0.1:{free_port()},{host}") as (_app, db):
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("SELECT 1")
            assert cur.fetchone() == (1,)
        assert db.stats().connect_errors == 0


def test_t1_scope(app: tuple[Flask, PooledDB]) -> None:
    """A scope commits if left normally and rolls back if left by an exception."""
    with db_connection_context() as conn:
        insert(conn, 1)

    def fail() -> None:
        with db_connection_context() as conn:
            insert(conn, 2)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert rows() == [1]
    assert app[1].stats().in_use == 0


def test_failed_nested_scope(app: tuple[Flask, PooledDB]) -> None:
    """An error in a nested scope leaves the outer transaction usable."""
    with db_connection_context() as conn:
        insert(conn, 1)
        with pytest.raises(conn.IntegrityError), db_connection_context() as inner:
            insert(inner, 1)
        insert(conn, 2)
    assert rows() == [1, 2]


def test_t4_swallowed_error(app: tuple[Flask, PooledDB]) -> None:
    """A scope that swallowed an error raises, where PostgreSQL would silently turn COMMIT into
    ROLLBACK.
    """

    def swallow() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            with pytest.raises(conn.IntegrityError):
                insert(conn, 1)

    with pytest.raises(TransactionAborted):
        swallow()
    assert rows() == []


def test_t4_lost_connection(app: tuple[Flask, PooledDB]) -> None:
    """A lost connection aborts its scope, and the next scope has another one."""

    def end_itself() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            conn.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(psycopg.OperationalError):
        end_itself()
    assert rows() == []


def test_t4_ping_in_transaction(app: tuple[Flask, PooledDB]) -> None:
    """A ping() undoes nothing, and leaves no transaction open."""
    with db_connection_context() as conn:
        conn.ping()
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        insert(conn, 1)
        conn.ping()
    assert rows() == [1]


@pytest.fixture
def shares(app: tuple[Flask, PooledDB], url: str) -> Iterator[list[Any]]:
    """Two leases that share a connection."""
    with pooled_app(url, maxshared=1):
        leases = [get_db_connection(shareable=True) for _ in range(2)]
        yield leases
        for lease in leases:
            lease.close()


def test_t4_failed_statement_of_share(shares: list[Any]) -> None:
    """What one lease of a shared connection rolls back, the other one never takes for committed."""
    first, second = shares
    insert(second, 1)
    insert(first, 2)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(first, 2)
    first.rollback()
    with pytest.raises(TransactionAborted):
        insert(second, 3)
    with pytest.raises(TransactionAborted):
        second.commit()
    second.rollback()
    insert(second, 4)
    second.commit()
    assert rows() == [4]


def test_t4_lost_connection_of_share(shares: list[Any]) -> None:
    """A connection that one lease lost refuses the other one too."""
    first, second = shares
    insert(second, 1)
    with pytest.raises(psycopg.OperationalError):
        first.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(TransactionAborted):
        second.commit()
    assert rows() == []


def test_leftovers_of_share(shares: list[Any]) -> None:
    """What one lease leaves uncommitted at its close, the other one commits."""
    first, second = shares
    insert(first, 1)
    first.close()
    second.commit()
    assert rows() == [1]


def test_p4_terminated_connection(app: tuple[Flask, PooledDB]) -> None:
    """An idle connection that the server terminated is replaced before it is lent."""
    victim = app[1].pool().lease()
    with victim.cursor() as cur:
        cur.execute("SELECT pg_backend_pid()")
        (pid,) = cur.fetchone()
    other = get_db_connection()
    victim.close()
    other.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    assert rows() == []
    other.close()
    assert app[1].stats().discarded == 1


def test_retry_after_serialization_failure(
    app: tuple[Flask, PooledDB],
) -> None:
    """run_transaction starts over after a serialization failure."""
    db, tries = app[1], []

    def work(conn: object) -> None:
        tries.append(1)
        with conn.cursor() as cur:  # type: ignore[attr-defined]
            cur.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            cur.execute("SELECT COUNT(*) FROM t")
            if len(tries) == 1:
                with db_connection_context(independent=True) as other:
                    other.cursor().execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                    other.cursor().execute("SELECT COUNT(*) FROM t")
                    insert(other, 1)
            cur.execute("INSERT INTO t VALUES (%s)", (1 + len(tries),))

    db.run_transaction(work)
    assert rows() == [1, 3]


def test_statement_timeout(app: tuple[Flask, PooledDB]) -> None:
    """A statement that exceeds its limit is cancelled, its transaction is rolled back, and the
    connection is used again.
    """

    def overrun(sql: str) -> None:
        with db_connection_context(statement_timeout=0.1) as conn:
            insert(conn, 1)
            conn.cursor().execute(sql)

    for sql in ("SELECT pg_sleep(20)", "INSERT INTO t SELECT 2 FROM pg_sleep(20)"):
        with pytest.raises(psycopg.errors.QueryCanceled):
            overrun(sql)
        assert rows() == []
    assert app[1].stats().discarded == 0


def test_t4_swallowed_cancellation(
    app: tuple[Flask, PooledDB],
) -> None:
    """A scope that swallowed a cancelled statement raises and commits nothing."""

    def swallow() -> None:
        with db_connection_context(statement_timeout=0.1) as conn:
            insert(conn, 1)
            with contextlib.suppress(psycopg.Error):
                conn.cursor().execute("SELECT pg_sleep(20)")

    with pytest.raises(TransactionAborted):
        swallow()
    assert rows() == []


def test_p4_notification(app: tuple[Flask, PooledDB], url: str) -> None:
    """An unread notification does not cost the connection."""
    with db_connection_context() as conn:
        conn.cursor().execute("SELECT 1")
    (idle,) = app[1].pool().engine.state.idle
    idle.raw.execute("LISTEN news")
    idle.raw.commit()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("NOTIFY news")
    wait_until(lambda: idle.look() != 0)
    assert rows() == []
    assert app[1].stats().discarded == 0


def error_answer(*fields: bytes) -> bytes:
    """An ErrorResponse with these fields, and ReadyForQuery outside of a transaction."""
    body = b"\0".join(fields) + b"\0\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body + b"Z\0\0\0\5I"


@pytest.mark.parametrize(
    "fields",
    [(b"SERROR", b"Mbroken"), (b"SERROR", b"C08007", b"Mno"), (b"SERROR", b"C40003", b"Mno")],
    ids=["no state", "resolution unknown", "completion unknown"],
)
def test_t5_answer_to_commit_proves_nothing(
    app: tuple[Flask, PooledDB], url: str, fields: tuple[bytes, ...]
) -> None:
    """A COMMIT has an unknown outcome if its error does not say what the server did."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    with relay(port, error_answer(*fields)) as relayed:
        with pooled_app(url.replace(str(port), str(relayed)), maxconnections=1) as (_, db):
            with pytest.raises(CommitOutcomeUnknown):
                db.run_transaction(insert, 1)
    with app[0].app_context():
        assert rows() == [1]


@pytest.mark.parametrize("sql", ["SELECT %s", "SELECT %s, %s"])
def test_t4_refused_by_driver(app: tuple[Flask, PooledDB], sql: str) -> None:
    """What psycopg refuses before it sends anything costs neither transaction nor connection."""
    with db_connection_context() as conn:
        insert(conn, 1)
        with pytest.raises(psycopg.ProgrammingError):
            conn.cursor().execute(sql, (object(),))
        closed = conn.cursor()
        closed.driver_cursor.close()
        with pytest.raises(psycopg.InterfaceError):
            closed.fetchone()
    assert rows() == [1]
    assert app[1].stats().discarded == 0
