"""SQLite: connections that an application's own function makes have the adapter whole."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import (
    ConnectFailed,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver, sqlite_creators
from flask_pooled_db.drivers.sqlite import SQLiteDriver
from tests.drivers.sqlite_app import query
from tests.drivers.sqlite_makers import (
    MAKERS,
    Maker,
    OwnConnection,
    bare,
    connect_by_name,
    of_database,
    partial_with_own_class,
    with_class_of_factory,
    with_own_class,
    with_own_class_by_position,
    with_settings,
)
from tests.support.apps import pooled_app
from tests.support.pools import call
from tests.support.stages import ENDLESS

# From Python 3.13 on, two of the functions are told that they are old-fashioned.
pytestmark = pytest.mark.filterwarnings("ignore:Passing more than 1 positional:DeprecationWarning")


def keys(maker: Maker, path: Path) -> dict[str, Any]:
    creator = maker(path)
    if not isinstance(creator, functools.partial):
        creator.dbapi = sqlite3
    return {
        "creator": creator,
        "connect_args": {"database": str(path)} if maker is of_database else {},
        "maxconnections": 3,
    }


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def maker(request: pytest.FixtureRequest) -> Maker:
    """A kind of function that connects."""
    made: Maker = request.param
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with an empty table."""
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as conn:
        conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    return tmp_path / "db"


def ids(path: Path) -> list[int]:
    with contextlib.closing(connect_by_name(path)) as conn:
        return [id_ for (id_,) in conn.execute("SELECT id FROM t")]


def test_adapter_of_own_function(maker: Maker, path: Path) -> None:
    """A function with `dbapi = sqlite3` has the adapter that a URL has, and leaves sqlite3 as it
    was.
    """
    with pooled_app(**keys(maker, path)) as (_, db):
        assert type(db.pool().driver) is SQLiteDriver
        db.pool().connection().close()
    assert sqlite3.connect is sqlite3.dbapi2.connect is connect_by_name


def test_t1_own_function(maker: Maker, path: Path) -> None:
    """A block is one transaction, DDL and scripts and what only looks like reading included."""
    with pooled_app(**keys(maker, path)):
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            conn.execute("CREATE TABLE u (a)")
            conn.execute("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x")
            conn.executescript("INSERT INTO t VALUES (2); CREATE TABLE v (a)")
            conn.cursor().executescript("INSERT INTO t VALUES (3)")
            raise LookupError
        assert ids(path) == []
        assert [tuple(row) for row in query("SELECT name FROM sqlite_master")] == [("t",)]
        with db_connection_context() as conn:
            conn.execute("INSERT INTO t VALUES (%s)", (4,))
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                inner.execute("INSERT INTO t VALUES (5)")
                raise LookupError
        assert ids(path) == [4]


def test_options_on_own_function(maker: Maker, path: Path) -> None:
    """`readonly`, `statement_timeout` and `isolation_level` work, and so do all placeholders."""
    with pooled_app(**keys(maker, path)):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            with db_connection_context(readonly=True) as conn:
                conn.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            with db_connection_context(statement_timeout=0.05) as conn:
                conn.execute(ENDLESS).fetchall()
        with db_connection_context(isolation_level="SERIALIZABLE") as conn:
            conn.execute("INSERT INTO t VALUES (%(a)s)", {"a": 6})
        assert [tuple(row) for row in query("SELECT id %% 4 FROM t WHERE id = %s", (6,))] == [(2,)]


def test_t10_own_function_stores(maker: Maker, path: Path) -> None:
    """A borrowed connection stores what sqlite3 itself would, and what is not committed is lost."""
    with pooled_app(**keys(maker, path)):
        conn = get_db_connection()
        conn.executescript("CREATE TABLE u (a); INSERT INTO t VALUES (1)")
        conn.execute("INSERT INTO t VALUES (2)")
        conn.close()
    assert ids(path) == [1]


def test_own_function_in_any_thread(maker: Maker, path: Path) -> None:
    """Its connections may be used by each thread, one after the other."""
    with pooled_app(**keys(maker, path)) as (app, _):

        def read() -> Any:
            with app.app_context():
                return [tuple(row) for row in query("SELECT 1")]

        assert [call(read).result() for _ in range(3)] == [[(1,)]] * 3


