"""What the DBUtils face takes for granted of DBUtils: a release that changes it fails here."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbutils.pooled_db import PooledDB

import flask_pooled_db
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.proxy import LeaseConnection
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool

VERSION = importlib.metadata.version("DBUtils")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(cls: type) -> set[str]:
    """Return the private attributes and methods that a class's code mentions of `self`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    names |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return set(filter(is_private, names))


def imports_of_dbutils() -> Iterator[tuple[str, str]]:
    """Yield each import of DBUtils in the package, and the module it is in."""
    root = Path(flask_pooled_db.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dbutils"):
                for alias in node.names:
                    yield str(path.relative_to(root)), f"{node.module}.{alias.name}"


def test_dbutils_is_known_in_one_place() -> None:
    """The face imports its public class, and nothing else of the package imports DBUtils."""
    assert list(imports_of_dbutils()) == [("lease/dbutils.py", "dbutils.pooled_db.PooledDB")]


def test_no_private_name_of_dbutils_is_touched() -> None:
    """DBUtils may change those in any release, or begin to use one that the face has."""
    assert private_names(Pool) & private_names(PooledDB) == set(), f"DBUtils {VERSION}"


def test_the_pool_is_a_pooled_db() -> None:
    """Code that asks for DBUtils' class gets it, and leases as its connections."""
    with open_pool(FakeDriver()) as pool:
        assert isinstance(pool, PooledDB)
        with pool.connection() as connection:
            assert isinstance(connection, LeaseConnection)


# Signatures


def test_the_constructor_takes_what_it_is_given() -> None:
    """By name, so that the order may change."""
    parameters = set(inspect.signature(PooledDB.__init__).parameters)
    sizes = {"mincached", "maxcached", "maxshared", "maxconnections", "blocking"}
    assert {"creator", "maxusage", "setsession", "failures", "ping"} | sizes <= parameters


@pytest.mark.parametrize(
    "name", ["connection", "dedicated_connection", "steady_connection", "unshare", "cache", "close"]
)
def test_methods_can_be_called_as_in_dbutils(name: str) -> None:
    """More parameters may follow if they can be left out."""
    theirs = list(inspect.signature(getattr(PooledDB, name)).parameters)
    ours = inspect.signature(getattr(Pool, name)).parameters
    assert list(ours)[: len(theirs)] == theirs
    for more in list(ours)[len(theirs) :]:
        assert ours[more].default is not inspect.Parameter.empty


def test_every_public_method_of_dbutils_is_accounted_for() -> None:
    """A new one would work on DBUtils' own lists, which are always empty here."""
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
    assert public - {"version", "dedicated_connection"} <= set(vars(Pool))


# Behaviour


def test_the_constructor_connects_to_nothing() -> None:
    """With mincached 0, which is what the face passes on."""
    fake = FakeDriver()
    PooledDB(fake, mincached=0, maxconnections=3)
    assert fake.count("connect") == 0


def test_a_dedicated_connection_comes_from_connection() -> None:
    """The face overrides `connection()`, and leaves `dedicated_connection()` alone."""

    class Asked(PooledDB):  # type: ignore[misc]
        def connection(self, shareable: bool = True) -> Any:
            return ("connection", shareable)

    assert Asked(FakeDriver()).dedicated_connection() == ("connection", False)


def test_setsession_runs_on_each_new_connection() -> None:
    """Its statements run in order, before anything else."""
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


def test_a_steady_connection_belongs_to_no_pool() -> None:
    """It is not counted, and `close()` closes it."""
    fake = FakeDriver()
    with open_pool(fake, maxconnections=1) as pool:
        steady = pool.steady_connection()
        assert pool.stats().open == 0
        steady.cursor().execute("SELECT 1")
        steady.close()
        assert fake.open_now == 0


def test_nothing_is_done_behind_a_steady_connection() -> None:
    """DBUtils would connect anew, and run again what failed."""
    fake = FakeDriver()
    with open_pool(fake) as pool:
        steady = pool.steady_connection()
        steady.cursor().execute("UPDATE")
        fake.fail("commit", fake.failures[0]())
        with pytest.raises(Exception, match="COMMIT was sent and its answer was lost"):
            steady.commit()
        assert fake.count("connect") == 1
        steady.close()


def test_cache_and_unshare_take_a_lease_back() -> None:
    """As `close()` does."""
    fake = FakeDriver()
    with open_pool(fake) as pool:
        for take_back in (pool.cache, pool.unshare):
            lease = pool.connection()
            lease.cursor().execute("UPDATE")
            take_back(lease)
            take_back(lease)  # again is no error
            assert (pool.stats().in_use, pool.stats().idle) == (0, 1)
        assert fake.count("rollback") == 2


def test_the_supported_range_is_the_one_that_was_read() -> None:
    """DBUtils 3.2 brought what is used here; the next major release may take it away."""
    major, minor = (int(part) for part in VERSION.split(".")[:2])
    assert (3, 2) <= (major, minor) < (4, 0)
