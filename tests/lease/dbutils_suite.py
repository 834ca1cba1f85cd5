"""DBUtils' own tests of its pool, and an adapter that has them test ours.

The tests are read from DBUtils' source distribution, which the Makefile puts into the virtual
environment. The adapter makes our pool from the arguments of DBUtils' constructor. It shows the
private names that the tests look at, where our pool has something that stands for them.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

import pytest
from dbutils.pooled_db import NotSupportedError, PooledDB

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.errors import ConfigError, PoolTimeout, UsageError
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.shared import SharedLease
from harness.waiting import PATIENCE, wait_until

FOLDER = Path(sys.prefix) / "dbutils"
"""The unpacked source distribution."""
PACKAGE = "dbutils_suite"
"""The name that its tests are imported by."""
MISSING = "DBUtils' own tests are missing: `make test-quick` fetches them"


def load(name: str) -> ModuleType:
    """Import a module of DBUtils' tests."""
    if PACKAGE not in sys.modules:
        package = sys.modules[PACKAGE] = ModuleType(PACKAGE)
        package.__path__ = [str(FOLDER / "tests")]
    return importlib.import_module(f"{PACKAGE}.{name}")


class Case(NamedTuple):
    """One of DBUtils' tests, with its parameters."""

    name: str
    function: Any
    parameters: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        values = [str(value) for _, value in self.parameters]
        return f"{self.name}[{'-'.join(values)}]" if values else self.name

    def run(self, request: pytest.FixtureRequest) -> None:
        """Run it; the fixtures it asks for are `request`'s."""
        given = dict(self.parameters)
        needed = [name for name in inspect.signature(self.function).parameters if name not in given]
        self.function(**{name: request.getfixturevalue(name) for name in needed}, **given)


def cases() -> list[Case]:
    """Return all of DBUtils' tests of its pool; none if they are missing."""
    if not (FOLDER / "tests").exists():
        return []
    module = load("test_pooled_db")
    functions = [value for name, value in vars(module).items() if name.startswith("test_")]
    return [
        Case(function.__name__, function, parameters)
        for function in functions
        for parameters in parameter_sets(function)
    ]


def parameter_sets(function: Any) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Yield what each run of a test is given by its `parametrize` marks."""
    axes = []
    for mark in getattr(function, "pytestmark", []):
        names, rows = mark.args
        if isinstance(names, str):
            names, rows = [names], [(row,) for row in rows]
        axes.append([tuple(zip(names, row, strict=True)) for row in rows])
    for chosen in itertools.product(*axes):
        yield tuple(itertools.chain(*chosen))


# The adapter


MADE: weakref.WeakSet[Adapter] = weakref.WeakSet()
"""The pools that are no garbage."""
LENT: set[Any] = set()
"""The leases that are no garbage, so that none is leaked."""


class Adapter:
    """Our pool, made from the arguments of DBUtils' `PooledDB`."""

    version = PooledDB.version

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(PooledDB).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        creator = given["creator"]
        connect = getattr(creator, "connect", creator)
        self._given = given
        self._steady: dict[Any, Steady] = {}
        config = PoolConfig.from_mapping(
            {
                "CREATOR": creator,
                "CONNECT_ARGS": inspect.signature(connect)
                .bind(*given["args"], **given["kwargs"])
                .arguments,
                **{name.upper(): given[name] or 0 for name in SIZES},
                "BLOCKING": given["blocking"],
                "SETSESSION": given["setsession"] or [],
                "PING": given["ping"],
                "PING_AFTER": 0 if load("mock_db").Connection.has_ping else 60,
                "ACQUIRE_TIMEOUT": 60,
                "RESET": "rollback",  # the most that DBUtils does
            }
        )
        self._pool = Pool(config, make_driver(config))
        MADE.add(self)
        if config.mincached:  # ours begins with the first lease
            self._pool.lease().close()
            wait_until(lambda: self._pool.stats().idle == config.mincached, "mincached")

    def connection(self, shareable: bool = True) -> Connection:
        """Return a connection, shared or not."""
        return Connection(self, self._pool.connection(shareable))

    def dedicated_connection(self) -> Connection:
        """Return a connection that is not shared."""
        return Connection(self, self._pool.dedicated_connection())

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()

    def steady(self, entry: Any) -> Steady:
        """Return what stands for DBUtils' steady connection: one object for each of our entries."""
        return self._steady.setdefault(entry, Steady(self, entry))

    _maxusage = property(lambda self: self._given["maxusage"])
    _setsession = property(lambda self: self._given["setsession"])
    _maxconnections = property(lambda self: self._pool.config.maxconnections)
    _connections = property(lambda self: self._pool.stats().in_use)

    @property
    def _maxshared(self) -> int:
        return self._pool.config.maxshared if self._pool.sharing else 0

    @property
    def _idle_cache(self) -> list[Steady]:
        return [self.steady(entry) for entry in self._pool.engine.state.idle]

    @property
    def _shared_cache(self) -> list[Share]:
        if self._pool.sharing is None:
            raise AttributeError("_shared_cache")
        return [Share(self, entry) for entry in self._pool.sharing._shared]


