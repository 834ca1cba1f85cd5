"""Configurations, and what is said about them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import ConfigError, PooledDB
from flask_pooled_db.config import PoolConfig, read_app
from flask_pooled_db.lease.dbutils import Pool
from tests.support.pools import open_pool

SECRET = "Kolibri7Geheim"
URL = "sqlite:///:memory:"


def config(**keys: Any) -> PoolConfig:
    """The config of these keys, on a database that needs no server."""
    return PoolConfig.from_mapping({"URL": URL, **keys})


def problems_of(keys: Mapping[str, Any]) -> tuple[str, ...]:
    """What an app is told when it is configured so."""
    app = Flask("app_under_test", instance_path="/nonexistent/instance")
    app.config.update(keys)
    with pytest.raises(ConfigError) as caught:
        PooledDB(app)
    assert "pooled_db" not in app.extensions, "something was registered all the same"
    return caught.value.problems


def binds_of(keys: Mapping[str, Any]) -> dict[str, PoolConfig]:
    """The pools that an app configured so has."""
    problems: list[str] = []
    binds = read_app(keys, "sqlite:///default.sqlite", problems).binds
    assert not problems
    return binds


@contextlib.contextmanager
def warmed_pool(**keys: Any) -> Iterator[Pool]:
    """A pool on SQLite that has lent a connection once."""
    with open_pool(url=URL, **keys) as pool:
        pool.lease().close()
        yield pool
