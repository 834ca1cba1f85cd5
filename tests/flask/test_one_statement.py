"""One statement without a block: `db.fetch_all`, `fetch_one`, `fetch_value` and `execute`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import pytest
from flask import Flask
from pymysql.cursors import DictCursor

from flask_pooled_db import PooledDB, PoolTimeout, TransactionAborted, UsageError
from harness.server import MariaDBServer
from tests.support.sites import CREATE, bare_app, insert
from tests.support.stages import ON_SHARED_SERVER

RETURNING = "INSERT INTO t VALUES (%s, 'x') RETURNING id, name"
COUNT = "SELECT COUNT(*) FROM t"


UPDATE = "UPDATE t SET name = 'x'"


ON_MARIADB = [*ON_SHARED_SERVER, pytest.param("generic", marks=pytest.mark.shared_server)]


@pytest.fixture(params=["sqlite", "postgresql", *ON_MARIADB])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PooledDB]:
    """The extension of an app on each driver, with two rows; the last one has no `readonly`."""
    settings: dict[str, Any] = {"maxconnections": 3}
    if request.param == "sqlite":
        settings["url"] = f"sqlite:///{tmp_path / 'file'}"
    elif request.param == "postgresql":
        settings["url"] = request.getfixturevalue("postgresql")
    else:
        mariadb: MariaDBServer = request.getfixturevalue("mariadb")
        database = mariadb.create_database()
        if request.param == "generic":
            settings["creator"] = mysql.connector
            settings["connect_args"] = mariadb.connect_args(database)
        else:
            settings["url"] = mariadb.url(request.param, database)
    with bare_app(**settings) as (app, db):
        with app.app_context():
            assert db.execute("INSERT INTO t VALUES (%s, %s), (2, 'two')", (1, "one")) == 2
            yield db
            assert db.stats().in_use == 0
            db.execute("DROP TABLE t")


def test_fetch(db: PooledDB) -> None:
    """The rows, the first row, the first value of it; None where there is none."""
    assert db.fetch_all("SELECT id, name FROM t ORDER BY id") == [(1, "one"), (2, "two")]
    assert db.fetch_all("SELECT id FROM t WHERE id > %s", (5,)) == []
    assert db.fetch_one("SELECT id, name FROM t ORDER BY id") == (1, "one")
    assert db.fetch_one("SELECT id FROM t WHERE id = %(id)s", {"id": 5}) is None
    assert db.fetch_value("SELECT name FROM t WHERE id = %s", [2]) == "two"
    assert db.fetch_value("SELECT name FROM t WHERE id = 5") is None
    assert db.fetch_value("SELECT MAX(id) FROM t WHERE id = 5") is None


def test_execute(db: PooledDB) -> None:
    """It commits, and returns the row count."""
    assert db.execute("UPDATE t SET name = 'x'") == 2
    assert db.execute("DELETE FROM t WHERE id = %(id)s", {"id": 1}) == 1
    assert db.execute("DELETE FROM t WHERE id = 1") == 0
    assert db.fetch_all("SELECT * FROM t") == [(2, "x")]


@pytest.mark.mariadb_only
def test_fetch_that_writes(db: PooledDB) -> None:
    """With `readonly=False` a fetch may write, and commits."""
    assert db.fetch_all(RETURNING, (3,), readonly=False) == [(3, "x")]
    assert db.fetch_one(RETURNING, (4,), readonly=False) == (4, "x")
    assert db.fetch_value(RETURNING, (5,), readonly=False) == 5
    assert db.execute(RETURNING, (6,)) in (0, 1)  # the drivers do not agree
    assert db.fetch_value(COUNT) == 6


@pytest.mark.mariadb_only
def test_fetch_is_readonly(db: PooledDB) -> None:
    """Where it stands alone, a fetch that writes fails in the driver's words, and stores nothing; a
    driver without readonly sessions runs it.
    """
    pool = db.pool()
    if not pool.driver.has_readonly:
        assert db.fetch_all(RETURNING, (3,)) == [(3, "x")]
        return
    for fetch in (db.fetch_all, db.fetch_one, db.fetch_value):
        with pytest.raises(pool.driver.Error):
            fetch(RETURNING, (3,))
    assert db.fetch_value(COUNT) == 2


@pytest.mark.mariadb_only
def test_part_of_block(db: PooledDB) -> None:
    """In an open block it is a part of that: it sees what the block wrote, and goes with it."""
    with pytest.raises(LookupError):
        roll_back_around(db)
    assert db.fetch_value(COUNT) == 2
    with db.connection_context() as conn:
        insert(conn, 3)
        assert db.execute("DELETE FROM t WHERE id < 3") == 2
    assert db.fetch_all("SELECT id FROM t") == [(3,)]


def roll_back_around(db: PooledDB) -> None:
    with db.connection_context() as conn:
        insert(conn, 3)
        assert db.fetch_value(COUNT) == 3
        assert db.fetch_one(RETURNING, (4,)) == (4, "x")
        assert db.fetch_value(COUNT, savepoint=False, statement_timeout=None) == 4
        assert db.execute("DELETE FROM t") == 4
        assert db.stats().in_use == 1
        raise LookupError


def test_part_of_readonly_block(db: PooledDB) -> None:
    """In a readonly block nothing writes."""
    if not db.pool().driver.has_readonly:
        return
    with db.connection_context(readonly=True) as conn:
        assert db.fetch_value(COUNT) == 2
        for options in ({}, {"readonly": False}):
            with pytest.raises(conn.Error):
                db.fetch_value("INSERT INTO t VALUES (3, 'x')", **options)  # type: ignore[arg-type]
        with pytest.raises(conn.Error):
            db.execute("DELETE FROM t")
    assert db.fetch_value(COUNT) == 2


def test_error_is_the_drivers(db: PooledDB) -> None:
    """An error is the driver's. In a block it can be caught as that of a cursor there; with an
    option the statement is a nested block, which is undone alone.
    """
    error = db.pool().driver.Error
    with pytest.raises(error):
        db.execute("INSERT INTO t VALUES (1, 'x')")
    with pytest.raises(error):
        db.fetch_all("SELECT nothing FROM nowhere")
    with db.connection_context() as conn:
        insert(conn, 3)
        with pytest.raises(conn.IntegrityError):
            db.execute("INSERT INTO t VALUES (1, 'x')", savepoint=True)
        insert(conn, 4)
    assert db.fetch_value(COUNT) == 4
    with pytest.raises(TransactionAborted), db.connection_context() as conn:
        with pytest.raises(conn.IntegrityError):
            db.execute("INSERT INTO t VALUES (1, 'x')", savepoint=False)


def test_options(db: PooledDB) -> None:
    """The options are those of a scope."""
    assert db.fetch_value("SELECT 1", independent=True, timeout=5.0) == 1
    with db.connection_context() as conn:
        insert(conn, 3)
        assert db.fetch_value(COUNT) == 3
        assert db.fetch_value(COUNT, independent=True) == 2
    if db.pool().driver.has_readonly:
        assert db.execute("DELETE FROM t", isolation_level="SERIALIZABLE") == 3
        assert db.fetch_all(COUNT, isolation_level="SERIALIZABLE", readonly=False) == [(0,)]
    for wrong in ({"readonly": 1}, {"timeout": "soon"}, {"savepoint": None}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            db.fetch_all("SELECT 1", **wrong)
    methods: list[Any] = [db.execute, db.fetch_all, db.fetch_one, db.fetch_value]
    for method in (*methods, db.connection_context):
        told = rf"^{method.__name__}\(\) got an unexpected keyword argument 'colour'$"
        for more in ({}, {"readonly": False}):
            with pytest.raises(TypeError, match=told):
                method("default", colour="red", **more)
    with pytest.raises(TypeError):
        db.fetch_all("SELECT 1", None, "default")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["fetch_all", "fetch_one", "fetch_value"])
def test_no_rows(db: PooledDB, name: str) -> None:
    """A fetch of a statement that returns no rows is refused, on every driver, and what it wrote
    where it stood alone, or in a block of its own, is undone.
    """
    fetch = getattr(db, name)
    told = r"the statement returns no rows: use db\.execute\(\)"
    for options in ({}, {"independent": True}):
        with pytest.raises(UsageError, match=told):
            fetch(UPDATE, readonly=False, **options)
        assert db.fetch_all("SELECT name FROM t ORDER BY id") == [("one",), ("two",)]
    with db.connection_context() as conn:
        insert(conn, 3)
        with pytest.raises(UsageError, match=told):
            fetch(UPDATE, savepoint=True)
        assert db.fetch_value("SELECT name FROM t WHERE id = 1") == "one"
        with pytest.raises(UsageError, match=told):
            fetch("DELETE FROM t WHERE id = %s", (1,))
        assert fetch("SELECT id FROM t WHERE id = 1") in ([], None)  # a part of the block
    assert db.fetch_value(COUNT) == 2


def test_no_columns(postgresql: str) -> None:
    """PostgreSQL has rows without columns: they have no value."""
    with bare_app(url=postgresql) as (app, db), app.app_context():
        assert db.fetch_all("SELECT") == [()]
        assert db.fetch_one("SELECT") == ()
        assert db.fetch_value("SELECT") is None
        assert db.fetch_value("SELECT", rows="dict") is None
        assert db.fetch_all("SELECT WHERE false") == []
        db.execute("DROP TABLE t")


def test_timeout(url: str) -> None:
    """`timeout` bounds the wait for a connection."""
    with bare_app(url=url, maxconnections=1) as (app, db), app.app_context():
        with db.connection_context(), pytest.raises(PoolTimeout):
            db.fetch_value("SELECT 1", independent=True, timeout=0.01)


def test_bind(tmp_path: Path) -> None:
    """`bind` names another database; a block of the default one is not its block."""
    binds = {"log": f"sqlite:///{tmp_path / 'log'}"}
    with bare_app(url=f"sqlite:///{tmp_path / 'shop'}", binds=binds) as (app, db):
        with app.app_context(), db.connection_context() as conn:
            db.execute(CREATE, bind="log")
            assert db.execute("INSERT INTO t VALUES (1, 'x')", bind="log") == 1
            assert db.fetch_all("SELECT id FROM t", bind="log") == [(1,)]
            assert db.fetch_one("SELECT id FROM t", bind="log") == (1,)
            assert db.fetch_value("SELECT id FROM t", bind="log") == 1
            assert db.fetch_value(COUNT) == 0
            with pytest.raises(UsageError, match="no bind 'lgo'"):
                db.fetch_value(COUNT, bind="lgo")
            insert(conn, 2)


def test_rows_of_other_shapes(mariadb: MariaDBServer) -> None:
    """The first value of a row is its first column, also where rows are mappings."""
    url = mariadb.url("pymysql", mariadb.create_database())
    with (
        bare_app(url=url, connect_args={"cursorclass": DictCursor}) as (app, db),
        app.app_context(),
    ):
        assert db.fetch_one("SELECT 7 AS a, 8 AS b") == {"a": 7, "b": 8}
        assert db.fetch_value("SELECT 7 AS a, 8 AS b") == 7


def test_statement_before_first_request(site: tuple[Flask, PooledDB]) -> None:
    """It works without an app context."""
    _, db = site
    db.execute("INSERT INTO t VALUES (1, 'x')")
    assert db.fetch_value(COUNT) == 1


def test_shape_of_rows(db: PooledDB) -> None:
    """`rows=` is taken, and a block around has no say in what a function gets of a statement."""
    one, sql = {"id": 1, "name": "one"}, "SELECT id, name FROM t WHERE id = 1"
    assert db.fetch_one(sql, rows="dict") == one
    assert db.fetch_value(sql, rows=lambda description, row: None) == 1
    with db.connection_context(rows="dict") as conn, conn.cursor() as cur:
        cur.execute(sql)
        assert cur.fetchone() == one
        cur.execute("UPDATE t SET name = 'uno' WHERE id = 1")
        assert db.fetch_one(sql) == (1, "uno")
        assert db.fetch_one(sql, rows="dict") == {**one, "name": "uno"}
        assert db.fetch_value(sql) == 1
