"""A registry of pools without a server, whose app does what a test tells it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from flask_pooled_db.config import AppConfig, PoolConfig
from flask_pooled_db.errors import UnknownBind
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.pool.ageing import registries
from flask_pooled_db.pool.registry import Registry
from tests.support.fake_driver import FakeDriver


def nothing(_name: str) -> None:
    """Do nothing."""


class Names:
    """The app: any name exists that is not in `unknown`. Hooks are called without the lock."""

    def __init__(self, **keys: Any) -> None:
        self.keys = {"mincached": 0, "maxconnections": 2, **keys}
        self.drivers: dict[str, FakeDriver] = {}
        self.loads: list[str] = []
        self.events: list[tuple[str, str, str]] = []
        self.unknown: set[str] = set()
        self.protected: Collection[str] | None = ()
        self.asked = 0
        self.on_load: Callable[[str], object] = nothing
        self.on_opened: Callable[[str], object] = nothing
        self.on_closed: Callable[[str], object] = nothing
        self.on_kept: Callable[[], object] = lambda: None

    def load(self, name: str, key: object) -> Pool:
        self.loads.append(name)
        self.on_load(name)
        if name in self.unknown:
            raise UnknownBind("unknown", name)
        driver = self.drivers[name] = FakeDriver()
        keys = {"creator": driver, **self.keys}
        config = PoolConfig.from_mapping({key.upper(): value for key, value in keys.items()})
        return Pool(config, driver, bind=name, key=key)

    def kept(self) -> Collection[str] | None:
        self.asked += 1
        self.on_kept()
        return self.protected

    def opened(self, name: str, reason: str) -> None:
        self.events.append(("opened", name, reason))
        self.on_opened(name)

    def timed_out(self, name: str, seconds: float) -> None:
        self.events.append(("timed out", name, ""))

    def closed(self, name: str, reason: str) -> None:
        self.events.append(("closed", name, reason))
        self.on_closed(name)

    def told(self, name: str) -> list[str]:
        """What was told of a bind."""
        return [event for event, bind, _ in self.events if bind == name]


@contextmanager
def registry(
    names: Names, *, idle: float = 0.0, most: int = 0, timeout: float = 10.0, **more: Any
) -> Iterator[Registry]:
    """A registry of these names."""
    config = AppConfig(
        binds={},
        bind_idle_timeout=idle,
        max_binds=most,
        inherited={"acquire_timeout": timeout},
    )
    made = Registry({}, names, config, tend=registries.begin, **more)
    registries.add(made)
    try:
        yield made
    finally:
        made.close()


def block(names: Registry, name: str) -> Scope:
    """A block on a bind, as the extension makes it."""
    pool: Any = names.engines.get(name) or names.unopened(name)
    return Scope(pool, Leases())


def use(names: Registry, name: str) -> None:
    """Run a block with a statement on a bind."""
    with block(names, name) as conn, conn.cursor() as cur:
        cur.execute("SELECT 1")


def number_of(lease: LeaseConnection) -> int:
    """The number of a lease's connection, in the order in which its driver made them."""
    number: int = lease.number
    return number
