"""P10 for psycopg and for modules that are not known: how long a connect takes, and with what."""

from __future__ import annotations

import contextlib
import functools
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import psycopg
import pymysql
import pytest

from flask_pooled_db import ConfigError
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from harness.waiting import wait_until
from tests.drivers.trickle import trickle
from tests.support.pools import open_pool
from tests.support.rawdb import rawdb

SECRET = "Kolibri7Geheim"


@pytest.fixture(scope="module")
def url(postgresql: str) -> str:
    """The URL of an empty database on PostgreSQL."""
    return postgresql


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port where connections are accepted and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


def time_of_failure(url: str, **keys: Any) -> tuple[float, BaseException | None]:
    """How long the first connect took to fail, and its error."""
    with open_pool(url=url, **keys) as pool:
        started = time.monotonic()
        with contextlib.suppress(PoolTimeout):
            pool.lease(timeout=0)
        wait_until(lambda: pool.stats().connect_errors)
        return time.monotonic() - started, pool.engine.state.connector.backoff.error


@pytest.mark.slow
def test_p10_psycopg_deaf_server(deaf_port: int) -> None:
    """A connect of psycopg to a server that never answers ends by CONNECT_TIMEOUT, with psycopg's
    own error.
    """
    url = f"postgresql+psycopg://ann@127.0.0.1:{deaf_port}/d"
    seconds, error = time_of_failure(url, connect_timeout=3)
    assert 2.9 < seconds < 4.0
    assert isinstance(error, psycopg.errors.ConnectionTimeout)


@pytest.mark.slow
def test_p10_psycopg_trickling_server() -> None:
    """A server that sends a byte now and then does not keep psycopg connecting."""
    with trickle() as port:
        url = f"postgresql+psycopg://ann@127.0.0.1:{port}/d?sslmode=disable"
        assert time_of_failure(url, connect_timeout=2)[0] < 3.1


@pytest.mark.slow
def test_p10_psycopg_short_limit(deaf_port: int) -> None:
    """psycopg waits two seconds at least; a shorter CONNECT_TIMEOUT holds all the same."""
    url = f"postgresql+psycopg://ann@127.0.0.1:{deaf_port}/d"
    assert time_of_failure(url, connect_timeout=0.2)[0] < 1.9


@pytest.mark.slow
@pytest.mark.parametrize("form", ["arguments", "conninfo"])
def test_p10_psycopg_several_addresses(url: str, deaf_port: int, form: str) -> None:
    """CONNECT_TIMEOUT is shared out among the addresses that psycopg tries one after the other, so
    that it comes to the last of them in time.
    """
    ports = f"{deaf_port},{port_of(url)}"
    where = {"host": "127.0.0.1,127.0.0.1", "port": ports, "user": "postgres"}
    if form == "conninfo":
        where = {"conninfo": " ".join(f"{name}={value}" for name, value in where.items())}
    with open_pool(creator=psycopg, connect_args=where, connect_timeout=5) as pool:
        pool.lease(timeout=4.5).close()
        assert pool.stats().connect_errors == 0


