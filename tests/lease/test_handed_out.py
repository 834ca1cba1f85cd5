"""T7: whatever a driver hands out ends with its lease, and is used in turn like the lease."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flask_pooled_db import PooledDB, TransactionAborted, UsageError, db_connection_context
from tests.support.apps import pooled_app


@pytest.fixture
def on_postgresql(postgresql: str) -> Iterator[PooledDB]:
    """A pool of one connection to a database with a table."""
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as own:
        own.execute("DROP TABLE IF EXISTS t")
        own.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    with pooled_app(postgresql, maxconnections=1) as (_, db):
        yield db


@pytest.fixture
def on_file(tmp_path: Path) -> Iterator[PooledDB]:
    """A pool of one connection to a file with a table."""
    path = tmp_path / "file.db"
    with contextlib.closing(sqlite3.connect(path)) as own, own:
        own.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
        own.execute("INSERT INTO t VALUES (1, zeroblob(4))")
    with pooled_app(f"sqlite:///{path}", maxconnections=1) as (_, db):
        yield db


def ids() -> list[int]:
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute("SELECT id FROM t ORDER BY id")
        return [id_ for (id_,) in cur]


def outlive(make: Callable[[Any], Any]) -> Any:
    """What is made in one block and used after it, while another block has the connection."""
    with db_connection_context() as conn:
        return make(conn)


BLOB = ("t", "data", 1)
OF_SQLITE: dict[str, tuple[Callable[[Any], Any], Callable[[Any], object]]] = {
    "blob is written": (lambda conn: conn.blobopen(*BLOB), lambda blob: blob.write(b"x")),
    "blob is read": (lambda conn: conn.blobopen(*BLOB), lambda blob: blob.read()),
    "blob's byte is set": (
        lambda conn: conn.blobopen(*BLOB),
        lambda blob: blob.__setitem__(0, 7),
    ),
    "dump": (lambda conn: conn.iterdump(), next),
}
OF_PSYCOPG: dict[str, tuple[Callable[[Any], Any], Callable[[Any], object]]] = {
    "stream": (lambda conn: conn.cursor().stream("SELECT generate_series(1, 9)"), next),
    "transaction": (lambda conn: conn.transaction(), lambda block: block.__enter__()),
    "pipeline": (lambda conn: conn.pipeline(), lambda block: block.__enter__()),
    "copy": (
        lambda conn: conn.cursor().copy("COPY t FROM STDIN"),
        lambda block: block.__enter__(),
    ),
    "cursor of the connection": (lambda conn: conn.execute("SELECT 1"), lambda cur: cur.fetchone()),
}


@pytest.mark.parametrize("name", OF_SQLITE)
def test_t7_sqlite_handles(on_file: PooledDB, name: str) -> None:
    """What sqlite3 hands out refuses to work after its block, also when it was begun before."""
    make, use = OF_SQLITE[name]
    handles = [outlive(make)]

    def make_and_use(conn: Any) -> Any:
        handle = make(conn)
        use(handle)
        return handle

    handles.append(outlive(make_and_use))
    with db_connection_context() as conn:
        conn.execute("SELECT 1")
        for handle in handles:
            with pytest.raises(UsageError, match="was released"):
                use(handle)


@pytest.mark.parametrize("name", OF_PSYCOPG)
def test_t7_psycopg_handles(on_postgresql: PooledDB, name: str) -> None:
    """What psycopg hands out refuses to work after its block."""
    make, use = OF_PSYCOPG[name]
    handle = outlive(make)
    with db_connection_context() as conn:
        conn.execute("SELECT 1")
        with pytest.raises(UsageError, match="was released"):
            use(handle)
    assert on_postgresql.stats().in_use == 0


def test_t7_half_a_stream(on_postgresql: PooledDB) -> None:
    """A stream of which some rows were read ends with its block, and the connection serves on."""

    def read_one(conn: Any) -> Any:
        rows = conn.cursor().stream("SELECT generate_series(1, 100000)")
        assert next(rows) == (1,)
        return rows

    rows = outlive(read_one)
    with pytest.raises(UsageError, match="was released"):
        next(rows)
    assert ids() == []


@pytest.mark.parametrize("method", ["transaction", "pipeline"])
def test_t7_block_not_left(on_postgresql: PooledDB, method: str) -> None:
    """A block of the driver's that is not left by the end of its scope fails the scope: nobody
    knows what is to become of its part.
    """
    kept = []

    def work() -> None:
        with db_connection_context() as conn:
            conn.execute("INSERT INTO t VALUES (1)")
            kept.append(getattr(conn, method)())
            kept[0].__enter__()
            conn.execute("INSERT INTO t VALUES (2)")

    with pytest.raises(UsageError, match="leave that first"):
        work()
    kept.clear()
    gc.collect()
    assert ids() == []
    assert on_postgresql.stats().discarded == 1


def test_t8_commit_inside_driver_block(on_postgresql: PooledDB) -> None:
    """`commit()` inside a block of the driver's own is refused, and the work goes on."""
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1)")
        with conn.transaction():
            with pytest.raises(UsageError, match="leave that first"):
                conn.commit()
            conn.execute("INSERT INTO t VALUES (2)")
    assert ids() == [1, 2]


