"""The drivers' own ways to make rows work beside `POOLED_DB_ROWS`, and win over it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import psycopg
import psycopg2
import psycopg2.extras
import pymysql.cursors
import pytest
from psycopg.rows import dict_row, scalar_row, tuple_row

from flask_pooled_db import ConfigError, PooledDB, UsageError, db_connection_context
from flask_pooled_db import get_db_connection as borrow
from flask_pooled_db.config import Rows
from harness.postgres import postgres
from harness.server import APP_PASSWORD, APP_USER, MariaDBServer
from tests.drivers import generic
from tests.support.apps import pooled_app

SQL = "SELECT 1 AS a, 2 AS b"
TUPLE, DICT = (1, 2), {"a": 1, "b": 2}
FEW = "SELECT 1 AS a UNION ALL SELECT 2 UNION ALL SELECT 3"
FEW_DICTS = [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of this module's own."""
    with postgres() as url:
        yield url


def first(conn: Any, *args: Any, sql: str = SQL, **kwargs: Any) -> Any:
    """The first row, with a cursor of these arguments."""
    with conn.cursor(*args, **kwargs) as cur:
        cur.execute(sql)
        return cur.fetchall()[0]


def keys_of(row: Any) -> list[str]:
    return list(row.keys())


SETTINGS: list[dict[str, Any]] = [{}, {"rows": "dict"}, {"rows": "namedtuple"}]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: one.get("rows", ""))


# sqlite3


@each_setting
def test_sqlite_row_factory(settings: dict[str, Any]) -> None:
    """`row_factory` of a cursor, or of a lease until its end, is called as sqlite3 calls it."""
    with pooled_app("sqlite://", maxconnections=1, **settings) as (_, db):
        with db_connection_context() as conn:
            usual = type(first(conn))
            with conn.cursor() as cur:
                cur.row_factory = sqlite3.Row
                assert keys_of(cur.execute(SQL).fetchone()) == ["a", "b"]
                cur.row_factory = lambda cursor, row: (type(cursor), row[::-1])
                assert list(cur.execute(SQL)) == [(type(cur.driver_cursor), (2, 1))]
            with conn.cursor() as cur:
                assert cur.execute(FEW).fetchone() is not None
                cur.row_factory = lambda _, row: row * 2
                assert cur.fetchall() == [(2, 2), (3, 3)]
            assert conn.row_factory is None
            conn.row_factory = sqlite3.Row
            assert conn.row_factory is sqlite3.Row
            for row in (first(conn), *conn.execute(SQL), conn.executescript(SQL + ";").fetchone()):
                assert row is None or type(row) is sqlite3.Row
            conn.row_factory = None
            assert type(first(conn)) is usual
            conn.row_factory = sqlite3.Row
        for take in (db_connection_context, borrow):
            with take() as conn:
                assert conn.row_factory is None
                assert type(first(conn)) is usual
        assert db.stats().discarded == 0
        assert db.stats().connects == 1


def test_row_factory_of_block() -> None:
    """What a nested block sets of its connection ends with it, and what its caller has set does
    not count in it.
    """
    with pooled_app("sqlite://"), db_connection_context() as conn:
        with db_connection_context():
            conn.row_factory = sqlite3.Row
            assert type(first(conn)) is sqlite3.Row
        assert first(conn) == TUPLE
        conn.row_factory = sqlite3.Row
        with db_connection_context():
            assert conn.row_factory is None
            assert first(conn) == TUPLE
        assert type(first(conn)) is sqlite3.Row


@each_setting
def test_sqlite_own_cursor_class(settings: dict[str, Any]) -> None:
    """A cursor class of the app's own that makes rows of its own keeps them; what it leaves as
    tuples has the shape.
    """

    class Own(sqlite3.Cursor):
        def fetchone(self) -> Any:
            return {"own": super().fetchone()}

    class Plain(sqlite3.Cursor):
        pass

    with pooled_app("sqlite://", **settings), db_connection_context() as conn:
        own = conn.cursor(Own)
        assert own.execute(SQL).fetchone() == {"own": TUPLE}
        assert type(first_of(conn.cursor(Plain))) is type(first(conn))


