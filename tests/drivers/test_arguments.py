"""Connect arguments that a driver does not take: told before anything connects, where it can be."""

from __future__ import annotations

import functools
import socket
import sqlite3
from collections.abc import Callable
from typing import Any

import mariadb
import psycopg
import psycopg2
import pymysql
import pytest

from flask_pooled_db import ConfigError, ConnectFailed, PoolTimeout
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver, make_driver
from flask_pooled_db.drivers.mariadbconnector import MariaDBConnectorDriver
from tests.support.pools import open_pool

SECRET = "Kolibri7Geheim"
SCHEMES = {
    "pymysql": "mysql://ann@h/d",
    "mariadb": "mariadb://ann@h/d",
    "psycopg": "postgresql://ann@h/d",
    "sqlite3": "sqlite:///f.db",
}


def driver_of(**keys: Any) -> Driver:
    return make_driver(PoolConfig.from_mapping({name.upper(): keys[name] for name in keys}))


def problems_of(**keys: Any) -> tuple[str, ...]:
    """What is said of a configuration."""
    with pytest.raises(ConfigError) as caught:
        driver_of(**keys)
    assert SECRET not in f"{caught.value}{caught.value!r}"
    return caught.value.problems


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        ("pymysql", "conect_timeout", "did you mean 'connect_timeout'?"),
        ("pymysql", "connection_timeout", "did you mean 'connect_timeout'?"),
        ("pymysql", "CHARSET", "did you mean 'charset'?"),
        ("pymysql", "zzz", "remove it, or correct its spelling"),
        ("mariadb", "conect_timeout", "did you mean 'connect_timeout'?"),
        ("mariadb", "charset", "leave it out, the connector always uses utf8mb4"),
        ("mariadb", "collation", "set it by SETSESSION"),
        ("mariadb", "zzz", "remove it, or correct its spelling"),
        ("psycopg", "ssl_mode", "did you mean 'sslmode'?"),
        ("psycopg", "charset", "it is called 'client_encoding'"),
        ("psycopg", "database", "it is called 'dbname'"),
        ("sqlite3", "time_out", "did you mean 'timeout'?"),
        ("sqlite3", "charset", "remove it, or correct its spelling"),
    ],
)
@pytest.mark.parametrize("where", ["url", "connect_args"])
def test_unknown_argument(module: str, name: str, hint: str, where: str) -> None:
    """An argument that the driver does not take is refused by name, with what to do."""
    given: dict[str, Any] = {"url": SCHEMES[module], "connect_args": {name: SECRET}}
    if where == "url":
        given = {"url": f"{SCHEMES[module]}?{name}={SECRET}"}
    assert problems_of(**given) == (f"{module} takes no connect argument {name!r}: {hint}",)


@pytest.mark.parametrize("module", [pymysql, mariadb, psycopg, sqlite3])
def test_unknown_argument_of_module(module: Any) -> None:
    """A module as CREATOR has its arguments checked as well, all of them at once."""
    arguments = {"database": "f"} if module is sqlite3 else {}
    told = problems_of(creator=module, connect_args={**arguments, "zzz": SECRET, "yyy": 1})
    assert [problem.partition(":")[0] for problem in told] == [
        f"{module.__name__} takes no connect argument {name!r}" for name in ("zzz", "yyy")
    ]


@pytest.mark.parametrize("name", [f"mysql://ann:{SECRET}@h/d", f"host=h password={SECRET}"])
def test_a3_secret_as_name(name: str) -> None:
    """The name of an argument that is none is not shown."""
    (problem,) = problems_of(url="mysql://h/d", connect_args={name: 1})
    assert "whose name is none" in problem


@pytest.mark.parametrize("module", [*SCHEMES])
@pytest.mark.parametrize("value", ["abc", "5s", "1e", ""])
def test_wrong_number(module: str, value: str) -> None:
    """A time limit that is no number is refused by its name, in a URL and elsewhere."""
    name = "timeout" if module == "sqlite3" else "connect_timeout"
    for given in (
        {"url": f"{SCHEMES[module]}?{name}={value}"},
        {"url": SCHEMES[module], "connect_args": {name: value}},
    ):
        (problem,) = problems_of(**given)
        assert repr(name) in problem
        assert "number" in problem


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        ("pymysql", {"charset": "utf-8"}, "no character set that it knows"),
        ("pymysql", {"ssl": "yes"}, "'ssl' (it is true, a mapping or an SSLContext)"),
        ("pymysql", {"connect_timeout": True}, "'connect_timeout' must be a number"),
        ("mariadb", {"ssl_ca": 5}, "'ssl_ca' (connect() argument 17 must be str or None, not int)"),
        ("mariadb", {"connect_timeout": 2.5}, "'connect_timeout' ('float' object cannot be"),
        ("mariadb", {"port": 10**12}, "'port' (signed integer is greater than maximum)"),
        ("mariadb", {"unix_socket": "a\0b"}, "'unix_socket' (embedded null character)"),
        ("psycopg", {"connect_timeout": 2.5}, "'connect_timeout' (it is a whole number)"),
        ("psycopg", {"port": "54x2"}, "'port' (it is a whole number)"),
        ("sqlite3", {"cached_statements": "x"}, "'cached_statements' must be a number"),
    ],
)
def test_wrong_value(module: str, arguments: dict[str, Any], told: str) -> None:
    """A value of a kind that the driver does not take is refused, maybe in its own words."""
    (problem,) = problems_of(url=SCHEMES[module], connect_args=arguments)
    assert told in problem