@pytest.mark.parametrize(
    "arguments",
    [{"connect_timeout": 77}, {"conninfo": "connect_timeout=77"}, {"conninfo": "postgresql://h/d"}],
)
def test_p10_psycopg_own_limit(monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    """A limit that the connect arguments name is psycopg's, in a conninfo string too."""
    seen: list[dict[str, Any]] = []

    def connect(conninfo: str = "", **kwargs: Any) -> Any:
        seen.append(psycopg.conninfo.conninfo_to_dict(conninfo, **kwargs))

    monkeypatch.setattr(psycopg, "connect", connect)
    config = PoolConfig.from_mapping({"CREATOR": psycopg, "CONNECT_ARGS": arguments})
    make_driver(config).connect()
    expected = 5 if "://" in str(arguments) else 77
    assert int(seen[0]["connect_timeout"]) == expected


def test_a3_psycopg_conninfo() -> None:
    """A conninfo string that can't be parsed is a ConfigError that does not show it."""
    config = PoolConfig.from_mapping(
        {"CREATOR": psycopg, "CONNECT_ARGS": {"conninfo": f"host=h password=a {SECRET}"}}
    )
    with pytest.raises(ConfigError, match="'conninfo' can't be parsed") as caught:
        make_driver(config)
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.slow
def test_p10_unknown_module_hangs(deaf_port: int) -> None:
    """A connect of a module that takes no time limit ends by CONNECT_TIMEOUT for its callers, and
    the pool tries again.
    """
    tried: list[socket.socket] = []

    def connect(port: int) -> Any:
        tried.append(socket.create_connection(("127.0.0.1", port)))
        tried[-1].recv(1)
        raise ConnectionError

    keys: dict[str, Any] = {
        "creator": connect,
        "connect_args": {"port": deaf_port},
        "connect_timeout": 0.2,
    }
    with open_pool(**keys) as pool:
        with pytest.raises(PoolTimeout) as caught:
            pool.lease(timeout=3.5)
        assert "hangs in its driver" in str(caught.value.__cause__)
        assert len(tried) >= 2
        for sock in tried:
            sock.shutdown(socket.SHUT_RDWR)
        pool.close()
        wait_until(lambda: pool.engine.state.connector.hanging == 0)
        for sock in tried:
            sock.close()


def test_p10_steady_connection_hangs(deaf_port: int) -> None:
    """So it is for a connection outside of the pool. One that comes back late is closed."""
    go_on, made = threading.Event(), []

    def connect(port: int) -> Any:
        assert go_on.wait(10)
        made.append(sqlite3.connect(":memory:", check_same_thread=False))
        return made[-1]

    keys: dict[str, Any] = {"creator": connect, "connect_args": {"port": deaf_port}}
    with open_pool(**keys, connect_timeout=0.1) as pool:
        with pytest.raises(TimeoutError):
            pool.steady_connection()
        go_on.set()
        wait_until(lambda: made)
        wait_until(lambda: is_closed(made[0]))
        pool.steady_connection().close()


def is_closed(raw: sqlite3.Connection) -> bool:
    try:
        raw.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


# Tracers


@pytest.mark.parametrize("module", [psycopg, rawdb()], ids=["psycopg", "unknown"])
@pytest.mark.parametrize("form", ["module", "its connect"])
def test_replaced_connect(monkeypatch: pytest.MonkeyPatch, module: ModuleType, form: str) -> None:
    """A module's `connect` that a tracer replaced before `init_app` is what is called."""
    calls: list[dict[str, Any]] = []

    @functools.wraps(psycopg.connect)
    def traced(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        raise LookupError

    if module is not psycopg:
        traced.__module__ = "rawdb"
        monkeypatch.setitem(__import__("sys").modules, "rawdb", module)
    monkeypatch.setattr(module, "connect", traced)
    creator = module if form == "module" else module.connect
    driver = make_driver(PoolConfig.from_mapping({"CREATOR": creator}))
    assert driver.dbapi is module
    with pytest.raises(LookupError):
        driver.connect()
    ours = {"connect_timeout": 5, "fallback_application_name": driver.label()}
    assert calls == ([ours] if module is psycopg else [{}])


def test_replaced_connect_of_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is with a URL."""
    calls: list[str] = []

    def traced(**kwargs: Any) -> Any:
        calls.append(kwargs["host"])
        raise LookupError

    monkeypatch.setattr(psycopg, "connect", traced)
    driver = make_driver(PoolConfig.from_mapping({"URL": "postgresql+psycopg://h/d"}))
    with pytest.raises(LookupError):
        driver.connect()
    assert calls == ["h"]


# Passwords


@pytest.mark.parametrize("name", ["password", "passwd"])
@pytest.mark.parametrize("creator", [pymysql, psycopg, psycopg.connect, rawdb()])
def test_password_is_no_text(creator: Any, name: str) -> None:
    """A password that is no text is a ConfigError that does not show it."""
    arguments = {name: 7531642}
    config = PoolConfig.from_mapping({"CREATOR": creator, "CONNECT_ARGS": arguments})
    with pytest.raises(ConfigError, match=f"{name}.*must be a string.*int.*quotes") as caught:
        make_driver(config)
    assert "7531642" not in str(caught.value)


def test_password_of_own_function() -> None:
    """What an application's own function takes for a password is its own affair."""

    def connect(password: object) -> Any:
        raise LookupError

    keys = {"CREATOR": connect, "CONNECT_ARGS": {"password": object()}}
    with pytest.raises(LookupError):
        make_driver(PoolConfig.from_mapping(keys)).connect()


def test_password_of_digits() -> None:
    """A password of digits in a URL's query is a text, as at its usual place."""
    url = "postgresql+psycopg://ann@h/d?password=007"
    driver = make_driver(PoolConfig.from_mapping({"URL": url}))
    assert driver._arguments["password"] == "007"


def traces_of(error: BaseException | None) -> str:
    """All that an error and its causes hold."""
    text = ""
    while error is not None:
        text += f"{error!s}{error!r}{error.args}{vars(error)}{getattr(error, 'object', '')!r}"
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize("wraps", [False, True], ids=["bare", "as a cause"])
@pytest.mark.parametrize("creator", ["psycopg", "unknown"])
def test_a3_unicode_error(creator: str, wraps: bool) -> None:
    """An error of a password that can't be encoded holds nothing of it."""

    def encode(password: str) -> Any:
        try:
            password.encode()
        except UnicodeError as error:
            if wraps:
                raise sqlite3.ProgrammingError("no") from error
            raise

    arguments = {"password": f"{SECRET}\udc80"}
    if creator == "psycopg":
        arguments["host"] = "127.0.0.1"
    keys: dict[str, Any] = {
        "creator": psycopg if creator == "psycopg" else encode,
        "connect_args": arguments,
    }
    with open_pool(**keys) as pool:
        with pytest.raises((ConnectFailed, PoolTimeout)) as caught:
            pool.lease(timeout=5)
        assert caught.value.__cause__ is not None
        assert SECRET not in traces_of(caught.value)
        with pytest.raises(Exception, match=r"no|codec") as outside:
            pool.steady_connection()
        assert SECRET not in traces_of(outside.value)
