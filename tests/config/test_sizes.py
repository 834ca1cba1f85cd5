"""Sizes that fit each other, and keys that contradict each other."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

import flask_pooled_db
from flask_pooled_db import ConfigError
from flask_pooled_db.config import PoolConfig, fit_sizes
from tests.config.configs import URL, config, warmed_pool


@pytest.mark.parametrize(
    ("keys", "mincached", "maxcached", "maxconnections"),
    [
        ({}, 3, 10, 20),
        ({"MAXCONNECTIONS": 2}, 2, 2, 2),
        ({"MAXCONNECTIONS": 1}, 1, 1, 1),
        ({"MAXCONNECTIONS": 5}, 3, 5, 5),
        ({"MAXCONNECTIONS": 0}, 3, 10, 0),
        ({"MAXCACHED": 50}, 3, 50, 50),
        ({"MAXCACHED": 1}, 1, 1, 20),
        ({"MAXCACHED": 0}, 3, 0, 20),
        ({"MINCACHED": 0}, 0, 10, 20),
        ({"MINCACHED": 15}, 15, 15, 20),
        ({"MINCACHED": 30}, 30, 30, 30),
        ({"MINCACHED": 30, "MAXCONNECTIONS": 40}, 30, 30, 40),
        ({"MAXCACHED": 0, "MAXCONNECTIONS": 2}, 2, 0, 2),
        ({"MINCACHED": 2, "MAXCONNECTIONS": 2}, 2, 2, 2),
        ({"MINCACHED": 5, "MAXCACHED": 0}, 5, 0, 20),
        ({"MAXCACHED": 50, "MAXCONNECTIONS": 0}, 3, 50, 0),
    ],
)
def test_defaults_fit(
    keys: dict[str, int], mincached: int, maxcached: int, maxconnections: int
) -> None:
    """Defaults shrink or grow to fit the sizes that were set."""
    made = config(**keys)
    sizes = (made.mincached, made.maxcached, made.maxconnections)
    assert sizes == (mincached, maxcached, maxconnections)


@pytest.mark.parametrize(
    ("given", "mincached", "maxcached", "maxconnections"),
    [
        ({"maxconnections": 5}, 2, 5, 5),
        ({"maxconnections": 1}, 1, 1, 1),
        ({"maxconnections": 50}, 2, 8, 50),
        ({"maxconnections": 0}, 2, 8, 0),
        ({"maxconnections": 20, "mincached": 12}, 12, 12, 20),
        ({"maxconnections": 20, "maxcached": 1}, 1, 1, 20),
        ({"maxconnections": 9, "maxcached": 0, "mincached": 9}, 9, 0, 9),
    ],
)
def test_sizes_given_later(
    given: dict[str, int], mincached: int, maxcached: int, maxconnections: int
) -> None:
    """Sizes that a pool is given later count; the others are as configured, if they fit."""
    configured = config(MINCACHED=2, MAXCACHED=8, MAXCONNECTIONS=10, MAXSHARED=3)
    sizes = fit_sizes(given, configured)
    found = [sizes[name] for name in ("mincached", "maxcached", "maxconnections")]
    assert found == [mincached, maxcached, maxconnections]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"maxconnections": 5, "maxcached": 6}, "MAXCACHED (6) is more than MAXCONNECTIONS (5)"),
        ({"maxconnections": 5, "mincached": 6}, "MINCACHED (6) is more than MAXCONNECTIONS (5)"),
        (
            {"maxconnections": 9, "maxcached": 3, "mincached": 4},
            "MINCACHED (4) is more than MAXCACHED (3)",
        ),
    ],
)
def test_sizes_given_later_contradict(given: dict[str, int], problem: str) -> None:
    """Sizes that are given together and contradict each other are refused."""
    with pytest.raises(ConfigError) as caught:
        fit_sizes(given, config())
    assert problem in str(caught.value)


def test_maxshared_and_maximum() -> None:
    """MAXSHARED above the default maximum raises it, but not a maximum that was set."""
    assert config(MAXSHARED=30).maxconnections == 30
    assert config(MAXSHARED=5, MAXCONNECTIONS=5).maxconnections == 5


def test_small_maximum() -> None:
    """MAXCONNECTIONS=2 alone limits the pool to 2 connections."""
    with warmed_pool(mincached=None, maxconnections=2) as pool:
        leases = [pool.lease(), pool.lease()]
        with pytest.raises(flask_pooled_db.PoolTimeout):
            pool.lease(timeout=0)
        for lease in leases:
            lease.close()


@pytest.mark.parametrize(
    ("keys", "small", "large"),
    [
        ({"MINCACHED": 5, "MAXCACHED": 4}, "MINCACHED (5)", "MAXCACHED (4)"),
        ({"MINCACHED": 5, "MAXCONNECTIONS": 4}, "MINCACHED (5)", "MAXCONNECTIONS (4)"),
        ({"MAXCACHED": 5, "MAXCONNECTIONS": 4}, "MAXCACHED (5)", "MAXCONNECTIONS (4)"),
        ({"MAXSHARED": 5, "MAXCONNECTIONS": 4}, "MAXSHARED (5)", "MAXCONNECTIONS (4)"),
    ],
)
def test_contradicting_sizes(keys: dict[str, int], small: str, large: str) -> None:
    """Two sizes that were set and contradict each other are refused."""
    with pytest.raises(ConfigError) as caught:
        config(**keys)
    (problem,) = caught.value.problems
    assert problem == f"{small} is more than {large}: lower the first or raise the second"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"URL": URL, "CREATOR": sqlite3}, ("URL", "CREATOR", "keep one")),
        ({"MINCACHED": 1}, ("URL is not set", "CREATOR")),
        ({"URL": URL, "BLOCKING": False, "MAX_WAITING": 5}, ("MAX_WAITING", "BLOCKING", "remove")),
        (
            {"URL": URL, "MAXCONNECTIONS": 0, "MAX_WAITING": 5},
            ("MAX_WAITING", "MAXCONNECTIONS 0", "remove"),
        ),
    ],
)
def test_exclusive_keys(keys: dict[str, Any], words: tuple[str, ...]) -> None:
    """Keys that exclude each other are refused; the error names both and the remedy."""
    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_mapping(keys)
    (problem,) = caught.value.problems
    assert all(word in problem for word in words)
