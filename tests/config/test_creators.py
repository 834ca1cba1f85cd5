"""CREATOR and CONNECT_ARGS."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pymysql
import pytest

from flask_pooled_db import db_connection_context
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.drivers.mysql import CLIENT_SESSION_TRACK
from flask_pooled_db.errors import ConnectFailed
from tests.config.configs import problems_of
from tests.support.apps import pooled_app
from tests.support.pools import open_pool
from tests.support.rawdb import rawdb


def own_connect(database: str) -> sqlite3.Connection:
    """A function of the application's own that connects."""
    return sqlite3.connect(database, check_same_thread=False)


def with_dbapi(database: str) -> Any:
    """A function that says which module its connections are of."""
    return own_connect(database)


with_dbapi.dbapi = sqlite3  # type: ignore[attr-defined]

CREATORS: list[Any] = [
    sqlite3,
    sqlite3.connect,
    rawdb(),
    own_connect,
    with_dbapi,
    functools.partial(own_connect),
    functools.partial(sqlite3.connect, check_same_thread=False),
]


@pytest.mark.parametrize(
    "creator",
    CREATORS,
    ids=["module", "its connect", "unknown", "own", "with dbapi", "partial", "partial of connect"],
)
def test_kinds_of_creators(creator: Any, tmp_path: Path) -> None:
    """With each kind of creator a scope commits, and rolls back on an error."""
    path = str(tmp_path / "shop.db")
    with pooled_app(creator=creator, connect_args={"database": path}):
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("CREATE TABLE t (a INTEGER)")
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("INSERT INTO t VALUES (1)")
        with (
            contextlib.suppress(LookupError),
            db_connection_context() as conn,
            conn.cursor() as cur,
        ):
            cur.execute("INSERT INTO t VALUES (2)")
            raise LookupError
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("SELECT a FROM t")
            assert cur.fetchall() == [(1,)]


def test_creator_of_known_module() -> None:
    """A known driver given as a module, or as its `connect`, has the adapter of its URL."""
    for creator in (pymysql, pymysql.connect):
        driver = make_driver(PoolConfig.from_mapping({"CREATOR": creator}))
        assert driver.name == "pymysql"


def test_partial_creator() -> None:
    """A connection made by a partial has the exception classes of its module."""
    creator = functools.partial(pymysql.connect, host="127.0.0.1")
    driver = make_driver(PoolConfig.from_mapping({"CREATOR": creator}))
    assert driver.Error is pymysql.Error


def module_in_package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A DB-API 2 module inside of a package, as `mysql.connector` is, with a function that connects
    in a module of its own.
    """
    module = rawdb()
    for name, what in (("rawpackage", ModuleType("rawpackage")), ("rawpackage.db", module)):
        monkeypatch.setitem(sys.modules, name, what)

    def connect(database: str) -> sqlite3.Connection:
        return own_connect(database)

    connect.__module__ = "rawpackage.db.connecting"
    module.__dict__["connect"] = connect
    return module


def test_creator_of_module_in_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of a module inside of a package has the exception classes of that module."""
    module = module_in_package(monkeypatch)
    driver = make_driver(PoolConfig.from_mapping({"CREATOR": module.__dict__["connect"]}))
    assert driver.dbapi is module


class OwnConnection(sqlite3.Connection):
    """Connections that are asked of their class, as psycopg's are."""

    threadsafety = 1

    def __init__(self, database: str, *, made_by_connect: bool = False) -> None:
        assert made_by_connect, "the class was called"
        super().__init__(database, check_same_thread=False)

    @classmethod
    def connect(cls, database: str) -> OwnConnection:
        """Return a new connection."""
        return cls(database, made_by_connect=True)


class Namespace:
    """A creator that is a class with the function that connects."""

    threadsafety = 2
    connect = staticmethod(own_connect)


@pytest.mark.parametrize("creator", [OwnConnection, Namespace])
def test_creator_is_class(creator: Any, tmp_path: Path) -> None:
    """A class whose `connect` makes connections is asked for them by that."""
    with open_pool(creator=creator, connect_args={"database": str(tmp_path / "db")}) as pool:
        pool.lease().close()
        assert pool.stats().idle == 1


class Factory:
    """A creator that says nothing of the threads that may use its connections."""

    def connect(self) -> Any:
        """Return a new connection."""
        return own_connect(":memory:")


def stating(level: object) -> ModuleType:
    """Return a module with this thread safety."""
    module = rawdb()
    module.__dict__["threadsafety"] = level
    return module


@pytest.mark.parametrize("creator", [Factory(), stating(None), stating(0)])
def test_creator_without_threadsafety(creator: Any) -> None:
    """A module or creator that states no thread safety is refused, as in DBUtils, with a remedy."""
    (problem,) = problems_of({"POOLED_DB_CREATOR": creator})
    assert "attribute `threadsafety`" in problem
    creator.threadsafety = 1
    assert make_driver(PoolConfig.from_mapping({"CREATOR": creator})).threadsafety == 1


