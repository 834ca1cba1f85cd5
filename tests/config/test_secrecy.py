"""A3: the error and the repr of a configuration show no value."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import ConfigError, PooledDB
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.config.pool import KEYS
from tests.config.configs import SECRET, URL


class Leaky:
    """A value whose repr is a secret."""

    def __repr__(self) -> str:
        return SECRET


SECRETS: list[Any] = [
    SECRET,
    f"mysql://ann:{SECRET}",
    f"mysql://ann:{SECRET}@h:x/d",
    f"mysql://ann:{SECRET}@h/d",
    f"oracle://ann:{SECRET}@h/d",
    f"sqlite://ann:{SECRET}@h/d",
    f"mysql://h/d?ssl_disabled=1&ssl_ca={SECRET}&password={SECRET}",
    SECRET.encode(),
    [SECRET],
    (1, SECRET, 2),
    {"password": SECRET},
    {"password": [SECRET], "autocommit": True},
    {"a": SECRET},
    {"a": [SECRET]},
    {"a": {"URL": SECRET}},
    {"a": {"URL": f"mysql://ann:{SECRET}"}},
    {f"mysql://ann:{SECRET}@h/d": {"URL": "mysql://h/d"}},
    {f"mysql://ann:{SECRET}@h/d": 7},
    {f"mysql://ann:{SECRET}": "mysql://h/d", "b": 7},
    {f"host=h password={SECRET}": "mysql://h/d", "b": {"MAXCACHED": -1}},
    {"a": {f"mysql://ann:{SECRET}@h/d": 7}},
    {"a": {f"host=h password={SECRET}": 7}},
    {"a": {"URL": f"mysql://ann:{SECRET}@h/d", "REPLICA": f"mysql://ann:{SECRET}@h/d"}},
    {"a": {"URL": f"mysql://ann:{SECRET}@h/d", "CONNECT_ARGS": {"password": f"{SECRET}2"}}},
    Leaky(),
    [Leaky()],
]


@pytest.mark.parametrize("key", [*sorted(KEYS), "BINDS", "NO_KEY"])
def test_a3_config_error(key: str) -> None:
    """A ConfigError shows no value, wherever a password stands by mistake."""
    for secret in SECRETS:
        for other in ({}, {"POOLED_DB_URL": URL}, {"POOLED_DB_URL": f"mysql://ann:{SECRET}@h/d"}):
            app = Flask("app_under_test", instance_path="/nonexistent/instance")
            app.config.update({**other, f"POOLED_DB_{key}": secret})
            try:
                PooledDB(app).close()
            except ConfigError as error:
                told = f"{error}{error!r}{error.problems}"
                assert SECRET not in told, f"{key}={secret!r} is told as {told}"


def test_a3_url_as_key() -> None:
    """A key that is a URL, as when the name was left out, is not shown."""
    app = Flask("app_under_test", instance_path="/nonexistent/instance")
    app.config[f"POOLED_DB_mysql://ann:{SECRET}@h/d"] = URL
    with pytest.raises(ConfigError, match="is not a name") as caught:
        PooledDB(app)
    assert SECRET not in str(caught.value)


def test_a3_url_as_replica() -> None:
    """A URL in place of a replica's name is refused before any repr could show it."""
    keys = {"URL": URL, "REPLICA": f"mysql://ann:{SECRET}@h/d"}
    with pytest.raises(ConfigError, match="REPLICA must be the name of a bind, and is a URL"):
        PoolConfig.from_mapping(keys)


def test_a3_config_repr() -> None:
    """The repr of a config shows no value that may hold a password."""
    made = PoolConfig.from_mapping(
        {
            "URL": f"mysql://ann:{SECRET}@h/d?password={SECRET}",
            "CONNECT_ARGS": {"password": SECRET},
            "SETSESSION": [f"SET PASSWORD = '{SECRET}'"],
            "PING": f"SELECT '{SECRET}'",
        }
    )
    assert SECRET not in repr(made)
    assert SECRET not in repr(PoolConfig.from_mapping({"CREATOR": functools.partial(len, SECRET)}))
