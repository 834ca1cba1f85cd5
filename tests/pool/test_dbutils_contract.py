"""What this package takes for granted of DBUtils: these tests say so where a release changes it."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dbutils.pooled_db import PooledDB
from dbutils.steady_db import SteadyDBConnection, SteadyDBCursor

import flask_pooled_db
from flask_pooled_db.connection import PooledConnection
from flask_pooled_db.dbutils_names import CONNECTION_NAMES, POOL_NAMES
from flask_pooled_db.engine import Engine
from flask_pooled_db.pool import Pool
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool

VERSION = importlib.metadata.version("DBUtils")

BASES: list[tuple[type, type, Mapping[str, str]]] = [
    (PooledDB, Pool, POOL_NAMES),
    (SteadyDBConnection, PooledConnection, CONNECTION_NAMES),
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def names_of_self(tree: ast.AST) -> Iterator[str]:
    """The private attributes of `self` that a class's code mentions, and its private methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "self" and is_private(node.attr):
                yield node.attr
        elif isinstance(node, ast.FunctionDef) and is_private(node.name):
            yield node.name


def private_names(cls: type) -> set[str]:
    """The private names a class has of its own."""
    return set(names_of_self(ast.parse(textwrap.dedent(inspect.getsource(cls)))))


def own_names(ours: type) -> set[str]:
    """The private names of a class of this package, and of its bases here."""
    here = [cls for cls in ours.__mro__ if cls.__module__.startswith(flask_pooled_db.__name__)]
    return set().union(*map(private_names, here))


def changes(cls: type, touched: Mapping[str, str]) -> list[str]:
    """One sentence for each name that is touched and is there no more."""
    gone = sorted(set(touched) - private_names(cls))
    return [
        f"DBUtils {VERSION} has no {cls.__name__}.{name} any more, which flask_pooled_db touches "
        f"({touched[name]}): see flask_pooled_db/dbutils_names.py"
        for name in gone
    ]


def names_of_others(tree: ast.AST) -> Iterator[str]:
    """The private attributes that code mentions of anything but `self`."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and is_private(node.attr)):
            continue
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield node.attr


def package_sources() -> Iterator[tuple[str, ast.AST]]:
    root = Path(flask_pooled_db.__file__).parent
    for path in sorted(root.rglob("*.py")):
        yield str(path.relative_to(root)), ast.parse(path.read_text())


# The list


@pytest.mark.parametrize(("base", "ours", "touched"), BASES)
def test_private_names_exist(base: type, ours: type, touched: Mapping[str, str]) -> None:
    """Every listed private name exists; the message says what a missing one was used for."""
    gone = changes(base, touched)
    assert not gone, "\n".join(gone)


def test_missing_names_in_message() -> None:
    """The message names `_store` and `_usage` for a base class without them."""

    class Changed:
        def _create(self) -> None:
            self._con = None

    told = changes(Changed, {"_con": "a", "_usage": "how many statements"})
    assert len(told) == 1
    assert f"DBUtils {VERSION} has no Changed._usage any more" in told[0]
    assert "how many statements" in told[0]


@pytest.mark.parametrize(("base", "ours", "touched"), BASES)
def test_private_names_listed(base: type, ours: type, touched: Mapping[str, str]) -> None:
    """The list has every private name of a base class that a subclass uses or overrides, including
    our own names that a new release begins to use.
    """
    used = own_names(ours) & private_names(base)
    assert used - set(touched) == set(), (
        f"{ours.__name__} has these names in common with {base.__name__} of DBUtils {VERSION}; add "
        "them to flask_pooled_db/dbutils_names.py, or give them another name"
    )


def test_private_names_used_from_outside() -> None:
    """The list has every private name of DBUtils that a module uses on another object."""
    theirs = private_names(PooledDB) | private_names(SteadyDBConnection)
    listed = {*POOL_NAMES, *CONNECTION_NAMES}
    found = {
        f"{module}: {name}"
        for module, tree in package_sources()
        for name in names_of_others(tree)
        if name in theirs - listed
    }
    assert not found


def test_private_names_unused() -> None:
    """The list has no name that is not used."""
    of_others = {name for _, tree in package_sources() for name in names_of_others(tree)}
    for _, ours, touched in BASES:
        assert set(touched) <= own_names(ours) | of_others


def test_imports_of_dbutils() -> None:
    """The package imports only the two base classes of DBUtils."""
    imported = {
        f"{node.module}.{alias.name}"
        for _, tree in package_sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dbutils")
        for alias in node.names
    }
    assert imported == {
        "dbutils.pooled_db.PooledDB",
        "dbutils.steady_db.SteadyDBConnection",
    }


# Signatures


def test_constructor_parameters() -> None:
    """The constructors accept by name what they are given."""
    pool = inspect.signature(PooledDB.__init__).parameters
    connection = inspect.signature(SteadyDBConnection.__init__).parameters
    common = {"creator", "maxusage", "setsession", "failures", "ping", "isfatal"}
    sizes = {"mincached", "maxcached", "maxshared", "maxconnections", "blocking"}
    assert common | sizes <= set(pool)
    assert common <= set(connection)


@pytest.mark.parametrize(
    "name", ["_close", "_create", "_cursor", "_ping_check", "_reset", "close", "commit", "rollback"]
)
def test_overridden_method_parameters(name: str) -> None:
    """An overridden method accepts each parameter of DBUtils' own, by name and by position."""
    theirs = inspect.signature(getattr(SteadyDBConnection, name)).parameters
    ours = inspect.signature(getattr(PooledConnection, name)).parameters
    assert [(p.name, p.kind) for p in ours.values()] == [(p.name, p.kind) for p in theirs.values()]


