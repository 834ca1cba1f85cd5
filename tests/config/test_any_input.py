"""Any input gives a configuration or one error."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_pooled_db import ConfigError
from flask_pooled_db.config import PoolConfig, read_app
from flask_pooled_db.config.pool import KEYS
from flask_pooled_db.drivers import make_driver
from tests.config.configs import URL

# Anything at all

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.sampled_from([URL, "mysql://ann:pw@h/d", "rollback", "session", "SELECT 1", len, sqlite3])
)

NAMES = st.sampled_from([*KEYS, "BINDS"]) | st.text(max_size=8) | st.integers()


def mappings(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=3) | st.dictionaries(NAMES, values, max_size=4)


ANYTHING = st.recursive(SCALARS, mappings, max_leaves=8)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, ANYTHING, max_size=5))
def test_any_mapping(keys: dict[Any, Any]) -> None:
    """Any mapping gives a consistent config or one ConfigError."""
    try:
        made = PoolConfig.from_mapping(keys)
    except ConfigError:
        return
    chain = (made.mincached, made.maxcached, made.maxconnections)
    limits = [limit for limit in chain if limit]
    assert limits == sorted(limits)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, ANYTHING, max_size=5))
def test_any_app_config(keys: dict[Any, Any]) -> None:
    """Any app config, binds included, gives pools or one ConfigError."""
    prefixed = {f"POOLED_DB_{k}" if isinstance(k, str) else k: v for k, v in keys.items()}
    problems: list[str] = []
    binds = read_app(prefixed, "sqlite:///default.sqlite", problems).binds
    assert problems or binds
    assert all(isinstance(problem, str) for problem in problems)


SCHEME = st.sampled_from(["mysql", "mariadb", "sqlite", "postgresql+psycopg", "oracle"])
ARGUMENT = st.sampled_from(["timeout", "autocommit", "ssl", "port", "database", "x"])


@given(SCHEME, st.dictionaries(ARGUMENT, st.text(alphabet="0123tru.e-n", max_size=6), max_size=3))
def test_any_query(scheme: str, query: dict[str, str]) -> None:
    """Any query of a URL gives a driver or one ConfigError."""
    text = "&".join(f"{name}={value}" for name, value in query.items())
    with contextlib.suppress(ConfigError):
        make_driver(PoolConfig.from_mapping({"URL": f"{scheme}:///d?{text}"}))
