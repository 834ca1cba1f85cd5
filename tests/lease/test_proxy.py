"""What a caller gets is a connection as PEP 249 has it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from flask_pooled_db import PooledDB, db_connection_context
from harness.server import MariaDBServer
from tests.support.apps import pooled_app
from tests.support.sites import ids, insert
from tests.support.stages import ON_SHARED_SERVER

EXCEPTIONS = [
    "Warning",
    "Error",
    "InterfaceError",
    "DatabaseError",
    "DataError",
    "OperationalError",
    "IntegrityError",
    "InternalError",
    "ProgrammingError",
    "NotSupportedError",
]


def test_pep249_exception_attributes(any_app: PooledDB) -> None:
    """The connection has the driver's exception classes as attributes, even after its release."""
    with db_connection_context() as conn:
        module: Any = any_app.pool().driver.dbapi
        before = [getattr(conn, name) for name in EXCEPTIONS]
    assert before == [getattr(module, name) for name in EXCEPTIONS]
    assert [getattr(conn, name) for name in EXCEPTIONS] == before


def test_pep249_catching_by_attribute(any_app: PooledDB) -> None:
    """`except conn.IntegrityError` catches the error of every driver."""
    try:
        with db_connection_context() as conn:
            insert(conn, 1)
            insert(conn, 1)
    except conn.IntegrityError:
        pass
    assert ids() == []


def test_pep249_cursor(any_app: PooledDB) -> None:
    """A cursor has the attributes and fetch methods of the standard."""
    with db_connection_context() as conn:
        cur = conn.cursor()
        assert cur.connection is conn
        described = cur.description
        assert described is None
        cur.executemany("INSERT INTO t VALUES (%s, %s)", [(i, str(i)) for i in range(1, 8)])
        assert cur.rowcount == 7
        cur.execute("UPDATE t SET name = %s WHERE id < %s", ("y", 3))
        assert cur.rowcount == 2
        cur.execute("SELECT id, name FROM t ORDER BY id")
        assert [column[0] for column in cur.description] == ["id", "name"]
        assert cur.fetchone()[0] == 1
        assert [id_ for id_, _ in cur.fetchmany(2)] == [2, 3]
        cur.arraysize = 2
        assert cur.arraysize == 2
        assert [id_ for id_, _ in cur.fetchmany()] == [4, 5]
        assert next(cur)[0] == 6
        assert [id_ for id_, _ in cur] == [7]
        assert cur.fetchone() is None
        assert list(cur.fetchall()) == []
        with pytest.raises(StopIteration):
            next(cur)
        cur.close()


def test_pep249_iteration(any_app: PooledDB) -> None:
    """A cursor is its own iterator, so that a loop that was left can go on."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.executemany("INSERT INTO t VALUES (%s, %s)", [(i, str(i)) for i in range(1, 5)])
        cur.execute("SELECT id FROM t ORDER BY id")
        assert iter(cur) is cur
        for row in cur:
            if row[0] == 2:
                break
        assert [id_ for (id_,) in cur] == [3, 4]
        assert next(cur, None) is None


@pytest.mark.parametrize("name", ["operation", "query", "statement", "sql"])
def test_pep249_named_statement(any_app: PooledDB, name: str) -> None:
    """The statement may be given by name: the standard's, or any that a driver has for it."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(**{name: "INSERT INTO t VALUES (1, 'x')"})
        cur.execute(**{name: "SELECT id FROM t WHERE name LIKE '%'"})
        assert [id_ for (id_,) in cur] == [1]
    assert ids() == [1]


def test_pep249_optional_methods(any_app: PooledDB) -> None:
    """A cursor has the optional methods that the driver's has, and no others."""
    with (
        db_connection_context() as conn,
        conn.cursor() as cur,
        contextlib.closing(any_app.pool().driver.connect()) as raw,
    ):
        drivers = raw.cursor()
        for each in (cur, drivers):
            each.execute("SELECT 1")  # before, PyMySQL's has no `lastrowid`
            each.fetchall()
        for name in ("callproc", "nextset", "scroll", "rownumber", "lastrowid", "messages"):
            assert hasattr(cur, name) is hasattr(drivers, name)


@pytest.mark.parametrize("any_app", ["sqlite", *ON_SHARED_SERVER], indirect=True)
def test_pep249_lastrowid(any_app: PooledDB) -> None:
    """`lastrowid` is the id that the database gave the row."""
    kind = any_app.pool().driver.name
    auto = "INTEGER PRIMARY KEY" if kind == "sqlite3" else "INT PRIMARY KEY AUTO_INCREMENT"
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(f"CREATE TABLE numbered (id {auto}, a INT)")
        cur.execute("INSERT INTO numbered (a) VALUES (%s)", (5,))
        assert cur.lastrowid == 1
        cur.execute("INSERT INTO numbered (a) VALUES (%s)", (5,))
        assert cur.lastrowid == 2


def test_pep249_two_cursors(any_app: PooledDB) -> None:
    """Two cursors of one connection are in the same transaction."""
    with db_connection_context() as conn, conn.cursor() as one, conn.cursor() as other:
        one.execute("INSERT INTO t VALUES (1, 'x')")
        other.execute("SELECT COUNT(*) FROM t")
        assert other.fetchone()[0] == 1


def test_pep249_callproc(mariadb: MariaDBServer, database: str, mariadb_driver: str) -> None:
    """A stored procedure is part of the transaction."""
    mariadb.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY, name VARCHAR(20))")
    mariadb.execute(
        f"CREATE PROCEDURE `{database}`.put(IN a INT) INSERT INTO `{database}`.t VALUES (a, 'p')"
    )
    with pooled_app(mariadb.url(mariadb_driver, database)):
        with (
            contextlib.suppress(LookupError),
            db_connection_context() as conn,
            conn.cursor() as cur,
        ):
            cur.callproc("put", (1,))
            raise LookupError
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.callproc("put", (2,))
        assert ids() == [2]


def test_t6_unread_results(mariadb: MariaDBServer, database: str) -> None:
    """A PyMySQL procedure whose results were not fetched is committed. They are read to their end,
    so the connection is used again.
    """
    mariadb.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY, name VARCHAR(20))")
    mariadb.execute(
        f"CREATE PROCEDURE `{database}`.put(IN a INT) BEGIN"
        f" SELECT 1; INSERT INTO `{database}`.t VALUES (a, 'p'); SELECT 2; END"
    )
    with pooled_app(mariadb.url("pymysql", database)) as (_, db):
        with db_connection_context() as conn:
            cur = conn.cursor()
            cur.execute("CALL put(1)")
        assert ids() == [1]
        assert db.stats().discarded == 0
