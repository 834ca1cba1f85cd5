"""The shape of rows: `POOLED_DB_ROWS` and `rows=`, the same on every driver."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import mysql.connector
import pytest

from flask_pooled_db import (
    PooledDB,
    TransactionAborted,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from flask_pooled_db.config import Rows
from flask_pooled_db.lease.rows import row_class
from harness.postgres import postgres
from harness.server import APP_PASSWORD, APP_USER, MariaDBServer
from tests.drivers import generic
from tests.support.apps import pooled_app
from tests.support.rawdb import rawdb
from tests.support.sites import CREATE
from tests.support.stages import ON_SHARED_SERVER

Open = Callable[..., AbstractContextManager[Any]]

ROWS = [(1, "a"), (2, "b"), (3, "c")]
DICTS = [{"id": id_, "name": name} for id_, name in ROWS]
ALL = "SELECT id, name FROM t ORDER BY id"

ON_SERVERS = [*ON_SHARED_SERVER, pytest.param("mysql.connector", marks=pytest.mark.mariadb_only)]
ON_POSTGRESQL = ["psycopg", "psycopg2", "pg8000"]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of this module's own."""
    with postgres() as url:
        yield url


def keys_for(kind: str, request: pytest.FixtureRequest, path: Path) -> dict[str, Any]:
    """The configuration keys of a database of its own with a driver."""
    if kind in ON_POSTGRESQL:
        url: str = request.getfixturevalue("postgresql")
        return {"url": url} if kind == "psycopg" else generic.keys(generic.MODULES[kind], url)
    if kind in ("sqlite", "rawdb"):
        database = {"database": path / "file.db"}
        return (
            {"creator": rawdb(), "connect_args": database}
            if kind == "rawdb"
            else {"url": f"sqlite:///{path / 'file.db'}"}
        )
    server: MariaDBServer = request.getfixturevalue("mariadb")
    name = server.create_database()
    if kind != "mysql.connector":
        return {"url": server.url(kind, name)}
    arguments = {"host": server.host, "port": server.port, "database": name}
    arguments |= {"user": APP_USER, "password": APP_PASSWORD, "use_pure": True}
    return {"creator": mysql.connector, "connect_args": arguments}


@pytest.fixture(params=["sqlite", "rawdb", *ON_SERVERS, *ON_POSTGRESQL])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens an app with the table `t` of three rows, on each driver in turn, and its context."""
    keys = keys_for(request.param, request, tmp_path)

    @contextlib.contextmanager
    def open_app(**settings: Any) -> Iterator[PooledDB]:
        with pooled_app(**{"maxconnections": 1, **keys, **settings}) as (_, db):
            with db_connection_context() as conn:
                cur = conn.cursor()
                cur.execute("DROP TABLE IF EXISTS t")
                cur.execute(CREATE)
                for id_, name in ROWS:
                    cur.execute(f"INSERT INTO t VALUES ({id_}, '{name}')")
            yield db

    return open_app


@pytest.fixture
def on_file(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PooledDB]:
    """An app on a file with that table: for what the driver has no part in."""
    with pooled_app(f"sqlite:///{tmp_path / 'file.db'}", maxconnections=1) as (_, db):
        with db_connection_context() as conn:
            conn.execute(CREATE)
            conn.cursor().executemany("INSERT INTO t VALUES (?, ?)", ROWS)
        yield db


def cursor_of(conn: Any, sql: str = ALL) -> Any:
    """A cursor that has run a query."""
    cur = conn.cursor()
    cur.execute(sql)
    return cur


def first(conn: Any, sql: str = ALL) -> Any:
    """The first row of a query."""
    with contextlib.closing(cursor_of(conn, sql)) as cur:
        return cur.fetchall()[0]


def read_in_each_way(conn: Any) -> list[list[Any]]:
    """The three rows, as each of a cursor's methods gives them."""
    one = cursor_of(conn)
    ways = [list(iter(one.fetchone, None))]
    ways += [cursor_of(conn).fetchall(), list(cursor_of(conn))]
    many = cursor_of(conn)
    ways += [[*many.fetchmany(2), *many.fetchmany(2)]]
    assert many.fetchone() is None
    assert not many.fetchall()
    return ways


# The shapes, on every driver


def test_rows_are_tuples(opened: Open) -> None:
    """Rows are as the driver makes them, by default."""
    with opened(), db_connection_context() as conn:
        ways = read_in_each_way(conn)
        assert [[tuple(row) for row in rows] for rows in ways] == [ROWS] * 4


