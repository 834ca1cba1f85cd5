"""T1, T6: what a driver hands out, in nested blocks and when a part of the work is undone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pytest

from flask_pooled_db import PooledDB, UsageError, db_connection_context
from tests.drivers.generic import keys
from tests.support.apps import pooled_app

pytestmark = pytest.mark.timeout(20)  # what is mended here let the thread wait for good


@pytest.fixture
def on_postgresql(postgresql: str) -> Iterator[PooledDB]:
    """A pool of one connection to a database with a table."""
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as own:
        own.execute("DROP TABLE IF EXISTS t")
        own.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    with pooled_app(postgresql, maxconnections=1) as (_, db):
        yield db


def ids() -> list[int]:
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute("SELECT id FROM t ORDER BY id")
        return [id_ for (id_,) in cur]


def put(conn: Any, number: int) -> None:
    conn.execute("INSERT INTO t VALUES (%s)", (number,))


def half_a_stream(conn: Any) -> Any:
    rows = conn.cursor().stream("SELECT generate_series(1, 5)")
    assert next(rows) == (1,)
    return rows


def copy_in(conn: Any) -> Any:
    block = conn.cursor().copy("COPY t FROM STDIN")
    block.__enter__().write("7\n")
    return block


def copy_out(conn: Any) -> Any:
    block = conn.cursor().copy("COPY (SELECT generate_series(1, 9)) TO STDOUT")
    block.__enter__().read()
    return block


def transaction(conn: Any) -> Any:
    block = conn.transaction()
    block.__enter__()
    put(conn, 7)
    return block


BY_HAND = [copy_in, copy_out, transaction]


def test_t6_stream_in_a_part_that_fails(on_postgresql: PooledDB) -> None:
    """An exception leaves a nested block while a variable holds a stream: the part is undone, and
    the outer block goes on.
    """
    kept = []
    with db_connection_context() as conn:
        put(conn, 1)
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            put(inner, 2)
            kept.append(half_a_stream(inner))
            raise LookupError
        with pytest.raises(UsageError, match="were dropped"):
            next(kept[0])
        put(conn, 3)
    assert ids() == [1, 3]
    assert on_postgresql.stats().discarded == 0


@pytest.mark.parametrize("enter", BY_HAND)
def test_t1_block_not_left_by_exception(
    on_postgresql: PooledDB, enter: Callable[[Any], Any]
) -> None:
    """An exception leaves a nested block inside a block of the driver's that nobody has left: the
    whole transaction is undone, and its connection closed.
    """
    kept = []

    def work() -> None:
        with db_connection_context() as conn:
            put(conn, 1)
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                put(inner, 2)
                kept.append(enter(inner))
                raise LookupError

    with pytest.raises(UsageError, match="leave that first"):
        work()
    assert ids() == []
    assert on_postgresql.stats().discarded == 1


@pytest.mark.parametrize("enter", BY_HAND)
def test_t1_block_not_left_normally(on_postgresql: PooledDB, enter: Callable[[Any], Any]) -> None:
    """A nested block that ends inside a block of the driver's which it has entered is refused."""
    kept = []

    def work() -> None:
        with db_connection_context() as conn:
            put(conn, 1)
            with db_connection_context() as inner:
                kept.append(enter(inner))

    with pytest.raises(UsageError, match="leave that first"):
        work()
    assert ids() == []
    assert on_postgresql.stats().discarded == 1


@pytest.mark.parametrize("enter", [copy_in, transaction])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_t8_end_inside_a_block(
    on_postgresql: PooledDB, enter: Callable[[Any], Any], end: str
) -> None:
    """`commit()` and `rollback()` inside a block of the driver's own are refused, and the work goes
    on.
    """
    with db_connection_context() as conn:
        put(conn, 1)
        block = enter(conn)
        with pytest.raises(UsageError, match="leave that first"):
            getattr(conn, end)()
        block.__exit__(None, None, None)
        put(conn, 2)
    assert ids() == [1, 2, 7]


