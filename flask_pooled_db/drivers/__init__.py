"""One adapter a driver, found by a URL's scheme or by the DB-API 2 module of a creator."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from flask_pooled_db.config import DatabaseURL, PoolConfig
from flask_pooled_db.drivers.base import Driver, Failure, Session
from flask_pooled_db.drivers.mariadbconnector import MariaDBConnectorDriver
from flask_pooled_db.drivers.mysql import MySQLDriver
from flask_pooled_db.drivers.psycopg import PsycopgDriver
from flask_pooled_db.drivers.pymysql import PyMySQLDriver
from flask_pooled_db.drivers.sqlite import SQLiteDriver
from flask_pooled_db.errors import ConfigError
from flask_pooled_db.servers import Servers

__all__ = ["Driver", "Failure", "Session", "make_driver"]


_ADAPTERS: dict[str, type[Driver]] = {
    adapter.module: adapter
    for adapter in (PyMySQLDriver, MariaDBConnectorDriver, SQLiteDriver, PsycopgDriver)
}

_SCHEMES = {
    "mysql": "pymysql",
    "mysql+pymysql": "pymysql",
    "mariadb+pymysql": "pymysql",
    "mariadb": "mariadb",
    "mariadb+mariadbconnector": "mariadb",
    "mysql+mariadbconnector": "mariadb",
    "sqlite": "sqlite3",
    "sqlite+pysqlite": "sqlite3",
    "postgresql+psycopg": "psycopg",
}

_EXTRAS = {
    "pymysql": "pip install 'flask-pooled-db[pymysql]'",
    "mariadb": "pip install 'flask-pooled-db[mariadb]'",
    "psycopg": "pip install psycopg",
}


def make_driver(config: PoolConfig) -> Driver:
    """The driver that `config` asks for; it connects to nothing.

    Raises `ConfigError` for a scheme that is not known, a driver that is not installed, and
    connect arguments that can't be used.
    """
    if config.url is not None:
        creator, adapter, arguments = _from_url(config.url)
        _merge(arguments, config.connect_args)
    else:
        creator = config.creator
        adapter, arguments = _adapter_of(creator), dict(config.connect_args)
    problems = adapter.problems(arguments)
    if problems:
        raise ConfigError(problems)
    driver = adapter(creator, _dbapi_of(creator), arguments, config.connect_timeout)
    _find_servers(driver, config)
    return driver


def _find_servers(driver: Driver, config: PoolConfig) -> None:
    """Tell the driver of the servers that the URL names, and of which of them will do."""
    hosts = config.url.hosts if config.url is not None else ()
    if config.target == "primary":
        if not isinstance(driver, MySQLDriver):
            remedy = "remove it, or use what the driver itself has for it"
            raise ConfigError([f"TARGET can't be 'primary' with {driver.name}: {remedy}"])
        driver.wants_primary = True
    if len(hosts) > 1:
        named = [
            {name: value for name, value in (("host", host), ("port", port)) if value is not None}
            for host, port in hosts
        ]
        driver.servers = Servers(named, at_random=config.host_order == "random")


def _from_url(url: DatabaseURL) -> tuple[ModuleType, type[Driver], dict[str, Any]]:
    module = _SCHEMES.get(url.scheme)
    if module is None:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ConfigError([f"the scheme {url.scheme}:// is not known; these are: {known}"])
    try:
        dbapi = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            [f"{url.scheme}:// needs {module}, whose import failed ({error}): {_EXTRAS[module]}"]
        ) from error
    adapter = _ADAPTERS[module]
    return dbapi, adapter, _ARGUMENTS[module](url, adapter)


def _query_arguments(url: DatabaseURL, adapter: type[Driver]) -> dict[str, Any]:
    try:
        return {name: adapter.from_text(name, text) for name, text in url.query.items()}
    except ValueError:
        raise ConfigError(["the URL's query holds a number that is none"]) from None


def _server_arguments(url: DatabaseURL, adapter: type[Driver]) -> dict[str, Any]:
    named = {
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "dbname" if adapter.module == "psycopg" else "database": url.database,
    }
    given = {name: value for name, value in named.items() if value is not None}
    return given | _query_arguments(url, adapter)


def _sqlite_arguments(url: DatabaseURL, adapter: type[Driver]) -> dict[str, Any]:
    if url.host or url.username:
        raise ConfigError(
            ["an SQLite URL names no host: sqlite:///file is relative, sqlite:////file absolute"]
        )
    return {"database": url.database or ":memory:"} | _query_arguments(url, adapter)


_ARGUMENTS: Mapping[str, Callable[[DatabaseURL, type[Driver]], dict[str, Any]]] = {
    "pymysql": _server_arguments,
    "mariadb": _server_arguments,
    "psycopg": _server_arguments,
    "sqlite3": _sqlite_arguments,
}


def _merge(arguments: dict[str, Any], more: Mapping[str, Any]) -> None:
    twice = [name for name, value in more.items() if arguments.get(name, value) != value]
    if twice:
        raise ConfigError(
            [f"the URL and CONNECT_ARGS differ on {name!r}: keep one" for name in sorted(twice)]
        )
    arguments.update(more)


def _dbapi_of(creator: Any) -> ModuleType | None:
    """The DB-API 2 module of a creator: itself, its `dbapi`, or the package it was defined in."""
    while isinstance(creator, functools.partial):
        creator = creator.func
    if isinstance(creator, ModuleType):
        return creator
    named = getattr(creator, "dbapi", None)
    if isinstance(named, ModuleType):
        return named
    package = (getattr(creator, "__module__", None) or "").partition(".")[0]
    module = sys.modules.get({"_sqlite3": "sqlite3"}.get(package, package))
    return module if hasattr(module, "apilevel") else None


def _adapter_of(creator: Any) -> type[Driver]:
    dbapi = _dbapi_of(creator)
    adapter = _ADAPTERS.get(getattr(dbapi, "__name__", ""), Driver)
    if adapter is SQLiteDriver and creator not in (dbapi, getattr(dbapi, "connect", None)):
        return Driver  # it needs connections of its own class
    return adapter