@pytest.mark.parametrize(
    "name", ["connection", "dedicated_connection", "steady_connection", "unshare", "cache", "close"]
)
def test_pool_method_parameters(name: str) -> None:
    """The pool's methods accept DBUtils' calls; additional parameters are optional."""
    theirs = list(inspect.signature(getattr(PooledDB, name)).parameters)
    ours = inspect.signature(getattr(Pool, name)).parameters
    assert list(ours)[: len(theirs)] == theirs
    for more in list(ours)[len(theirs) :]:
        assert ours[more].default is not inspect.Parameter.empty


def test_public_methods_overridden() -> None:
    """Every public method of DBUtils' pool is overridden: an inherited one would work on DBUtils'
    own, empty lists.
    """
    public = {name for name in vars(PooledDB) if not name.startswith("_")}
    assert public == {
        "version",
        "connection",
        "dedicated_connection",
        "steady_connection",
        "unshare",
        "cache",
        "close",
    }
    overridden = public - {"version", "dedicated_connection"}
    assert overridden <= {*vars(Pool), *vars(Engine)}


# Behaviour


def bare_pool(driver: FakeDriver, **options: Any) -> Any:
    """DBUtils' own pool, for what its constructor does."""
    return PooledDB(driver, **options)


def test_pool_constructor_connects_nothing() -> None:
    """With mincached=0 the pool's constructor opens no connection: a subclass's fields do not exist
    yet.
    """
    fake = FakeDriver()
    bare_pool(fake, mincached=0, maxconnections=3)
    assert fake.count("connect") == 0


def test_pool_constructor_limits() -> None:
    """The pool's constructor keeps limits that agree with each other."""
    pool = bare_pool(
        FakeDriver(threadsafety=2),
        mincached=0,
        maxcached=4,
        maxshared=2,
        maxconnections=6,
        blocking=True,
        maxusage=9,
    )
    limits = (pool._maxcached, pool._maxshared, pool._maxconnections)
    assert limits == (4, 2, 6)
    assert (pool._blocking, pool._maxusage) == (True, 9)


def test_pool_constructor_threadsafety() -> None:
    """The pool's constructor shares nothing if the creator has thread safety 1."""
    assert bare_pool(FakeDriver(threadsafety=1), maxshared=2)._maxshared == 0
    assert bare_pool(FakeDriver(threadsafety=2), maxshared=2)._maxshared == 2