@pytest.mark.parametrize("rows", ["dict", "namedtuple"])
def test_cursor_class_with_other_columns(rows: Rows) -> None:
    """Tuples of a cursor class's own that do not fit its description are an error, which names the
    remedy.
    """

    class Longer(sqlite3.Cursor):
        def fetchone(self) -> Any:
            return (*super().fetchone(), "more")

    with pooled_app("sqlite://"), db_connection_context(rows=rows) as conn:
        cur = conn.cursor(Longer)
        with pytest.raises(UsageError, match=r'3 values.* 2 columns.*rows="tuple"'):
            cur.execute(SQL).fetchone()
        assert conn.execute(SQL).fetchone() is not None


def first_of(cur: Any) -> Any:
    return cur.execute(SQL).fetchone()


@pytest.mark.parametrize("rows", ["tuple", "dict"])
def test_creator_with_row_factory(tmp_path: Path, rows: str) -> None:
    """Connections of a `CREATOR` that have a row_factory of their own keep it."""

    def connect() -> sqlite3.Connection:
        made = sqlite3.connect(tmp_path / "file.db", check_same_thread=False)
        made.row_factory = sqlite3.Row
        return made

    with pooled_app(creator=connect, rows=rows), db_connection_context() as conn:
        assert conn.row_factory is sqlite3.Row
        with contextlib.closing(conn.cursor()) as cur:
            assert type(cur.execute(SQL).fetchone()) is sqlite3.Row
            cur.row_factory = None
            assert cur.execute(SQL).fetchone() == (DICT if rows == "dict" else TUPLE)


def test_wrapped_connection_row_factory(tmp_path: Path) -> None:
    """A lease of a connection that is wrapped in a tracer's object takes the settings as well."""

    class Wrapped:
        def __init__(self, raw: Any) -> None:
            self._raw = raw

        def __getattr__(self, name: str) -> Any:
            return getattr(self._raw, name)

    def connect() -> Wrapped:
        return Wrapped(sqlite3.connect(tmp_path / "file.db", check_same_thread=False))

    with pooled_app(creator=connect, maxconnections=1):
        with db_connection_context() as conn:
            conn.row_factory = sqlite3.Row
            assert type(conn.execute(SQL).fetchone()) is sqlite3.Row
        with db_connection_context(rows="dict") as conn:
            assert conn.execute(SQL).fetchone() == DICT


def test_t7_settings_after_release() -> None:
    """After its release a lease takes no settings, and tells none."""
    with pooled_app("sqlite://"):
        with db_connection_context() as conn:
            conn.row_factory = sqlite3.Row
            cur = conn.cursor()
        with pytest.raises(UsageError):
            conn.row_factory = None
        with pytest.raises(UsageError):
            conn.row_factory  # noqa: B018
        with db_connection_context(rows="dict") as conn:
            shaped = conn.cursor()
            shaped.execute(SQL)
        for one in (cur, shaped):
            for read in ("fetchone", "fetchall", "fetchmany", "__next__"):
                with pytest.raises(UsageError):
                    getattr(one, read)()
            with pytest.raises(UsageError):
                one.execute(SQL)
            one.close()


# PyMySQL


@pytest.fixture(params=SETTINGS, ids=lambda one: one.get("rows", ""))
def on_pymysql(
    request: pytest.FixtureRequest, mariadb: MariaDBServer, database: str
) -> Iterator[PooledDB]:
    """A pool of one connection of PyMySQL's, with each shape."""
    with pooled_app(mariadb.url("pymysql", database), maxconnections=1, **request.param) as (_, db):
        yield db