def test_t4_error_inside_driver_block(on_postgresql: PooledDB) -> None:
    """An error that leaves a driver's block reaches the caller as it is, also when the connection
    is lost in it.
    """
    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(conn.IntegrityError), conn.transaction():
            conn.execute("INSERT INTO t VALUES (1)")
        conn.execute("INSERT INTO t VALUES (2)")
    assert ids() == [1, 2]

    def lose() -> None:
        with db_connection_context() as conn, conn.transaction():
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(psycopg.OperationalError) as caught:
        lose()
    assert not isinstance(caught.value, TransactionAborted)
    assert ids() == [1, 2]


def test_t7_handlers_of_lease(on_postgresql: PooledDB) -> None:
    """A handler that a lease adds does not reach the next lease."""
    heard: list[str] = []
    with db_connection_context() as conn:
        conn.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        conn.execute("DO $$ BEGIN RAISE NOTICE 'first'; END $$")
    with db_connection_context() as conn:
        conn.execute("DO $$ BEGIN RAISE NOTICE 'second'; END $$")
    assert heard == ["first"]


@pytest.mark.parametrize("name", ["adapters", "pgconn", "dbapi_connection"])
def test_t7_drivers_own_objects(on_postgresql: PooledDB, name: str) -> None:
    """Whoever takes what changes the connection under the lease has it closed afterwards."""
    with db_connection_context() as conn:
        getattr(conn, name)
    with db_connection_context() as conn:
        conn.execute("SELECT 1")
    assert on_postgresql.stats().discarded == 1


def test_t1_autocommit_by_method(on_postgresql: PooledDB) -> None:
    """`set_autocommit()` is refused like the attribute."""
    with db_connection_context() as conn:
        with pytest.raises(UsageError, match="set_autocommit"):
            conn.set_autocommit(True)
        conn.execute("INSERT INTO t VALUES (1)")
    assert ids() == [1]


def test_t3_blob_in_turn(on_file: PooledDB) -> None:
    """A blob works like the driver's own: it is indexed, read, written and left as a block."""
    with db_connection_context() as conn, conn.blobopen(*BLOB) as blob:
        assert len(blob) == 4
        blob.write(b"ab")
        blob[2] = ord("c")
        assert blob[0:4] == b"abc\0"
        blob.seek(0)
        assert blob.read(2) == b"ab"
        with pytest.raises(IndexError):
            blob[99]
        with pytest.raises(TypeError):
            iter(blob)
        assert blob
    with db_connection_context() as conn:
        assert conn.execute("SELECT data FROM t").fetchone() == (b"abc\0",)


@pytest.mark.parametrize("how", ["statement", "nested block", "commit()"])
def test_t6_work_beside_a_stream(on_postgresql: PooledDB, how: str) -> None:
    """Work on a connection that streams rows is refused before it is sent: psycopg would let it
    wait for good. The stream can be read on, and the work done after it.
    """

    def work(conn: Any) -> None:
        if how == "nested block":
            with db_connection_context() as inner:
                inner.execute("INSERT INTO t VALUES (2)")
        elif how == "statement":
            conn.execute("INSERT INTO t VALUES (2)")
        else:
            conn.commit()

    with db_connection_context() as conn:
        conn.execute("INSERT INTO t VALUES (1)")
        rows = conn.cursor().stream("SELECT generate_series(1, 5)")
        assert next(rows) == (1,)
        with pytest.raises(UsageError, match="independent=True"):
            work(conn)
        assert list(rows) == [(2,), (3,), (4,), (5,)]
        work(conn)
    assert ids() == [1, 2] if how != "commit()" else [1]


def test_t6_stream_undone(on_postgresql: PooledDB) -> None:
    """`rollback()` ends a stream; whoever reads on gets an error, and not the end of the rows."""
    with db_connection_context() as conn:
        rows = conn.cursor().stream("SELECT generate_series(1, 5)")
        assert next(rows) == (1,)
        conn.rollback()
        with pytest.raises(UsageError, match="were dropped"):
            next(rows)
        conn.execute("INSERT INTO t VALUES (1)")
    assert ids() == [1]


def test_t6_dropped_stream(on_postgresql: PooledDB) -> None:
    """A stream that nobody keeps does not stand in the way."""
    with db_connection_context() as conn:
        for _ in conn.cursor().stream("SELECT generate_series(1, 5)"):
            break
        conn.execute("INSERT INTO t VALUES (1)")
    assert ids() == [1]
