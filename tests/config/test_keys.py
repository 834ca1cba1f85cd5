"""The keys: which there are, their defaults, and where each has its effect."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import flask_pooled_db
from flask_pooled_db import PooledDB
from flask_pooled_db.config import DatabaseURL, PoolConfig
from flask_pooled_db.config.pool import KEYS
from flask_pooled_db.lease.dbutils import Pool
from harness.waiting import wait_until
from tests.config.configs import URL, config, warmed_pool
from tests.support.pools import open_pool

PACKAGE = Path(flask_pooled_db.__file__).parent

DEFAULTS: dict[str, Any] = {
    "URL": None,
    "CREATOR": None,
    "CONNECT_ARGS": {},
    "MINCACHED": 3,
    "MAXCACHED": 10,
    "MAXSHARED": 0,
    "MAXCONNECTIONS": 20,
    "BLOCKING": True,
    "MAXUSAGE": 0,
    "SETSESSION": (),
    "PING": 1,
    "ACQUIRE_TIMEOUT": 10.0,
    "MAX_WAITING": 0,
    "MAX_LIFETIME": 1800.0,
    "IDLE_TIMEOUT": 600.0,
    "DRAIN_INTERVAL": 0.0,
    "PING_AFTER": 5.0,
    "CONNECT_TIMEOUT": 5.0,
    "STATEMENT_TIMEOUT": 0.0,
    "TRANSACTION_TIMEOUT": 0.0,
    "RESET": "changed",
    "IMPLICIT_COMMIT": "warn",
    "ROWS": "tuple",
    "LEAK_THRESHOLD": 0.0,
    "SLOW_ACQUIRE": 0.0,
    "SLOW_STATEMENT": 0.0,
    "TAG_STATEMENTS": False,
    "HOST_ORDER": "given",
    "TARGET": "any",
    "PROXY": None,
    "REPLICA": None,
    "REPLICA_FALLBACK": True,
    "SERVER": None,
    "SCHEMA": None,
}


def test_documented_keys() -> None:
    """The keys are the fields of the config, as documented."""
    assert set(KEYS) == set(DEFAULTS) == {field.name.upper() for field in fields(PoolConfig)}


@pytest.mark.parametrize("key", sorted(DEFAULTS.keys() - {"URL"}))
def test_documented_defaults(key: str) -> None:
    """Each key has its documented default."""
    value = getattr(config(), key.lower())
    assert (value, type(value)) == (DEFAULTS[key], type(DEFAULTS[key]))


@pytest.mark.parametrize("key", sorted(DEFAULTS.keys() - {"URL"}))
def test_none(key: str) -> None:
    """A key set to None has its default."""
    assert config(**{key: None}) == config()


def test_every_key_is_read() -> None:
    """The package reads each field of a config."""
    read = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config"):
                read.add(node.attr)
    assert {field.name for field in fields(PoolConfig)} <= read


def of_connection(look: Callable[[Any], Any]) -> Callable[[Pool], Any]:
    """The same of a connection that the pool makes."""

    def look_at_one(pool: Pool) -> Any:
        with contextlib.closing(pool.steady_connection()) as con:
            return look(con)

    return look_at_one


EFFECTS: dict[str, tuple[Any, Callable[[Pool], Any], Any]] = {
    "MINCACHED": (2, lambda pool: pool.engine.supply.sizes.mincached, 2),
    "MAXCACHED": (4, lambda pool: pool.engine.supply.sizes.maxcached, 4),
    "MAXCONNECTIONS": (4, lambda pool: pool.stats().maxconnections, 4),
    "BLOCKING": (False, lambda pool: pool.config.blocking, False),
    "MAXUSAGE": (7, of_connection(lambda con: con.usable().origin.config.maxusage), 7),
    "SETSESSION": (
        ["SELECT 1"],
        of_connection(lambda con: con.usable().origin.config.setsession),
        None,
    ),
    "PING": (7, of_connection(lambda con: con.usable().origin.ping.on_query), True),
    "CONNECT_TIMEOUT": (2, lambda pool: pool.driver.connect_timeout, 2.0),
    "STATEMENT_TIMEOUT": (3, lambda pool: pool.engine.usual_session.statement_timeout, 3.0),
    "CONNECT_ARGS": ({"timeout": 0.125}, lambda pool: pool.driver._arguments["timeout"], 0.125),
}


@pytest.mark.parametrize("key", sorted(EFFECTS))
def test_effect_of_key(key: str) -> None:
    """Each key has its effect on the pool, its connections or its driver."""
    value, look, expected = EFFECTS[key]
    with warmed_pool(**{key.lower(): value}) as pool:
        seen = look(pool)
    assert seen == expected if expected is not None else list(seen) == value


def test_mincached() -> None:
    """MINCACHED connections are opened once the pool is in use."""
    with warmed_pool(mincached=3) as pool:
        wait_until(lambda: pool.stats().idle == 3)


def test_acquire_timeout() -> None:
    """With ACQUIRE_TIMEOUT 0 a caller does not wait."""
    with open_pool(url=URL, maxconnections=1, acquire_timeout=0.05) as pool:
        lease = pool.lease(timeout=5.0)
        with pytest.raises(flask_pooled_db.PoolTimeout) as caught:
            pool.lease()
        lease.close()
    assert caught.value.waited >= 0.05


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`app.config.from_prefixed_env()` sets every kind of value, in binds too."""
    environment = {
        "URL": "sqlite:///top",
        "MAXCONNECTIONS": "7",
        "BLOCKING": "false",
        "ACQUIRE_TIMEOUT": "2.5",
        "SETSESSION": json.dumps(["PRAGMA cache_size=7"]),
        "RESET": "session",
        "IMPLICIT_COMMIT": "error",
        "ROWS": "dict",
        "PING": "7",
        "CONNECT_ARGS__timeout": "1.5",
        "BINDS__log": "sqlite:///log",
        "BINDS__reports__URL": "sqlite:///reports",
        "BINDS__reports__MAXCONNECTIONS": "2",
        "BINDS__reports__ROWS": "namedtuple",
        "BINDS__reports__CONNECT_ARGS__timeout": "3",
    }
    for name, text in environment.items():
        monkeypatch.setenv(f"FLASK_POOLED_DB_{name}", text)
    app = Flask("app_under_test")
    app.config.from_prefixed_env()
    db = PooledDB(app)
    with app.app_context():
        top, log, reports = (db.pool(bind).config for bind in (None, "log", "reports"))
    db.close()
    assert (top.maxconnections, top.blocking, top.acquire_timeout) == (7, False, 2.5)
    assert (top.setsession, top.reset, top.ping) == (("PRAGMA cache_size=7",), "session", 7)
    assert top.connect_args == {"timeout": 1.5}
    assert isinstance(log.url, DatabaseURL)
    assert (log.url.database, log.maxconnections) == ("log", 7)
    assert (top.rows, log.rows, reports.rows) == ("dict", "dict", "namedtuple")
    assert (reports.maxconnections, reports.connect_args) == (2, {"timeout": 3})