def test_pymysql_cursor_classes(on_pymysql: PooledDB) -> None:
    """A cursor class as argument, or set on a lease until its end, makes the rows."""
    from pymysql.cursors import DictCursor, SSCursor, SSDictCursor

    with db_connection_context() as conn:
        usual = type(first(conn))
        for kind in (DictCursor, SSDictCursor):
            assert first(conn, kind) == DICT
        assert type(first(conn, SSCursor)) is usual
        assert conn.cursorclass is pymysql.cursors.Cursor
        conn.cursorclass = DictCursor
        assert conn.cursorclass is DictCursor
        assert first(conn) == DICT
        assert type(first(conn, pymysql.cursors.Cursor)) is usual
        assert first(conn, sql="SELECT 1 AS a, 2 AS a") == {"a": 1, ".a": 2}
        conn.cursorclass = SSDictCursor
        with conn.cursor() as cur:
            cur.execute(FEW)
            assert cur.fetchone() == {"a": 1}
            with pytest.raises(UsageError):
                first(conn)
            assert cur.fetchall() == FEW_DICTS[1:]
    with db_connection_context() as conn:
        assert conn.cursorclass is pymysql.cursors.Cursor
        assert type(first(conn)) is usual
    assert on_pymysql.stats().connects == 1
    assert on_pymysql.stats().discarded == 0


@pytest.mark.parametrize("rows", ["tuple", "namedtuple"])
def test_cursorclass_in_url(mariadb: MariaDBServer, database: str, rows: str) -> None:
    """A cursor class is given in a URL, or as text among the connect arguments, by its name."""
    url = mariadb.url("pymysql", database)
    join = "&" if "?" in url else "?"
    for settings in (
        {"url": f"{url}{join}cursorclass=DictCursor"},
        {"url": f"{url}{join}cursorclass=pymysql.cursors.DictCursor"},
        {"url": url, "connect_args": {"cursorclass": "DictCursor"}},
        {"url": url, "connect_args": {"cursorclass": pymysql.cursors.DictCursor}},
    ):
        with pooled_app(rows=rows, **settings), db_connection_context() as conn:
            assert first(conn) == DICT


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("mysql+pymysql://app@h/d?cursorclass={}", "Cursor, DictCursor, SSCursor, SSDictCursor"),
        ("postgresql+psycopg://app@h/d?row_factory={}", "tuple_row, dict_row"),
        ("postgresql+psycopg://app@h/d?cursor_factory={}", "Cursor, ClientCursor"),
    ],
)
@pytest.mark.parametrize("name", ["DictCursorr", "os.system", "err", ""])
def test_unknown_cursorclass_in_url(url: str, remedy: str, name: str) -> None:
    """A name that is none of the driver's is a ConfigError, which lists what there is."""
    with pytest.raises(ConfigError, match=remedy), pooled_app(url.format(name), mincached=3):
        pass


def streamed(conn: Any, *args: Any, **kwargs: Any) -> list[list[Any]]:
    """The rows of a streaming cursor, in each way to read them."""
    found = []
    for read in (
        lambda cur: list(iter(cur.fetchone, None)),
        lambda cur: cur.fetchall(),
        list,
        lambda cur: [*cur.fetchmany(2), *cur.fetchmany(2)],
        lambda cur: [cur.fetchone(), *cur.fetchmany(1), *cur.fetchall()],
    ):
        with conn.cursor(*args, **kwargs) as cur:
            cur.execute(FEW)
            found.append(read(cur))
    return found


def test_pymysql_streaming_rows(mariadb: MariaDBServer, database: str) -> None:
    """The rows of a streaming cursor of PyMySQL's have the shape, each once."""
    from pymysql.cursors import SSCursor

    with pooled_app(mariadb.url("pymysql", database), rows="dict"):
        with db_connection_context() as conn:
            assert streamed(conn, SSCursor) == [FEW_DICTS] * 5
            for method in ("fetchall_unbuffered", "__iter__"):
                with conn.cursor(SSCursor) as cur:
                    cur.execute(FEW)
                    assert list(getattr(cur, method)()) == FEW_DICTS
            with conn.cursor(SSCursor) as cur:
                cur.execute(FEW)
                assert [cur.read_next() for _ in FEW_DICTS] == FEW_DICTS
                assert cur.read_next() is None