def test_settings_of_own_function(path: Path) -> None:
    """What the function sets stays: row factory, functions, PRAGMAs; what CONNECT_ARGS set, and the
    defaults, come after them.
    """
    settings = keys(with_settings, path)
    with pooled_app(**settings), db_connection_context() as conn:
        row = conn.execute("SELECT twice(4) AS n").fetchone()
        assert row["n"] == 8
        assert conn.execute("PRAGMA synchronous").fetchone()[0] == 0
        assert conn.execute("PRAGMA foreign_keys").fetchone()[0] == 1
        assert conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    settings["connect_args"] = {"foreign_keys": "off", "journal_mode": "delete"}
    with pooled_app(**settings), db_connection_context() as conn:
        assert conn.execute("PRAGMA foreign_keys").fetchone()[0] == 0
        assert conn.execute("PRAGMA journal_mode").fetchone()[0] == "delete"


@pytest.mark.parametrize(
    "maker",
    [with_own_class, with_own_class_by_position, with_class_of_factory, partial_with_own_class],
)
def test_own_class_of_connections(maker: Maker, path: Path) -> None:
    """The application's own class of connections has its methods, and its rows."""
    with pooled_app(**keys(maker, path)), db_connection_context() as conn:
        assert conn.double(21) == 42
        assert conn.execute("SELECT 7 AS n").fetchone()["n"] == 7
        assert isinstance(conn.dbapi_connection, OwnConnection)


def test_types_of_own_function(path: Path) -> None:
    """`detect_types` of the function is kept."""
    sqlite3.register_converter("answer", lambda value: value + b"!")
    with pooled_app(**keys(of_database, path)):
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE u (a answer)")
            conn.execute("INSERT INTO u VALUES ('x')")
        assert query("SELECT a FROM u") == [(b"x!",)]


def test_other_use_within_own_function(path: Path) -> None:
    """Until it is returned, a connection works as sqlite3's own: what the function itself stores
    is stored, by its own rules, in its own other files too.
    """
    other = path.with_name("other")

    def connect() -> Any:
        with contextlib.closing(sqlite3.connect(other, isolation_level=None)) as registry:
            registry.execute("CREATE TABLE IF NOT EXISTS r (a)")
            registry.execute("INSERT INTO r VALUES (1)")
        with contextlib.closing(sqlite3.connect(other)) as registry:
            registry.execute("INSERT INTO r VALUES (2)")
            registry.executescript("CREATE TABLE s (a)")
            registry.execute("INSERT INTO s VALUES (3)")
        conn = sqlite3.connect(path)
        conn.execute("CREATE TABLE IF NOT EXISTS made (a)")
        conn.execute("INSERT INTO made VALUES (1)")
        return conn

    connect.dbapi = sqlite3  # type: ignore[attr-defined]
    with pooled_app(creator=connect):
        assert query("SELECT a FROM made") == [(1,)]
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            conn.execute("INSERT INTO made VALUES (1)")  # it was compiled before
            raise LookupError
        assert query("SELECT a FROM made") == [(1,)]
    with contextlib.closing(connect_by_name(other)) as stored:
        assert stored.execute("SELECT a FROM r").fetchall() == [(1,), (2,)]
        assert stored.execute("SELECT a FROM s").fetchall() == []


def imported_by_name() -> Any:
    return connect_by_name(":memory:")


def without_connect() -> Any:
    return sqlite3.Connection(":memory:")


@pytest.mark.parametrize("creator", [imported_by_name, without_connect, sqlite3.Connection])
def test_unwatched_connections(creator: Any) -> None:
    """A connection that can't be made safe is refused, and the error says what to write."""
    with contextlib.suppress(AttributeError, TypeError):
        creator.dbapi = sqlite3
    arguments = {"database": ":memory:"} if creator is sqlite3.Connection else {}
    with pooled_app(creator=creator, connect_args=arguments):
        with pytest.raises(ConnectFailed) as caught, db_connection_context():
            pass
    assert "sqlite3.connect(..., factory=factory)" in str(caught.value.__cause__)