def test_rows_are_dicts(opened: Open) -> None:
    """With ROWS "dict" each row of every lease is a dict by the columns' names."""
    with opened(rows="dict") as db:
        with db_connection_context() as conn:
            assert read_in_each_way(conn) == [DICTS] * 4
        with contextlib.closing(get_db_connection()) as conn:
            assert first(conn) == DICTS[0]
        with contextlib.closing(db.pool().connection()) as conn:
            assert first(conn) == DICTS[0]


def test_rows_of_one_scope(opened: Open) -> None:
    """`rows=` is of one scope alone: the next lease of the connection has the usual shape."""
    with opened() as db:
        with db_connection_context(rows="dict") as conn:
            assert read_in_each_way(conn) == [DICTS] * 4
        with db_connection_context() as conn:
            assert tuple(first(conn)) == ROWS[0]
        with contextlib.closing(get_db_connection(rows="dict")) as conn:
            assert first(conn) == DICTS[0]
        with contextlib.closing(get_db_connection()) as conn:
            assert tuple(first(conn)) == ROWS[0]
        assert db.stats().connects == 1


def test_rows_as_usual_in_one_scope(opened: Open) -> None:
    """`rows="tuple"` has one scope get rows as the driver makes them."""
    with opened(rows="dict"), db_connection_context(rows="tuple") as conn:
        assert [[tuple(row) for row in rows] for rows in read_in_each_way(conn)] == [ROWS] * 4


def test_rows_are_named_tuples(opened: Open) -> None:
    """With ROWS "namedtuple" a row is a tuple whose values have the columns' names."""
    with opened(rows="namedtuple"), db_connection_context() as conn:
        assert read_in_each_way(conn) == [ROWS] * 4
        row = first(conn)
        assert (row.id, row.name, row[0]) == (1, "a", 1)
        id_, name = row
        assert (id_, name, row._asdict()) == (1, "a", DICTS[0])


def test_rows_of_a_function(opened: Open) -> None:
    """A function makes each row of the cursor's description and the driver's row."""

    def make(description: Any, row: Any) -> Any:
        return [column[0] for column in description], tuple(row)

    expected = [(["id", "name"], row) for row in ROWS]
    with opened(rows=make), db_connection_context() as conn:
        assert read_in_each_way(conn) == [expected] * 4
        with db_connection_context(rows=lambda _, row: row[1]):
            assert read_in_each_way(conn) == [["a", "b", "c"]] * 4


def test_rows_of_each_bind(tmp_path: Path) -> None:
    """A bind has the shape that it says, else the app's."""
    binds = {"own": {"URL": "sqlite://", "ROWS": "namedtuple"}, "other": "sqlite://"}
    with pooled_app(f"sqlite:///{tmp_path / 'file.db'}", rows="dict", binds=binds):
        shapes = {}
        for bind in (None, "own", "other"):
            with db_connection_context(bind) as conn:
                shapes[bind] = first(conn, "SELECT 1 AS a")
        assert shapes == {None: {"a": 1}, "own": (1,), "other": {"a": 1}}
        assert shapes["own"].a == 1


def test_rows_with_replica(tmp_path: Path) -> None:
    """A readonly scope has the shape of its bind, wherever it runs."""
    path = tmp_path / "file.db"
    binds = {"near": {"URL": f"sqlite:///{path}", "ROWS": "namedtuple"}}
    with pooled_app(f"sqlite:///{path}", rows="dict", binds=binds, replica="near") as (_, db):
        with db_connection_context(readonly=True) as conn:
            assert first(conn, "SELECT 1 AS a") == {"a": 1}
            with db_connection_context():
                assert first(conn, "SELECT 1 AS a") == {"a": 1}
        assert db.stats("near").checkouts == 1


def test_rows_of_shared_connection(postgresql: str) -> None:
    """The leases of a shared connection have each its own shape."""
    with pooled_app(postgresql, maxconnections=1, maxshared=1) as (_, db):
        one = get_db_connection(shareable=True, rows="dict")
        other = get_db_connection(shareable=True)
        assert first(one, "SELECT 1 AS a") == {"a": 1}
        assert first(other, "SELECT 1 AS a") == (1,)
        assert db.stats().open == 1
        one.close()
        other.close()