def test_streaming_row_seen_ahead(direct_rows: tuple[PooledDB, Any]) -> None:
    """A row that was fetched to see whether there is one is shaped once."""
    _, make = direct_rows
    with db_connection_context(rows=lambda _, row: (row,)) as conn:
        cur = make(conn)
        cur.execute(FEW)
        assert cur.fetchone() == ((1,),)
        with pytest.raises(UsageError):
            conn.cursor().execute(FEW)
        assert cur.fetchall() == [((2,),), ((3,),)]
        cur.execute(FEW)
        assert next(cur) == ((1,),)
        with pytest.raises(UsageError):
            conn.cursor().execute(FEW)
        assert cur.fetchmany(2) == [((2,),), ((3,),)]


@pytest.fixture
def direct_rows(mariadb: MariaDBServer, database: str, mariadb_driver: str) -> Iterator[Any]:
    """An app, and what makes a streaming cursor of its driver's."""
    from pymysql.cursors import SSCursor

    def make(conn: Any) -> Any:
        is_pymysql = mariadb_driver == "pymysql"
        return conn.cursor(SSCursor) if is_pymysql else conn.cursor(buffered=False)

    with pooled_app(mariadb.url(mariadb_driver, database)) as (_, db):
        yield db, make


PROCEDURE = """
CREATE PROCEDURE `{0}`.two_results() BEGIN
    SELECT 1 AS a UNION ALL SELECT 2; SELECT 3 AS b, 'x' AS c;
END
"""


@pytest.mark.parametrize("is_streaming", [False, True])
def test_rows_of_procedure(
    mariadb: MariaDBServer, database: str, direct_rows: Any, is_streaming: bool
) -> None:
    """Each result of a procedure has its own columns."""
    mariadb.execute(PROCEDURE.format(database))
    expected: tuple[tuple[Rows, Any], ...]
    expected = (("dict", {"b": 3, "c": "x"}), ("namedtuple", (3, "x")))
    for rows, second in expected:
        for start in ("callproc", "execute"):
            with db_connection_context(rows=rows) as conn:
                cur = direct_rows[1](conn) if is_streaming else conn.cursor()
                if start == "callproc":
                    cur.callproc("two_results", ())
                else:
                    cur.execute("CALL two_results()")
                assert [list(row.values()) if rows == "dict" else list(row) for row in cur] == [
                    [1],
                    [2],
                ]
                assert cur.nextset()
                assert cur.fetchone() == second
                assert cur.fetchone() is None
                cur.nextset()
                cur.execute(SQL)
                assert cur.fetchall() == [DICT if rows == "dict" else TUPLE]


@pytest.mark.mariadb_only
def test_rows_of_returning(mariadb: MariaDBServer, database: str, mariadb_driver: str) -> None:
    """What INSERT ... RETURNING gives has the shape, and is committed."""
    mariadb.execute(f"CREATE TABLE `{database}`.r (id INT PRIMARY KEY)")
    with pooled_app(mariadb.url(mariadb_driver, database), rows="dict"):
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("INSERT INTO r VALUES (%s) RETURNING id, id + 1 AS next", (5,))
            assert cur.fetchall() == [{"id": 5, "next": 6}]
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("SELECT id FROM r")
            assert cur.fetchone() == {"id": 5}


# MariaDB Connector/Python


