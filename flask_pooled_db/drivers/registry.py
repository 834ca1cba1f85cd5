"""The choice of an adapter: by a URL's scheme, or by the DB-API 2 module of a creator."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from flask_pooled_db.config import DEFAULT_BIND, FROM_FILE, AskedURL, DatabaseURL, PoolConfig
from flask_pooled_db.drivers import passwords
from flask_pooled_db.drivers.arguments import of_function, of_module
from flask_pooled_db.drivers.asked import AskedDriver
from flask_pooled_db.drivers.base import Driver
from flask_pooled_db.drivers.creators import UNSAFE, dbapi_of, is_module_connect, what_connects
from flask_pooled_db.drivers.mariadbconnector import MariaDBConnectorDriver
from flask_pooled_db.drivers.pgbouncer import ProxiedPsycopgDriver
from flask_pooled_db.drivers.psycopg import PsycopgDriver
from flask_pooled_db.drivers.pymysql import PyMySQLDriver
from flask_pooled_db.drivers.servers import Servers
from flask_pooled_db.drivers.sqlcipher import SQLCipherDriver
from flask_pooled_db.drivers.sqlite import ForeignSQLiteDriver, SQLiteDriver
from flask_pooled_db.errors import ConfigError

ADAPTERS: tuple[type[Driver], ...] = (
    PyMySQLDriver,
    MariaDBConnectorDriver,
    SQLiteDriver,
    SQLCipherDriver,
    PsycopgDriver,
    ForeignSQLiteDriver,
)
"""All adapters. The first that accepts a creator gets it; `Driver` itself is for the rest."""

_SCHEMES = {scheme: adapter for adapter in ADAPTERS for scheme in adapter.schemes}


_BEHIND_PROXY: Mapping[type[Driver], type[Driver]] = {PsycopgDriver: ProxiedPsycopgDriver}
"""The adapters for what has a pooler in front of it, by those for what has none."""


def make_driver(config: PoolConfig, folder: str = "", bind: str = DEFAULT_BIND) -> Driver:
    """Return the driver that `config` asks for, connected to nothing. A file that its URL names
    relatively is in `folder`, or in the current one. `bind` is what its connections tell the server
    that they are for.

    Raises `ConfigError` if the scheme is unknown, the driver is not installed, or the connect
    arguments can't be used. Where a function tells the URL, its answers are checked as they come.
    """
    if isinstance(config.url, AskedURL):
        make = functools.partial(_make_driver, config, folder, bind)
        return AskedDriver(config.url, config.connect_timeout, make)
    return _make_driver(config, folder, bind, config.url, config.connect_timeout)


def _make_driver(
    config: PoolConfig, folder: str, bind: str, url: DatabaseURL | None, timeout: float
) -> Driver:
    if url is not None:
        adapter = _adapter_for_scheme(url.scheme)
        creator = _import_driver(adapter, url.scheme)
        arguments = adapter.arguments_from(url)
        _merge(arguments, config.connect_args)
        file = arguments.pop(FROM_FILE, None) if adapter.takes_password_file else None
    else:
        creator = config.creator
        adapter = _adapter_for_creator(creator)
        arguments, file = dict(config.connect_args), None
    dbapi = dbapi_of(creator)
    if dbapi is not None and (why := adapter.why_not_supported(dbapi)):
        raise ConfigError([why])
    if config.proxy is not None:
        adapter = _behind_proxy(adapter, creator)
    problems = adapter.problems(arguments)
    if dbapi is not None and is_module_connect(creator, dbapi):
        problems += passwords.problems(arguments, adapter.password_types)
        arguments |= adapter.by_name(arguments, problems)
        problems += of_module(adapter, dbapi, arguments)
    else:  # an application's own function may take what it likes
        problems += of_function(adapter, what_connects(creator), arguments)
    if file is not None:
        problems += passwords.file_problems(file, arguments)
    if problems:
        raise ConfigError(problems)
    driver = adapter(creator, dbapi, arguments, timeout)
    if driver.threadsafety < 1:
        raise ConfigError([UNSAFE])
    driver.password_file, driver.bind = file, bind
    if url is not None and folder:
        driver.place(folder)
    _set_servers(driver, config, url)
    return driver


def hazard_of_sharing(raw: Any) -> str:
    """Return why threads must not share a connection, whatever its creator says of itself."""
    makers = {kind.__module__.partition(".")[0].removeprefix("_") for kind in type(raw).__mro__}
    hazards = (adapter.hazard_of_sharing for adapter in ADAPTERS if adapter.module in makers)
    return next(filter(None, hazards), "")


def _adapter_for_scheme(scheme: str) -> type[Driver]:
    adapter = _SCHEMES.get(scheme)
    if adapter is None:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        other = "set CREATOR to the module, and CONNECT_ARGS to what its connect() takes"
        what = f"the scheme {scheme}:// is not known; these are: {known}"
        raise ConfigError([f"{what}. For any other DB-API 2 module remove the URL, {other}"])
    return adapter


def _import_driver(adapter: type[Driver], scheme: str) -> ModuleType:
    try:
        return importlib.import_module(adapter.module)
    except ImportError as error:
        what = f"{scheme}:// needs {adapter.module}, whose import failed ({error})"
        raise ConfigError([f"{what}: {adapter.how_to_install}"]) from error


def _behind_proxy(adapter: type[Driver], creator: Any) -> type[Driver]:
    found = _BEHIND_PROXY.get(adapter)
    if found is None:
        name = adapter.module or getattr(dbapi_of(creator), "__name__", "this CREATOR")
        why = "it stands for pgbouncer in front of PostgreSQL, which psycopg talks to"
        remedy = "remove it, or use a URL that begins with postgresql://"
        raise ConfigError([f"PROXY can't be 'transaction' with {name}: {why}; {remedy}"])
    return found


def _merge(arguments: dict[str, Any], more: Mapping[str, Any]) -> None:
    conflicts = [
        name
        for name, value in more.items()
        if name in arguments
        and not (isinstance(value, str | int | float) and arguments[name] == value)
    ]
    if conflicts:
        raise ConfigError(
            [f"the URL and CONNECT_ARGS differ on {name!r}: keep one" for name in sorted(conflicts)]
        )
    arguments.update(more)


def _set_servers(driver: Driver, config: PoolConfig, url: DatabaseURL | None) -> None:
    """Give the driver the servers that the URL names, and whether one of them has to be primary."""
    hosts = url.hosts if url is not None else ()
    if config.target == "primary":
        if not driver.recognizes_primary:
            remedy = "remove it, or use what the driver itself has for it"
            raise ConfigError([f"TARGET can't be 'primary' with {driver.name}: {remedy}"])
        driver.wants_primary = True
    # With another URL at each connect, a server has to be named to be found again.
    if len(hosts) > 1 or (hosts and url is not config.url):
        arguments = [
            {name: value for name, value in (("host", host), ("port", port)) if value is not None}
            for host, port in hosts
        ]
        driver.servers = Servers(arguments, at_random=config.host_order == "random")


def _adapter_for_creator(creator: Any) -> type[Driver]:
    dbapi = dbapi_of(creator)
    if dbapi is None:
        return Driver
    return next((adapter for adapter in ADAPTERS if adapter.accepts(creator, dbapi)), Driver)
