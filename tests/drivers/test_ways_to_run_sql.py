"""T1, T3 and T7 for every way to run SQL that a driver has, and every way a block can end.

Each way puts one row into the table `t`. What is committed, what the caller is told and what the
next lease finds do not depend on the way.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flask_pooled_db import PooledDB, db_connection_context, get_db_connection
from harness.server import SCHEMES, MariaDBServer
from tests.drivers.generic import MODULES, keys
from tests.support.apps import pooled_app

Way = Callable[[Any, int], object]


@dataclass(frozen=True)
class Place:
    """A driver's database with an empty table `t`, and a look at it that takes no part."""

    db: PooledDB
    committed: Callable[[], list[int]]


@contextlib.contextmanager
def on_mariadb(server: MariaDBServer, driver: str) -> Iterator[Place]:
    database = server.create_database()
    table = f"`{database}`.t"
    server.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY) ENGINE=InnoDB")
    server.execute(
        f"CREATE PROCEDURE `{database}`.put(IN a INT) BEGIN"
        f" SELECT 1; INSERT INTO {table} VALUES (a); SELECT 2; END"
    )
    with pooled_app(server.url(driver, database), maxconnections=1) as (_, db):
        yield Place(db, lambda: [id_ for (id_,) in server.query(f"SELECT id FROM {table}")])


@contextlib.contextmanager
def on_postgresql(url: str, driver: str) -> Iterator[Place]:
    plain = url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as own:
        own.execute("DROP TABLE IF EXISTS t")
        own.execute("CREATE TABLE t (id INT PRIMARY KEY)")

        def committed() -> list[int]:
            return [id_ for (id_,) in own.execute("SELECT id FROM t ORDER BY id")]

        found = keys(MODULES[driver], url) if driver in MODULES else {"url": url}
        with pooled_app(**found, maxconnections=1) as (_, db):
            yield Place(db, committed)


@contextlib.contextmanager
def on_file(path: Path) -> Iterator[Place]:
    own = sqlite3.connect(path, isolation_level=None)
    own.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")

    def committed() -> list[int]:
        return [id_ for (id_,) in own.execute("SELECT id FROM t ORDER BY id")]

    with contextlib.closing(own), pooled_app(f"sqlite:///{path}", maxconnections=1) as (_, db):
        yield Place(db, committed)


# The ways


def execute(conn: Any, number: int) -> None:
    with conn.cursor() as cur:
        cur.execute("INSERT INTO t (id) VALUES (%s)", (number,))


def executemany(conn: Any, number: int) -> None:
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO t (id) VALUES (%s)", [(number,)])


def own_connection(conn: Any, number: int) -> None:
    cursor = conn.dbapi_connection.cursor()
    cursor.execute(f"INSERT INTO t (id) VALUES ({number})")
    cursor.close()


def of_connection(conn: Any, number: int) -> None:
    conn.execute("INSERT INTO t (id) VALUES (%s)", (number,))


def call_statement(conn: Any, number: int) -> None:
    conn.cursor().execute("CALL put(%s)", (number,))


def callproc(conn: Any, number: int) -> None:
    conn.cursor().callproc("put", (number,))


def query(conn: Any, number: int) -> None:
    conn.query(f"INSERT INTO t VALUES ({number})")


def unbuffered(conn: Any, number: int) -> None:
    import pymysql.cursors

    cur = conn.cursor(pymysql.cursors.SSCursor)
    cur.execute(f"INSERT INTO t VALUES ({number}) RETURNING id")
    assert list(cur.fetchall_unbuffered()) == [(number,)]


def copy(conn: Any, number: int) -> None:
    with conn.cursor() as cur, cur.copy("COPY t FROM STDIN") as rows:
        rows.write_row((number,))


def stream(conn: Any, number: int) -> None:
    with conn.cursor() as cur:
        assert list(cur.stream(f"INSERT INTO t VALUES ({number}) RETURNING id")) == [(number,)]


