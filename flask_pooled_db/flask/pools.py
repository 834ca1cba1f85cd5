"""The pools of an app, made from its configuration and from what its loader returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flask_pooled_db.config import DEFAULT_BIND, AppConfig, PoolConfig, shown
from flask_pooled_db.drivers import Driver, make_driver
from flask_pooled_db.errors import ConfigError
from flask_pooled_db.flask.observing import Watch
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.tenants import TenantPool, why_no_tenants
from flask_pooled_db.pool import Budget
from flask_pooled_db.pool.replica import read_from
from flask_pooled_db.runtime import no_collections


class PoolMaker:
    """Makes the pools of an app. Files that a URL names relatively are in `folder`."""

    def __init__(self, config: AppConfig, folder: str, budget: Budget | None, watch: Watch) -> None:
        self.config = config
        self.fixed: dict[str, Pool] = {}  # those of the binds that the configuration names
        self._folder = folder
        self._budget = budget
        self._watch = watch

    @no_collections()
    def fixed_pools(self, problems: list[str]) -> dict[str, Pool]:
        """Make the pools of the binds that the configuration names, and return them by name.

        Raises `ConfigError` with all `problems`, those that were known before among them.
        """
        binds, drivers = self.config.binds, {}
        for bind, config in binds.items():
            if config.server is None:
                try:
                    drivers[bind] = make_driver(config, self._folder, bind)
                except ConfigError as error:
                    problems += [f"{_key_of(bind)}: {problem}" for problem in error.problems]
        problems += _problems_of_tenants(binds, drivers)
        if problems:
            raise ConfigError(problems)
        pools = self.fixed = {
            bind: self._pool(binds[bind], driver, bind) for bind, driver in drivers.items()
        }
        for pool in pools.values():
            if pool.config.replica is not None:
                read_from(pool.engine, pools[pool.config.replica].engine)
        for bind, config in binds.items():
            if config.server is not None:
                pools[bind] = TenantPool(config, pools[config.server], bind)
        return pools

    def _pool(self, config: PoolConfig, driver: Driver, bind: str, key: object = None) -> Pool:
        watchers = self._watch.watchers(bind, config, driver)
        return Pool(config, driver, bind=bind, key=key, budget=self._budget, watchers=watchers)

    def loaded_pool(self, name: str, settings: Any, key: object) -> Pool:
        """Return the pool of a bind that the loader knows, from what that has returned.

        Raises `ConfigError` with all problems.
        """
        config, where = self.config.read_bind(name, settings), f"bind_loader({shown(name)})"
        try:
            if config.server is not None:
                return TenantPool(config, self.fixed[config.server], name, key)
            driver = make_driver(config, self._folder, name)
        except ConfigError as error:
            raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error
        if config.replica is not None and config.replica not in self.fixed:
            text = f"{where}.REPLICA names no bind that is in POOLED_DB_BINDS: add it there"
            raise ConfigError([text])
        pool = self._pool(config, driver, name, key)
        if config.replica is not None:
            read_from(pool.engine, self.fixed[config.replica].engine)
        return pool


def _problems_of_tenants(
    configs: Mapping[str, PoolConfig], drivers: Mapping[str, Driver]
) -> Iterator[str]:
    for bind, config in configs.items():
        used = [config.server, config.replica] if config.server is not None else []
        for name in filter(None, used):
            driver = drivers.get(name)  # none if it has a problem of its own
            if driver is not None and (why := why_no_tenants(driver, configs[name])):
                yield f"{_key_of(bind)}: {why}"


def _key_of(bind: str) -> str:
    return "POOLED_DB" if bind == DEFAULT_BIND else f"POOLED_DB_BINDS[{shown(bind)}]"