def test_rows_of_readonly_scope(opened: Open) -> None:
    """A readonly scope, or one with an isolation level, takes `rows=` where it is to be had."""
    with opened(), contextlib.suppress(UsageError):
        for options in ({"readonly": True}, {"isolation_level": "SERIALIZABLE"}):
            with db_connection_context(rows="dict", **options) as conn:
                assert first(conn) == DICTS[0]


# Blocks in blocks


def test_nested_rows(opened: Open) -> None:
    """A cursor has the shape of the block that it is made in, and keeps it."""
    with opened(), db_connection_context() as conn:
        outer = conn.cursor()
        with db_connection_context(rows="dict") as inner:
            assert inner is conn
            cur = conn.cursor()
            assert first(conn) == DICTS[0]
            with db_connection_context(rows="namedtuple"):
                assert first(conn).name == "a"
            assert first(conn) == DICTS[0]
            outer.execute(ALL)
            assert tuple(outer.fetchall()[0]) == ROWS[0]
        cur.execute(ALL)
        assert cur.fetchall() == DICTS
        assert tuple(first(conn)) == ROWS[0]


def test_nested_rows_as_configured(opened: Open) -> None:
    """A block without `rows=` has the bind's shape: its caller's has no part in it."""
    pairs: tuple[tuple[Rows, Rows], ...] = (("tuple", "dict"), ("dict", "tuple"))
    for configured, of_caller in pairs:
        with opened(rows=configured), db_connection_context(rows=of_caller) as conn:
            with db_connection_context():
                inner = first(conn)
            assert isinstance(inner, dict) is (configured == "dict")
            assert isinstance(first(conn), dict) is (of_caller == "dict")


def test_nested_rows_in_generator(on_file: PooledDB) -> None:
    """The block that a suspended generator holds has no part in what its consumer's rows are."""

    def names() -> Iterator[Any]:
        with db_connection_context(rows="dict") as conn:
            for row in cursor_of(conn):
                yield row
                assert first(conn) == DICTS[0]

    with db_connection_context() as conn:
        for row in names():
            assert isinstance(row, dict)
            assert first(conn) == ROWS[0]


def test_rows_after_failed_block(on_file: PooledDB) -> None:
    """A nested block that fails leaves the outer one's shape as it was."""
    with db_connection_context() as conn:
        with contextlib.suppress(LookupError), db_connection_context(rows="dict"):
            raise LookupError
        assert first(conn) == ROWS[0]


def test_t4_rows_in_aborted_block(on_file: PooledDB) -> None:
    """A block with `rows=` inside a transaction that is lost fails as one without does: by its
    statements, not by its entry.
    """
    error = LookupError()
    with contextlib.suppress(TransactionAborted), db_connection_context() as conn:
        with contextlib.suppress(LookupError), db_connection_context(savepoint=False):
            cursor_of(conn, "INSERT INTO t VALUES (9, 'z')")
            raise error
        with db_connection_context(rows="dict"), pytest.raises(TransactionAborted):
            conn.cursor()
    with db_connection_context() as conn:
        assert cursor_of(conn).fetchall() == ROWS


# Names that make trouble


def test_dict_with_same_names(opened: Open) -> None:
    """Two columns of one name are an error, which says what to do: a dict would lose one of them.
    Nothing else is lost.
    """
    same = "SELECT a.id, b.name, b.id FROM t a JOIN t b ON a.id = b.id ORDER BY a.id"
    with opened(rows="dict"), db_connection_context() as conn:
        for read in ("fetchone", "fetchall", "fetchmany", "__next__"):
            with contextlib.closing(cursor_of(conn, same)) as cur:
                with pytest.raises(UsageError, match=r"columns 1 and 3 .*'id'.* AS"):
                    getattr(cur, read)()
                with contextlib.suppress(UsageError):
                    cur.fetchall()
        assert first(conn) == DICTS[0]


def test_dict_with_same_texts(on_file: PooledDB) -> None:
    """A3: an expression is a column's name, and may hold anything: it is not shown."""
    with db_connection_context(rows="dict") as conn:
        with pytest.raises(UsageError) as caught:
            first(conn, "SELECT 'my secret!', 'my secret!'")
        assert "columns 1 and 2" in str(caught.value)
        assert "secret" not in str(caught.value)


def test_dict_of_any_names(on_file: PooledDB) -> None:
    """A dict's keys are the names as they are."""
    with db_connection_context(rows="dict") as conn:
        row = first(
            conn, 'SELECT count(*), 1 AS "class", 2 AS "a b", 3 AS A, 4 AS a, 5 AS "" FROM t'
        )
        assert row == {"count(*)": 3, "class": 1, "a b": 2, "A": 3, "a": 4, "": 5}