@each_setting
def test_mariadb_own_ways(mariadb: MariaDBServer, database: str, settings: dict[str, Any]) -> None:
    """`dictionary=True` and `named_tuple=True` win, streaming or not; other cursors have the
    shape.
    """
    with pooled_app(mariadb.url("mariadbconnector", database), **settings):
        with db_connection_context() as conn:
            usual = type(first(conn))
            options: list[dict[str, Any]] = [{}, {"buffered": False}, {"prepared": True}]
            for more in options:
                assert first(conn, dictionary=True, **more) == DICT
                row = first(conn, named_tuple=True, **more)
                assert (row.a, row.b) == TUPLE
                assert type(first(conn, **more)) is usual
            if settings.get("rows") == "dict":
                assert streamed(conn, buffered=False) == [FEW_DICTS] * 5
                with conn.cursor(buffered=False) as cur:
                    cur.execute(FEW)
                    assert [cur.next(), *cur.fetchrows(1), *cur.fetchrows(-1)] == FEW_DICTS


# PostgreSQL


@each_setting
def test_psycopg_row_factory(postgresql: str, settings: dict[str, Any]) -> None:
    """psycopg's row factories win: of a connection, a lease, a cursor, a named one too."""
    with pooled_app(postgresql, maxconnections=1, **settings) as (_, db):
        with db_connection_context() as conn:
            usual = type(first(conn))
            assert first(conn, row_factory=dict_row) == DICT
            assert first(conn, row_factory=scalar_row) == 1
            assert first(conn, row_factory=scalar_row, sql="SELECT ROW(1, 2)") == ("1", "2")
            assert type(first(conn, "named")) is usual
            assert first(conn, "named", row_factory=dict_row) == DICT
            with conn.cursor() as cur:
                cur.row_factory = dict_row
                assert cur.execute(SQL).fetchone() == DICT
                assert cur.execute(SQL).connection is conn
            assert conn.row_factory is tuple_row
            conn.row_factory = dict_row
            assert conn.row_factory is dict_row
            assert first(conn) == first(conn, "named") == conn.execute(SQL).fetchone() == DICT
            assert type(first(conn, row_factory=tuple_row)) is usual
        with db_connection_context() as conn:
            assert conn.row_factory is tuple_row
            assert type(first(conn)) is type(conn.execute(SQL).fetchone()) is usual
        assert db.stats().connects == 1


def test_psycopg_rows(postgresql: str) -> None:
    """Whatever reads rows of psycopg's gives them the shape: named cursors, `stream()`, several
    results, RETURNING, a pipeline.
    """
    with pooled_app(postgresql, rows="dict"), db_connection_context() as conn:
        assert streamed(conn) == streamed(conn, "named") == [FEW_DICTS] * 5
        cur = conn.cursor()
        assert list(cur.stream(FEW)) == FEW_DICTS
        rows = cur.stream(FEW)
        assert next(rows) == {"a": 1}
        rows.close()
        cur.executemany("SELECT %s::int AS a", [(1,), (2,)], returning=True)
        assert cur.fetchone() == {"a": 1}
        assert cur.nextset()
        assert cur.fetchone() == {"a": 2}
        cur.execute("SELECT 1 AS a; SELECT 2 AS b")
        assert [one.fetchall() for one in cur.results()] == [[{"a": 1}], [{"b": 2}]]
        assert cur.execute(SQL) is cur
        conn.execute("CREATE TEMPORARY TABLE r (id INT)")
        assert conn.execute("INSERT INTO r VALUES (4) RETURNING id").fetchall() == [{"id": 4}]
        with conn.pipeline():
            piped = conn.cursor()
            piped.execute(SQL)
            assert piped.fetchone() == DICT


@pytest.mark.parametrize("rows", ["tuple", "namedtuple"])
def test_psycopg_row_factory_in_url(postgresql: str, rows: str) -> None:
    """psycopg's factories are given in a URL by their names."""
    more = "?row_factory=dict_row&cursor_factory=ClientCursor"
    with pooled_app(postgresql + more, rows=rows), db_connection_context() as conn:
        assert first(conn) == DICT
        with conn.cursor() as cur:
            assert isinstance(cur.driver_cursor, psycopg.ClientCursor)