def half_a_stream(conn: Any, number: int) -> None:
    with conn.cursor() as cur:
        sql = (
            "WITH a AS (INSERT INTO t VALUES (%s) RETURNING id) SELECT generate_series(1, 3) FROM a"
        )
        assert next(cur.stream(sql, (number,))) == (1,)


def transaction(conn: Any, number: int) -> None:
    with conn.transaction() as block:
        assert block.connection is conn
        conn.execute("INSERT INTO t VALUES (%s)", (number,))


def failed_transaction(conn: Any, number: int) -> None:
    execute(conn, number)
    with contextlib.suppress(LookupError), conn.transaction():
        conn.execute("INSERT INTO t VALUES (%s)", (number + 1000,))
        raise LookupError


def pipeline(conn: Any, number: int) -> None:
    with conn.pipeline():
        conn.execute("INSERT INTO t VALUES (%s)", (number,))


def returning(conn: Any, number: int) -> None:
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO t VALUES (%s) RETURNING id", [(number,)], returning=True)


def copy_from(conn: Any, number: int) -> None:
    with conn.cursor() as cur:
        cur.copy_from(io.StringIO(f"{number}\n"), "t")


def copy_expert(conn: Any, number: int) -> None:
    with conn.cursor() as cur:
        cur.copy_expert("COPY t FROM STDIN", io.StringIO(f"{number}\n"))


def stream_into(conn: Any, number: int) -> None:
    with conn.cursor() as cur:
        cur.execute("COPY t FROM STDIN", stream=io.BytesIO(f"{number}\n".encode()))


def executescript(conn: Any, number: int) -> None:
    conn.executescript(f"INSERT INTO t (id) VALUES ({number}); SELECT 1;")


class OwnCursor(sqlite3.Cursor):
    """An application's own class of cursors."""


def own_cursor_class(conn: Any, number: int) -> None:
    conn.cursor(OwnCursor).execute(
        f"WITH a(b) AS (SELECT {number}) INSERT INTO t (id) SELECT b FROM a"
    )


def through_blob(conn: Any, number: int) -> None:
    execute(conn, number)
    conn.execute("UPDATE t SET data = zeroblob(3) WHERE id = %s", (number,))
    with conn.blobopen("t", "data", number) as blob:
        blob.write(b"abc")
        blob[0:1] = b"x"


def through_dump(conn: Any, number: int) -> None:
    execute(conn, number)
    assert any(f"VALUES({number}" in line for line in conn.iterdump())


COMMON: list[Way] = [execute, executemany, own_connection]
WAYS: dict[str, list[Way]] = {
    "pymysql": [*COMMON, call_statement, callproc, query, unbuffered],
    "mariadbconnector": [*COMMON, call_statement, callproc],
    "psycopg": [
        *(*COMMON, of_connection, copy, stream, half_a_stream, transaction, failed_transaction),
        *(pipeline, returning),
    ],
    "psycopg2": [*COMMON, copy_from, copy_expert],
    "pg8000": [*COMMON, stream_into],
    "sqlite": [
        *(*COMMON, of_connection, executescript, own_cursor_class, through_blob, through_dump),
    ],
}


# The ends


def normally(way: Way) -> list[int]:
    """Leave the block normally."""
    with db_connection_context() as conn:
        way(conn, 1)
    return [1]