def test_named_tuple_of_any_names(on_file: PooledDB) -> None:
    """What can't be the name of a field is an underscore and the column's place."""
    with db_connection_context(rows="namedtuple") as conn:
        row = first(
            conn, 'SELECT id, count(*), 1 AS "class", 2 AS id, 3 AS _x, 4 AS "count" FROM t'
        )
        assert row._fields == ("id", "_1", "_2", "_3", "_4", "count")
        assert row == (1, 3, 1, 2, 3, 4)
        assert row.count == 4
        row = first(conn, 'SELECT 1 AS "\N{LATIN SMALL LIGATURE FI}", 2 AS fi, 3 AS é')
        assert row._fields == ("fi", "_1", "é")


def test_named_tuple_classes(on_file: PooledDB) -> None:
    """Rows of the same columns are of one class, whatever the statement, and can be pickled and
    copied.
    """
    with db_connection_context(rows="namedtuple") as conn:
        row, other = first(conn), first(conn, "SELECT 5 AS id, 'x' AS name")
        assert type(row) is type(other)
        odd = first(conn, "SELECT count(*), 2 AS _a FROM t")
        for one in (row, odd):
            for copied in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
                assert copied == one
                assert type(copied) is type(one)


def test_named_tuple_classes_are_bounded(on_file: PooledDB) -> None:
    """The classes of many different results are not all kept."""
    before = len(row_classes())
    with db_connection_context(rows="namedtuple") as conn:
        for number in range(300):
            first(conn, f"SELECT {number} AS a{number}")
    gc.collect()
    assert row_class.cache_info().currsize <= 256
    assert len(row_classes()) - before <= 256


def row_classes() -> list[type]:
    kinds = [kind for kind in tuple.__subclasses__() if kind.__name__ == "Row"]
    return [kind for kind in kinds if kind.__module__ == row_class.__module__]


# What a function of the caller's may do


def test_t2_function_raises(opened: Open) -> None:
    """An exception of the function is the caller's; the lease, its transaction and the cursor go
    on.
    """

    def fail_at_two(description: Any, row: Any) -> Any:
        if row[0] == 2:
            raise LookupError(row[0])
        return row[1]

    with opened() as db:
        with db_connection_context(rows=fail_at_two) as conn:
            cursor_of(conn, "INSERT INTO t VALUES (9, 'z')")
            cur = cursor_of(conn)
            assert cur.fetchone() == "a"
            with pytest.raises(LookupError):
                cur.fetchone()
            assert cur.fetchone() == "c"
            cur.fetchall()
            with pytest.raises(LookupError):
                cursor_of(conn).fetchall()
            assert first(conn, "SELECT id, name FROM t WHERE id = 9") == "z"
        with db_connection_context(rows=lambda _, row: row[0]) as conn:
            assert cursor_of(conn).fetchall() == [1, 2, 3, 9]
        assert db.stats().connects == 1


def test_function_uses_connection(opened: Open) -> None:
    """The function may use the connection itself."""
    seen: list[Any] = []

    def make(description: Any, row: Any) -> Any:
        if not seen:
            seen.append(None)
            seen[0] = first(conn, "SELECT id, name FROM t WHERE id = 3")
        return row[0]

    with opened(), db_connection_context(rows=make) as conn:
        assert cursor_of(conn).fetchall() == [1, 2, 3]
        assert seen == [3]


def test_function_raises_stop_iteration(on_file: PooledDB) -> None:
    """StopIteration of the function does not pass for the end of the rows."""

    def make(description: Any, row: Any) -> Any:
        return next(iter(()))

    with db_connection_context(rows=make) as conn, pytest.raises(RuntimeError, match="StopIter"):
        list(cursor_of(conn))


def test_wrong_rows(opened: Open) -> None:
    """A wrong value is refused before a connection is taken; the error lists what is allowed."""
    with opened() as db:
        before = db.stats().checkouts
        wrong: Any
        for wrong in ("Dict", "", 1, True, dict, tuple, lambda row: row, b"dict"):
            for take in (db_connection_context, get_db_connection):
                with pytest.raises(UsageError, match=r"rows must be 'tuple', 'dict' or 'namedtup"):
                    take(rows=wrong)
        assert db.stats().checkouts == before