@each_setting
def test_psycopg_creator(postgresql: str, settings: dict[str, Any]) -> None:
    """Connections of psycopg's that come from an unknown function are the same."""
    dsn = postgresql.replace("+psycopg", "")
    with pooled_app(creator=lambda: psycopg.connect(dsn), **settings):
        with db_connection_context() as conn, conn.cursor() as cur:
            kind = type(cur.execute(SQL).fetchone())
            assert kind is (dict if settings.get("rows") == "dict" else kind)
            assert (kind is tuple) is (not settings)
    own: dict[str, Any] = {"creator": lambda: psycopg.connect(dsn, row_factory=dict_row)}
    with pooled_app(**own, **settings), db_connection_context() as conn:
        assert first(conn) == DICT


@each_setting
def test_psycopg2_cursor_factories(postgresql: str, settings: dict[str, Any]) -> None:
    """A `cursor_factory` of psycopg2, as argument or connect argument, makes the rows; a named
    cursor has the shape.
    """
    extras: Any = psycopg2.extras
    keys = generic.keys(psycopg2, postgresql)
    with pooled_app(**keys, **settings), db_connection_context() as conn:
        assert first(conn, cursor_factory=extras.RealDictCursor) == DICT
        assert first(conn, cursor_factory=extras.DictCursor)["b"] == 2
        assert first(conn, cursor_factory=extras.NamedTupleCursor).b == 2
        assert type(first(conn, "named")) is type(first(conn))
        if settings.get("rows") == "dict":
            assert streamed(conn, "named") == [FEW_DICTS] * 5
        with conn.cursor() as cur:
            cur.execute("CREATE TEMPORARY TABLE r (id INT)")
            extras.execute_values(cur, "INSERT INTO r VALUES %s", [(1,), (2,)])
            assert cur.rowcount == 2
    keys["connect_args"] |= {"cursor_factory": extras.RealDictCursor}
    with pooled_app(**keys, **settings), db_connection_context() as conn:
        assert first(conn) == DICT


# mysql.connector


@pytest.mark.mariadb_only
@pytest.mark.filterwarnings("ignore:Call to deprecated function stored_results")
@each_setting
def test_mysql_connector_own_ways(
    mariadb: MariaDBServer, database: str, settings: dict[str, Any]
) -> None:
    """`dictionary=True` wins; the results of a procedure have the shape."""
    mariadb.execute(PROCEDURE.format(database))
    arguments = {"host": mariadb.host, "port": mariadb.port, "database": database}
    arguments |= {"user": APP_USER, "password": APP_PASSWORD, "use_pure": True}
    with pooled_app(creator=mysql.connector, connect_args=arguments, **settings):
        with db_connection_context() as conn:
            usual = type(first(conn))
            options: list[dict[str, Any]] = [{}, {"buffered": True}]
            for more in options:
                assert first(conn, dictionary=True, **more) == DICT
                assert type(first(conn, **more)) is usual
            with conn.cursor() as cur:
                cur.callproc("two_results")
                kinds = [len(result.fetchall()[0]) for result in cur.stored_results()]
            assert kinds == [1, 2]
            if settings.get("rows") == "dict":
                with conn.cursor() as cur:
                    cur.callproc("two_results")
                    found = [result.fetchall() for result in cur.stored_results()]
                assert found == [FEW_DICTS[:2], [{"b": 3, "c": "x"}]]


@pytest.mark.parametrize("settings", [{"statement_timeout": 5}, {"ping": 7}, {"maxusage": 1000}])
def test_rows_beside_other_keys(postgresql: str, settings: dict[str, Any]) -> None:
    """A shape goes together with what else makes a lease of another class."""
    with pooled_app(postgresql, maxconnections=1, **settings) as (_, db):
        each: list[dict[str, Any]] = [{"rows": "dict"}, {"rows": "dict", "statement_timeout": 3}]
        for options in each:
            with db_connection_context(**options) as conn:
                assert first(conn) == DICT
                with db_connection_context(rows=lambda _, row: sum(row)):
                    assert first(conn) == 3
        with db_connection_context() as conn:
            assert first(conn) == TUPLE
        assert db.stats().connects == 1