@pytest.mark.parametrize("value", [123, 1e5, True])
@pytest.mark.parametrize(
    ("scheme", "name"), [("mysql", "db"), ("mariadb", "host"), ("postgresql", "dbname")]
)
def test_number_for_text(scheme: str, name: str, value: Any) -> None:
    """A name that was read as a number, as Flask reads JSON, is refused."""
    (problem,) = problems_of(url=f"{scheme}://", connect_args={name: value})
    assert f"{name!r} must be a text, not a value of type {type(value).__name__}" in problem


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("mysql://h/d?charset=utf8mb4&connect_timeout=2.5&local_infile=true", {}),
        ("mysql://h/d?ssl=1", {}),
        ("mysql://h?user=5&db=5", {}),
        ("postgres://h?user=5&dbname=5", {}),
        ("postgresql://a,b/d", {"port": "5432,5433"}),
        ("mysql://h/d?ssl=true", {"client_flag": 1, "read_timeout": None, "conv": {}}),
        ("mariadb://h/d?connect_timeout=5&ssl_ca=/etc/ca.pem&compress=true", {}),
        ("mariadb://h/d", {"client_flag": 1, "tls_fp": "x", "connectionclass": mariadb.Connection}),
        ("postgresql://h/d?sslmode=require&connect_timeout=5&application_name=shop", {}),
        ("postgres://h/d", {"connect_timeout": "5", "port": None, "prepare_threshold": None}),
        ("sqlite:///f.db?timeout=2.5&uri=true", {"cached_statements": 5, "detect_types": 1}),
    ],
)
def test_known_arguments(url: str, arguments: dict[str, Any]) -> None:
    """What a driver takes is taken, whether or not its documentation names it."""
    driver_of(url=url, connect_args=arguments)


def named(database: str, *, timeout: float = 1) -> Any:
    """Connect as an application's own function."""


def open_to_all(database: str, **more: Any) -> Any:
    """Connect as an application's own function."""


def positional(database: str, /) -> Any:
    """Connect as an application's own function that can't be called by name."""


class Connector:
    """An application's own object with `connect`."""

    threadsafety = 1

    def connect(self, database: str) -> Any:
        """Connect."""


@pytest.mark.parametrize(
    ("creator", "arguments", "told"),
    [
        (named, {"database": "f", "timout": 1}, "takes no connect argument 'timout': did you mean"),
        (named, {"timeout": 1}, "CREATOR needs an argument 'database'"),
        (functools.partial(named, "f"), {"zzz": 1}, "takes no connect argument 'zzz'"),
        (Connector(), {"database": "f", "zzz": 1}, "takes no connect argument 'zzz'"),
        (functools.partial(pymysql.connect), {"zzz": 1}, "takes no connect argument 'zzz'"),
        (open_to_all, {}, None),
        (open_to_all, {"zzz": 1}, None),
        (named, {"database": "f"}, None),
        (functools.partial(named, database="f"), {}, None),
        (functools.wraps(named)(lambda **_: None), {"zzz": 1}, None),
        (functools.partial(open_to_all), {"password_file": "/a"}, None),
        (psycopg2, {"zzz": 1}, None),
    ],
)
def test_own_function(creator: Any, arguments: dict[str, Any], told: str | None) -> None:
    """An application's own function gets what its signature takes, and says so if it tells."""
    if told is None:
        driver_of(creator=creator, connect_args=arguments)
        return
    (problem,) = problems_of(creator=creator, connect_args=arguments)
    assert told in problem


def test_connector_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The MariaDB connector is asked for what it takes; it neither connects nor crashes over it."""

    def no_socket(*args: Any) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(socket, "socket", no_socket)
    for name in (*MariaDBConnectorDriver.usual_arguments, "client_flag", "tls_fp"):
        said = MariaDBConnectorDriver.objection(mariadb, name, None)
        assert "keyword argument" not in said, name
    for _ in range(2000):
        assert "keyword argument" in MariaDBConnectorDriver.objection(mariadb, "zzz", SECRET)
    assert MariaDBConnectorDriver.objection(mariadb, "host", "127.0.0.1") == ""


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "pymysql": ({"url": "mysql://ann:{}@127.0.0.1:1/d", "connect_args": {"conv": 5}}, "'items'"),
    "sqlite3": ({"url": "sqlite:////nowhere/f.db"}, "unable to open database file"),
}


@pytest.mark.parametrize("module", [*CHANGES])
def test_own_words(module: str) -> None:
    """What only the connect tells comes at once, in the driver's own words."""
    keys, words = CHANGES[module]
    keys = {**keys, "url": keys["url"].format(SECRET)}
    with open_pool(**keys) as pool, pytest.raises(ConnectFailed, match=words) as caught:
        pool.lease()
    assert SECRET not in str(caught.value)