@pytest.mark.parametrize("creator", [sqlite3, sqlite3.connect, sqlite3.dbapi2])
def test_module_as_creator(creator: Any, tmp_path: Path) -> None:
    """The module itself, by each of its names, has the same adapter."""
    made = PoolConfig.from_mapping(
        {"CREATOR": creator, "CONNECT_ARGS": {"database": str(tmp_path / "db")}}
    )
    driver = make_driver(made)
    assert type(driver) is SQLiteDriver
    raw = driver.connect()
    assert raw.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    driver.close(raw)


def test_dbapi2_as_dbapi(path: Path) -> None:
    """`dbapi` may be sqlite3.dbapi2."""

    def connect() -> Any:
        return sqlite3.connect(path)

    connect.dbapi = sqlite3.dbapi2  # type: ignore[attr-defined]
    with pooled_app(creator=connect) as (_, db):
        assert type(db.pool().driver) is SQLiteDriver
        with db_connection_context(readonly=True) as conn:
            assert conn.IntegrityError is sqlite3.IntegrityError


def test_sqlite3_in_other_threads(path: Path) -> None:
    """While a function connects, other threads get sqlite3's own connections, and a second function
    that ends later puts `sqlite3.connect` back.
    """
    inside, others_done = threading.Barrier(3), threading.Event()

    def connect() -> Any:
        conn = sqlite3.connect(path)
        inside.wait(20)
        others_done.wait(20)
        return conn

    connect.dbapi = sqlite3  # type: ignore[attr-defined]
    with pooled_app(creator=connect, maxconnections=2) as (app, _):

        def borrow() -> None:
            with app.app_context():
                get_db_connection().close()

        callers = [call(borrow) for _ in range(2)]
        inside.wait(20)
        with contextlib.closing(sqlite3.connect(":memory:")) as own:
            assert type(own) is sqlite3.Connection
        others_done.set()
        for caller in callers:
            caller.result()
    assert sqlite3.connect is connect_by_name


def test_sqlite3_by_two_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two functions of a process that connect at the same moment share one stand-in: with
    one each, that of the first would stay for good.
    """
    at_first_use, inside = threading.Barrier(2), threading.Barrier(2)
    local = threading.local
    stands_for: list[Any] = []

    def met() -> threading.local:
        at_first_use.wait(20)
        return local()

    def connect() -> Any:
        inside.wait(20)
        stands_for.append(sqlite3.connect.__wrapped__)  # type: ignore[attr-defined]
        return sqlite3.connect(path)

    connect.dbapi = sqlite3  # type: ignore[attr-defined]
    monkeypatch.setattr(sqlite_creators, "_connects", {})
    with pooled_app(creator=connect, maxconnections=2) as (app, _):

        def borrow() -> None:
            with app.app_context():
                get_db_connection().close()

        with monkeypatch.context() as patched:
            patched.setattr(threading, "local", met)
            callers = [call(borrow) for _ in range(2)]
            for caller in callers:
                caller.result()
    assert stands_for == [connect_by_name, connect_by_name]
    assert sqlite3.connect is connect_by_name


def test_tracer_that_comes_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else puts in the place of `sqlite3.connect` meanwhile stays there."""
    seen = []

    def connect() -> Any:
        traced = sqlite3.connect

        def trace(*args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return traced(*args, **kwargs)

        monkeypatch.setattr(sqlite3, "connect", trace)
        return sqlite3.connect(path)

    connect.dbapi = sqlite3  # type: ignore[attr-defined]
    with pooled_app(creator=connect):
        with db_connection_context(), db_connection_context(independent=True) as conn:
            assert conn.execute("SELECT 1").fetchall() == [(1,)]
    assert seen[0] == seen[1] == (path,)
    with contextlib.closing(sqlite3.connect(":memory:")) as own:
        assert type(own) is sqlite3.Connection
    monkeypatch.undo()
    sqlite3.connect = connect_by_name


def test_t7_own_function_after_release(path: Path) -> None:
    """After its release such a connection refuses to work."""
    with pooled_app(**keys(bare, path)):
        with db_connection_context() as conn:
            cursor = conn.execute("SELECT 1")
        for use in (cursor.fetchone, lambda: conn.execute("SELECT 1")):
            with pytest.raises(UsageError, match="was released"):
                use()