@pytest.mark.parametrize("way", ["statement", "rollback()", "part", "end"])
def test_t6_notifications(on_postgresql: PooledDB, postgresql: str, way: str) -> None:
    """Notifications that are being read stand in the way of a statement, which is refused, and are
    dropped by the end of their block, or of its transaction: psycopg would wait for good.
    """
    with db_connection_context() as conn:
        conn.execute("DO $$ BEGIN EXECUTE 'LISTEN here'; END $$")  # as a routine may do it
        conn.commit()
        with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("NOTIFY here")
        put(conn, 1)
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            put(inner, 2)
            found = inner.notifies()
            assert next(found).channel == "here"
            if way == "statement":
                with pytest.raises(UsageError, match="independent=True"):
                    put(inner, 3)
            if way == "part":
                raise LookupError
        if way == "rollback()":
            conn.rollback()
            put(conn, 4)
    assert ids() == {"rollback()": [4], "part": [1]}.get(way, [1, 2])


@pytest.mark.parametrize("fails", [True, False])
def test_t1_outer_blob_in_a_part(tmp_path: Path, fails: bool) -> None:
    """A blob of the outer block, which keeps SQLite from setting a savepoint, is not written to in
    a nested block: nothing of a nested block is committed that has failed.
    """
    with pooled_app(f"sqlite:///{tmp_path}/file.db", maxconnections=1):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE b (data BLOB)")
            conn.execute("INSERT INTO b (rowid, data) VALUES (1, zeroblob(5))")
        with db_connection_context() as conn:
            blob = conn.blobopen("b", "data", 1)
            blob.write(b"ou")
            with contextlib.suppress(LookupError), db_connection_context():
                with pytest.raises(UsageError, match="close the blob"):
                    blob.write(b"in")
                if fails:
                    raise LookupError
            blob.write(b"ter")
        with db_connection_context() as conn:
            assert conn.execute("SELECT data FROM b").fetchone() == (b"outer",)


@pytest.mark.parametrize("fails", [True, False])
def test_t1_inner_blob_in_a_part(tmp_path: Path, fails: bool) -> None:
    """A blob that was opened in the nested block is undone with it."""
    with pooled_app(f"sqlite:///{tmp_path}/file.db", maxconnections=1):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE b (data BLOB)")
            conn.execute("INSERT INTO b (rowid, data) VALUES (1, zeroblob(5))")
        with db_connection_context() as conn:
            conn.execute("UPDATE b SET data = CAST('outer' AS BLOB)")
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                with inner.blobopen("b", "data", 1) as blob:
                    blob.write(b"inner")
                if fails:
                    raise LookupError
        with db_connection_context() as conn:
            assert conn.execute("SELECT data FROM b").fetchone() == (
                b"outer" if fails else b"inner",
            )


@pytest.mark.parametrize("fails", [True, False])
def test_t1_outer_copy_in_a_part(on_postgresql: PooledDB, fails: bool) -> None:
    """A COPY of the outer block is not gone on with in a nested block, which could not undo it."""
    with db_connection_context() as conn, conn.cursor() as cur:
        with cur.copy("COPY t FROM STDIN") as rows:
            rows.write("1\n")
            with contextlib.suppress(LookupError), db_connection_context():
                with pytest.raises(UsageError, match="nested"):
                    rows.write("2\n")
                if fails:
                    raise LookupError
            rows.write("3\n")
    assert ids() == [1, 3]


@pytest.mark.parametrize("fails", [True, False])
def test_t1_outer_stream_in_a_part(on_postgresql: PooledDB, fails: bool) -> None:
    """A stream of the outer block can't be read in a nested block, but be begun there."""
    with db_connection_context() as conn:
        put(conn, 0)
        rows = half_a_stream(conn)
        with contextlib.suppress(LookupError), db_connection_context():
            with pytest.raises(UsageError, match="nested"):
                next(rows)
            if fails:
                raise LookupError
        assert len(list(rows)) == 4
        rows = conn.cursor().stream("INSERT INTO t VALUES (1), (2) RETURNING id")
        with contextlib.suppress(LookupError), db_connection_context():
            assert next(rows) == (1,)
            if fails:
                raise LookupError
    assert ids() == ([0] if fails else [0, 1, 2])