def test_dedicated_connection_calls_connection() -> None:
    """`dedicated_connection()` calls `connection()`, the only one of the two that this package
    overrides.
    """

    class Asked(PooledDB):  # type: ignore[misc]
        def connection(self, shareable: bool = True) -> Any:
            return ("connection", shareable)

    assert Asked(FakeDriver()).dedicated_connection() == ("connection", False)


def test_connection_constructor() -> None:
    """The connection's constructor calls `_create`, keeps the result as `_con`, and sets flags."""
    made: list[Any] = []

    class Made(SteadyDBConnection):  # type: ignore[misc]
        def _create(self) -> Any:
            # These are set by then.
            made.append((self._setsession_sql, self._ping, self._pinger, self._maxusage))
            return self._creator()

        def __del__(self) -> None:
            pass

    fake = FakeDriver()
    connection = Made(fake, setsession=["SET 1"], failures=fake.failures, ping=2, maxusage=5)
    assert made == [(["SET 1"], 2, None, 5)]
    assert connection._con is fake.raws[1]
    marks = (connection._closed, connection._transaction, connection._usage)
    assert marks == (False, False, 0)
    fake.raws[1].close()


def test_setsession_statements() -> None:
    """`_setsession` runs its statements in order on the connection it is given, and commits
    nothing.
    """
    fake = FakeDriver()
    with open_pool(fake, setsession=["SET 1", "SET 2"]) as pool, pool.connection():
        pass
    words = [what for what, _ in fake.record]
    assert words[: words.index("commit")] == [
        "connect",
        "cursor",
        "SET 1",
        "SET 2",
        "close cursor",
    ]


@pytest.mark.parametrize(
    ("ping", "flag", "has_pinger"),
    [
        (0, 0, False),
        (None, 0, False),
        (1, 1, False),
        (7, 7, False),
        ("SELECT 1", 1, True),
        (len, 1, True),
        ((4, "SELECT 1"), 4, True),
        ((2, len), 2, True),
    ],
)
def test_ping_option(ping: Any, flag: int, has_pinger: bool) -> None:
    """The option `ping` becomes `_ping` (when) and `_pinger` (how)."""
    fake = FakeDriver()
    connection = SteadyDBConnection(fake, ping=ping, failures=fake.failures)
    assert connection._ping == flag
    assert (connection._pinger is not None) == has_pinger
    connection.close()


def test_ping_statement() -> None:
    """The check that DBUtils makes of a statement runs it on the driver's connection."""
    fake = FakeDriver()
    connection = SteadyDBConnection(fake, ping="SELECT 'alive'", failures=fake.failures)
    connection._pinger(fake.raws[1])
    assert fake.count("SELECT 'alive'") == 1
    connection.close()


def test_begin() -> None:
    """`begin()` marks a transaction, and calls the driver only if it has `begin()`."""
    fake = FakeDriver()
    connection = SteadyDBConnection(fake, failures=fake.failures)
    connection.begin()
    assert connection._transaction is True
    connection.close()


def test_steady_cursor() -> None:
    """DBUtils' cursor class calls `_cursor`, which this package overrides."""
    fake = FakeDriver()
    with open_pool(fake) as pool:
        steady = pool.steady_connection()
        cursor = SteadyDBCursor(steady)
        assert type(cursor._cursor).__name__ == "FakeCursor"
        cursor.close()
        steady.close()
    assert fake.open_now == 0


def test_no_failover() -> None:
    """DBUtils' failover is off: a connection is not replaced after a failed statement."""
    fake = FakeDriver()
    with open_pool(fake) as pool:
        steady = pool.steady_connection()
        fake.fail("commit", fake.failures[0]())
        with pytest.raises(fake.failures):
            steady.commit()
        fake.fail("rollback", fake.failures[0]())
        with pytest.raises(fake.failures):
            steady.rollback()
        fake.fail("ping", fake.failures[0]())
        assert steady._ping_check() is False
        assert fake.count("connect") == 1
        steady.close()


def test_supported_versions() -> None:
    """The supported range is DBUtils 3.2 up to the next major release."""
    major, minor = (int(part) for part in VERSION.split(".")[:2])
    assert (3, 2) <= (major, minor) < (4, 0)