MYSQL = {"drivername": "mysql", "username": "ann", "password": SECRET, "host": "h", "port": 1}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"url": {**MYSQL, "query": {"password": "x"}}}, "'password' at its own place"),
        ({"url": {**MYSQL, "query": {"user": "bob"}}}, "'user' at its own place"),
        ({"url": {**MYSQL, "query": {"host": "g"}}}, "'host' at its own place"),
        ({"url": {**MYSQL, "query": {"port": 2}}}, "'port' at its own place"),
        ({"url": f"mysql://h/d?password={SECRET}&database=e"}, "'database' at its own place"),
        ({"url": f"mysql://a:{SECRET}@h/d?password=x"}, "'password' at its own place"),
        ({"url": f"postgresql://a:{SECRET}@h/d?dbname=e"}, "'dbname' at its own place"),
        ({"url": "sqlite:///d?database=e"}, "'database' at its own place"),
        ({"url": {**MYSQL, "query": {"passwd": "x"}}}, "'password' and 'passwd' differ"),
        ({"url": MYSQL, "connect_args": {"passwd": "x"}}, "'password' and 'passwd' differ"),
        ({"url": "mariadb://h/d?db=e"}, "'database' and 'db' differ"),
        (
            {"creator": pymysql, "connect_args": {"database": "d", "db": "e"}},
            "'database' and 'db' differ",
        ),
    ],
)
def test_a3_two_values(keys: dict[str, Any], told: str) -> None:
    """Two values for the same thing are refused, wherever they are, and not shown."""
    (problem,) = problems_of(**keys)
    assert told in problem
    assert "keep one" in problem
    assert SECRET not in problem


def test_same_value_twice() -> None:
    """The same value twice will do."""
    query = {"password": SECRET, "passwd": SECRET, "user": "ann", "host": "h", "port": 1}
    driver = make_driver(PoolConfig.from_mapping({"URL": {**MYSQL, "query": query}}))
    assert driver._arguments["port"] == 1


def test_own_words_of_libpq() -> None:
    """libpq does not tell a wrong argument from a server that is away: its words do."""
    url = f"postgresql://ann:{SECRET}@127.0.0.1:1/d?ssl_min_protocol_version=foo"
    words = 'ssl_min_protocol_version" value: "foo"'
    with open_pool(url=url) as pool, pytest.raises(PoolTimeout, match=words):
        pool.lease(timeout=0.5)


def raises(error: Exception) -> Callable[..., Any]:
    def connect(**_: Any) -> Any:
        raise error

    return connect


@pytest.mark.parametrize(
    ("creator", "error"),
    [
        ("its own", TypeError(f"no {SECRET}")),
        ("module", TypeError(f"no {SECRET}")),
        ("module", TypeError(f"no {SECRET!r}")),
        ("module", pymysql.err.OperationalError(1064, f"near {SECRET}")),
    ],
)
def test_a3_no_words(monkeypatch: pytest.MonkeyPatch, creator: str, error: Exception) -> None:
    """The text of an error that a server or the application may have written is not shown, nor
    one with the password in it.
    """
    connect = raises(error)
    keys: dict[str, Any] = {"creator": connect, "connect_args": {"password": SECRET}}
    if creator == "module":
        monkeypatch.setattr(pymysql, "connect", connect)
        keys = {"url": f"mysql://ann:{SECRET}@127.0.0.1/d"}
    with open_pool(**keys) as pool, pytest.raises((ConnectFailed, PoolTimeout)) as caught:
        pool.lease(timeout=1)
    assert SECRET not in f"{caught.value}{caught.value!r}"
    assert type(error).__name__ in str(caught.value)


@pytest.mark.parametrize(
    "scheme", ["mssql+pyodbc", "mssql", "oracle", "mysql+mysqldb", "postgresql+psycopg2"]
)
def test_a3_unsupported_scheme(scheme: str) -> None:
    """A scheme that is not known is refused with those that are, and with the way for others."""
    (problem,) = problems_of(url=f"{scheme}://ann:{SECRET}@h/d")
    assert f"{scheme}:// is not known" in problem
    for known in ("mysql://", "mariadb://", "sqlite://", "postgresql://", "CREATOR"):
        assert known in problem


@pytest.mark.parametrize(
    ("scheme", "module"),
    [
        ("mysql", "pymysql"),
        ("postgresql", "psycopg"),
        ("postgres", "psycopg"),
        ("postgresql+psycopg", "psycopg"),
        ("mariadb", "mariadb"),
        ("sqlite", "sqlite3"),
    ],
)
def test_plain_schemes(scheme: str, module: str) -> None:
    """A scheme without a driver has one."""
    assert driver_of(url=f"{scheme}:///d").name == module