READS: dict[str, Callable[[Any], object]] = {
    "fetchone": lambda cur: cur.fetchone(),
    "fetchmany": lambda cur: cur.fetchmany(1),
    "fetchall": lambda cur: cur.fetchall(),
    "next": next,
    "scroll": lambda cur: cur.scroll(1),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_t1_named_cursor_in_a_part(
    on_postgresql: PooledDB, postgresql: str, driver: str, read: str
) -> None:
    """What a named cursor of the outer block runs as it is read in a nested block is undone with
    that.
    """
    put_all = "SELECT put(n) FROM generate_series(1, 3) AS n"
    found = {"url": postgresql} if driver == "psycopg" else keys(psycopg2, postgresql)
    with pooled_app(**found, maxconnections=1):
        with db_connection_context() as conn:
            conn.cursor().execute(
                "CREATE OR REPLACE FUNCTION put(a INT) RETURNS INT LANGUAGE plpgsql AS"
                " $$ BEGIN INSERT INTO t VALUES (a); RETURN a; END $$"
            )
        with db_connection_context() as conn:
            cur = conn.cursor("named")
            cur.execute(put_all)
            with contextlib.suppress(LookupError), db_connection_context():
                READS[read](cur)
                raise LookupError
        assert ids() == []


@pytest.mark.parametrize("fails", [True, False])
def test_t1_large_object_in_a_part(postgresql: str, fails: bool) -> None:
    """What a nested block writes to a large object of the outer one is undone with it."""
    with pooled_app(**keys(psycopg2, postgresql), maxconnections=1):
        with db_connection_context() as conn:
            large = conn.lobject(0, "rwb")
            large.write(b"outer,")
            with contextlib.suppress(LookupError), db_connection_context():
                large.write(b"inner,")
                if fails:
                    raise LookupError
            oid = large.oid
        with db_connection_context() as conn:
            data = conn.lobject(oid, "rb").read()
    assert data == (b"outer," if fails else b"outer,inner,")


IN_THE_WAY: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], object]]] = {
    "ping": (lambda _: None, lambda conn, _: conn.ping()),
    "another stream": (
        lambda conn: conn.cursor().stream("SELECT 1"),
        lambda _, rows: next(rows),
    ),
    "pipeline": (lambda conn: conn.pipeline(), lambda _, block: block.__enter__()),
    "copy": (
        lambda conn: conn.cursor().copy("COPY t FROM STDIN"),
        lambda _, block: block.__enter__(),
    ),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_t6_what_would_wait_for_a_stream(on_postgresql: PooledDB, name: str) -> None:
    """Whatever would wait for a stream, in the thread that is to read it, is refused."""
    make, use = IN_THE_WAY[name]
    with db_connection_context() as conn:
        made = make(conn)
        rows = half_a_stream(conn)
        with pytest.raises(UsageError, match="independent=True"):
            use(conn, made)
        assert len(list(rows)) == 4
        put(conn, 1)
    assert ids() == [1]


# What psycopg says of the cursors of a connection that was closed.
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fails", [True, False])
def test_t6_named_cursor_beside_a_stream(on_postgresql: PooledDB, fails: bool) -> None:
    """A named cursor can be closed, or left to the end of its block, while a stream is read."""
    kept = []
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        put(conn, 1)
        other = conn.cursor("other")
        other.execute("SELECT 1")
        with conn.cursor("named") as cur:
            cur.execute("SELECT 1")
            kept.append(half_a_stream(conn))
        if fails:
            raise LookupError
    assert ids() == ([] if fails else [1])


def test_t6_stream_in_a_drivers_block(on_postgresql: PooledDB) -> None:
    """A stream is in the way of the end of a driver's block, unless an exception leaves that."""
    kept = []
    with db_connection_context() as conn:
        put(conn, 1)
        with contextlib.suppress(LookupError), conn.transaction():
            put(conn, 2)
            kept.append(half_a_stream(conn))
            raise LookupError
        put(conn, 3)
        block = conn.transaction()
        block.__enter__()
        rows = half_a_stream(conn)
        with pytest.raises(UsageError, match="independent=True"):
            block.__exit__(None, None, None)
        assert len(list(rows)) == 4
        block.__exit__(None, None, None)
    assert ids() == [1, 3]