def test_function_of_unsafe_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function whose connections turn out to be of a module that is not thread-safe is refused
    with the first of them, as in DBUtils; one that states its own thread safety is believed.
    """
    monkeypatch.setitem(sys.modules, "unsafedb", stating(0))
    kind: Any = type("Connection", (sqlite3.Connection,), {"__module__": "unsafedb"})

    def connect() -> Any:
        return sqlite3.connect(":memory:", check_same_thread=False, factory=kind)

    with open_pool(creator=connect) as pool:
        with pytest.raises(ConnectFailed) as caught:
            pool.connection()
        assert "attribute `threadsafety`" in str(caught.value.__cause__)
    connect.threadsafety = 1  # type: ignore[attr-defined]
    with open_pool(creator=connect) as pool:
        pool.connection().close()


def test_threadsafety_of_lease() -> None:
    """A lease tells the thread safety of its driver, as DBUtils' connections do."""
    with open_pool(creator=rawdb(), connect_args={"database": ":memory:"}) as pool:
        with pool.connection() as conn:
            assert conn.threadsafety() == 1


def test_connect_args_of_creator() -> None:
    """A creator gets CONNECT_ARGS and nothing else."""
    seen = []

    def connect(**arguments: Any) -> Any:
        seen.append(arguments)
        return sqlite3.connect(":memory:", check_same_thread=False)

    with open_pool(creator=connect, connect_args={"a": 1, "b": [2]}) as pool:
        pool.lease().close()
    assert seen == [{"a": 1, "b": [2]}]


def test_connect_args_of_url() -> None:
    """CONNECT_ARGS are added to the arguments in the URL; the same value twice
    is no contradiction.
    """
    made = PoolConfig.from_mapping(
        {
            "URL": "mysql://ann:pw@h/d?charset=utf8mb4",
            "CONNECT_ARGS": {"database": "d", "program_name": "shop"},
        }
    )
    arguments = make_driver(made)._arguments
    assert arguments == {
        "connect_timeout": 5.0,
        "host": "h",
        "user": "ann",
        "password": "pw",
        "database": "d",
        "charset": "utf8mb4",
        "program_name": "shop",
        "client_flag": CLIENT_SESSION_TRACK,
    }


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"URL": "mysql://h/d", "CONNECT_ARGS": {"database": "e"}}, "differ on 'database'"),
        ({"URL": "oracle://h/d"}, "the scheme oracle:// is not known"),
        ({"URL": "sqlite://host/file"}, "names no host"),
        ({"URL": "sqlite:///f?timeout=soon"}, "must be a number"),
        ({"URL": "sqlite:///f?isolation_level="}, "'isolation_level' can't be set"),
        ({"URL": "sqlite:///f", "CONNECT_ARGS": {"factory": 1}}, "'factory' can't be set"),
        ({"URL": "mysql://h/d?autocommit=true"}, "'autocommit' can't be set"),
        ({"URL": "mysql://h/d?defer_connect=1"}, "'defer_connect' can't be set"),
        ({"URL": "mysql://h/d?ssl_disabled=1&ssl_ca=f"}, "'ssl_disabled' contradicts"),
        ({"URL": "mariadb://h/d?reconnect=1"}, "'reconnect' can't be set"),
        ({"URL": "mariadb://h/d?pool_name=p"}, "'pool_name' can't be set"),
        ({"URL": "sqlite:///f", "TARGET": "primary"}, "TARGET can't be 'primary'"),
        ({"CREATOR": rawdb(), "TARGET": "primary"}, "TARGET can't be 'primary'"),
        ({"CREATOR": pymysql, "CONNECT_ARGS": {"autocommit": True}}, "'autocommit' can't be set"),
    ],
)
def test_impossible_arguments(keys: dict[str, Any], word: str) -> None:
    """An argument that the driver does not support, or must not get, is refused before anything
    connects.
    """
    (problem,) = problems_of({f"POOLED_DB_{name}": value for name, value in keys.items()})
    assert problem.startswith("POOLED_DB: ")
    assert word in problem


def test_driver_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error about a missing driver says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "mariadb", None)
    (problem,) = problems_of({"POOLED_DB_URL": "mariadb://h/d"})
    assert "pip install 'flask-pooled-db[mariadb]'" in problem


@pytest.mark.parametrize("version", ["2.0.0rc2+native", "2.0.0", "2.1.3"])
@pytest.mark.parametrize("way", ["url", "module", "function"])
def test_connector_2(monkeypatch: pytest.MonkeyPatch, version: str, way: str) -> None:
    """The next MariaDB Connector/Python is refused, in whatever way it is asked for."""
    module = ModuleType("mariadb")
    vars(module).update(
        connect=print, apilevel="2.0", threadsafety=3, paramstyle="qmark", __version__=version
    )
    monkeypatch.setitem(__import__("sys").modules, "mariadb", module)

    def connect() -> None:
        raise AssertionError("nothing connects")

    vars(connect)["dbapi"] = module
    keys: dict[str, dict[str, Any]] = {
        "url": {"URL": "mariadb://app:secret@h/d"},
        "module": {"CREATOR": module},
        "function": {"CREATOR": connect},
    }
    (problem,) = problems_of({f"POOLED_DB_{name}": value for name, value in keys[way].items()})
    assert problem.startswith("POOLED_DB: MariaDB Connector/Python 2 is not supported yet: ")
    assert version in problem
    assert "mariadb<2" in problem