SIZES = ("mincached", "maxcached", "maxshared", "maxconnections", "maxusage")


class Steady:
    """What stands for a `SteadyDBConnection`: an entry of our pool."""

    def __init__(self, pool: Adapter, entry: Any) -> None:
        self._pool = pool
        self._con = entry.raw
        self._maxusage = entry.origin.config.maxusage
        self._setsession_sql = entry.origin.config.setsession or None

    @property
    def _usage(self) -> int:
        return int(self._con.num_uses) - len(self._setsession_sql or ())

    def close(self) -> None:
        """Break the driver's connection."""
        self._con.close()


class Share(NamedTuple):
    """What stands for a `SharedDBConnection`."""

    pool: Adapter
    entry: Any

    @property
    def con(self) -> Steady:
        """The connection."""
        return self.pool.steady(self.entry)

    @property
    def shared(self) -> int:
        """How many leases it has."""
        sharing = self.pool._pool.sharing
        return 0 if sharing is None else len(sharing._shared.get(self.entry, ()))


class Connection:
    """A lease of ours that is given back when it is garbage: DBUtils' tests do it so throughout."""

    def __init__(self, pool: Adapter, lease: Any) -> None:
        self._pool = pool
        self._lease = lease
        self._entry = lease._entry
        LENT.add(lease)

    def close(self) -> None:
        """Give the lease back."""
        self._lease.close()

    def __del__(self) -> None:
        self.close()
        LENT.discard(self._lease)

    def __enter__(self) -> Self:
        self._lease.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._lease.__exit__(*exc)

    @property
    def _con(self) -> Steady | None:
        return self._pool.steady(self._entry) if self._lease._entry is not None else None

    @property
    def _usage(self) -> int:
        self._lease.usable()
        return self._pool.steady(self._entry)._usage

    @property
    def _shared_con(self) -> Share | None:
        if not isinstance(self._lease, SharedLease):
            raise AttributeError("_shared_con")
        return Share(self._pool, self._entry) if self._lease._entry is not None else None

    @property
    def _setsession_sql(self) -> Any:
        return self._pool.steady(self._entry)._setsession_sql

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)


@contextmanager
def adapted() -> Iterator[None]:
    """A block in which DBUtils' tests make our pools. Nothing of them is left behind."""
    module, before = load("test_pooled_db"), set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PooledDB", Adapter)
        patch.setattr(module, "SteadyDBConnection", Steady)
        patch.setattr(module, "TooManyConnectionsError", PoolTimeout)
        patch.setattr(module, "InvalidConnectionError", UsageError)
        patch.setattr(module, "NotSupportedError", (NotSupportedError, ConfigError))
        # PEP 249 has every module tell its level; DBUtils' mock does not.
        patch.setattr(load("mock_db"), "apilevel", "2.0", raising=False)
        try:
            yield
        finally:
            for lease in list(LENT):
                lease.close()
            LENT.clear()
            for pool in list(MADE):
                pool.close()
            for thread in set(threading.enumerate()) - before:
                if not thread.daemon:  # it was started by the test
                    thread.join(PATIENCE)