def by_exception(way: Way) -> list[int]:
    """Leave the block by an exception."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        way(conn, 1)
        raise LookupError
    return []


def nested_normally(way: Way) -> list[int]:
    """Leave an inner block normally, and then the outer one."""
    with db_connection_context():
        with db_connection_context() as conn:
            way(conn, 1)
        with db_connection_context() as conn:
            way(conn, 2)
    return [1, 2]


def nested_by_exception(way: Way) -> list[int]:
    """Leave an inner block by an exception, and go on in the outer one."""
    with db_connection_context() as outer:
        way(outer, 1)
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            way(conn, 2)
            raise LookupError
        way(outer, 3)
    return [1, 3]


def only_nested_by_exception(way: Way) -> list[int]:
    """Leave an inner block by an exception before the outer one has done anything."""
    with db_connection_context() as outer:
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            way(conn, 1)
            raise LookupError
        way(outer, 2)
    return [2]


def outer_by_exception(way: Way) -> list[int]:
    """Leave an inner block normally, and the outer one by an exception."""
    with contextlib.suppress(LookupError), db_connection_context():
        with db_connection_context() as conn:
            way(conn, 1)
        raise LookupError
    return []


def after_commit(way: Way) -> list[int]:
    """Commit in the middle, go on, and leave the block by an exception."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        way(conn, 1)
        conn.commit()
        way(conn, 2)
        raise LookupError
    return [1]


def after_rollback(way: Way) -> list[int]:
    """Roll back in the middle, go on, and leave the block normally."""
    with db_connection_context() as conn:
        way(conn, 1)
        conn.rollback()
        way(conn, 2)
    return [2]


# By a connection that is no scope's, for sqlite3 knows no DML but by its first word.
STORED_BY_SQLITE3 = (executescript, own_cursor_class)


def by_hand(way: Way) -> list[int]:
    """Commit by hand, go on, and close the connection."""
    conn = get_db_connection()
    way(conn, 1)
    conn.commit()
    way(conn, 2)
    conn.close()
    return [1, 2] if way in STORED_BY_SQLITE3 else [1]


ENDS = [
    normally,
    by_exception,
    nested_normally,
    nested_by_exception,
    only_nested_by_exception,
    outer_by_exception,
    after_commit,
    after_rollback,
    by_hand,
]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """The driver's database."""
    driver = request.param
    if driver in SCHEMES:
        where = on_mariadb(request.getfixturevalue("mariadb"), driver)
    elif driver in ("psycopg", *MODULES):
        where = on_postgresql(request.getfixturevalue("postgresql"), driver)
    else:
        where = on_file(tmp_path / "file.db")
    with where as place:
        yield place


CELLS = [
    pytest.param(driver, way, id=f"{driver}-{way.__name__}")
    for driver, ways in WAYS.items()
    for way in ways
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize(("place", "way"), CELLS, indirect=["place"])
def test_t1_every_way_and_end(place: Place, way: Way, end: Callable[[Way], list[int]]) -> None:
    """Whatever way SQL is run in, the block commits or undoes all of it, and the next lease finds
    nothing of it.
    """
    assert sorted(end(way)) == sorted(place.committed())
    before = place.committed()
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        execute(conn, 100)
        raise LookupError
    assert place.committed() == before  # what was left open would be lost now,
    with db_connection_context() as conn:
        execute(conn, 101)
    assert sorted(place.committed()) == sorted([*before, 101])  # or committed now
    assert place.db.stats().in_use == 0


KEEPS_SESSION = {
    "pymysql": [execute, executemany, query],
    "mariadbconnector": [execute, executemany],
}
KEEPS_SESSION["psycopg"] = [
    *(execute, executemany, of_connection, copy, stream, transaction, pipeline, returning),
]
KEEPS_SESSION["sqlite"] = [execute, executemany, of_connection, executescript, through_blob]


@pytest.mark.parametrize(
    ("place", "way"),
    [
        pytest.param(driver, way, id=f"{driver}-{way.__name__}")
        for driver, ways in KEEPS_SESSION.items()
        for way in ways
    ],
    indirect=["place"],
)
def test_p9_every_way_keeps_its_connection(place: Place, way: Way) -> None:
    """What only reads and writes rows, in whatever way, is no change of the session."""
    for number in range(1, 4):
        with db_connection_context() as conn:
            way(conn, number)
    assert place.db.stats().connects == 1
    assert len(place.committed()) == 3
