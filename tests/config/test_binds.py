"""The default database, and the binds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, db_connection_context
from tests.config.configs import URL, binds_of, problems_of


def test_default_database(tmp_path: Path) -> None:
    """Without a database, the default is an SQLite file in the instance folder."""
    app = Flask("app_under_test", instance_path=str(tmp_path / "instance"))
    db = PooledDB(app)
    with app.app_context():
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (a)")
        db.close()
    assert (tmp_path / "instance" / "app_under_test.sqlite").exists()


def test_empty_binds(tmp_path: Path) -> None:
    """An empty BINDS is the same as none."""
    app = Flask("app_under_test", instance_path=str(tmp_path / "instance"))
    app.config["POOLED_DB_BINDS"] = {}
    db = PooledDB(app)
    with app.app_context():
        with db_connection_context() as conn:
            conn.execute("SELECT 1")
        db.close()


def test_forms_of_binds() -> None:
    """A bind is a URL or a mapping, beside the top-level database."""
    binds = binds_of(
        {
            "POOLED_DB_URL": "sqlite:///top",
            "POOLED_DB_BINDS": {"a": "sqlite:///a", "b": {"URL": "sqlite:///b", "MINCACHED": 0}},
        }
    )
    names = {name: cast("Any", made.url).database for name, made in binds.items()}
    assert names == {"default": "top", "a": "a", "b": "b"}
    assert (binds["a"].mincached, binds["b"].mincached) == (3, 0)


def test_binds_without_default() -> None:
    """Binds without a top-level database give no default one."""
    assert set(binds_of({"POOLED_DB_BINDS": {"a": URL}})) == {"a"}


def test_inherited_keys() -> None:
    """A bind inherits sizes and times, but nothing that belongs to one database."""
    binds = binds_of(
        {
            "POOLED_DB_URL": "sqlite:///top",
            "POOLED_DB_CONNECT_ARGS": {"timeout": 1.0},
            "POOLED_DB_SETSESSION": ["PRAGMA cache_size=7"],
            "POOLED_DB_MINCACHED": 1,
            "POOLED_DB_MAXCONNECTIONS": 7,
            "POOLED_DB_MAXUSAGE": 9,
            "POOLED_DB_ACQUIRE_TIMEOUT": 2,
            "POOLED_DB_RESET": "session",
            "POOLED_DB_BINDS": {
                "a": "sqlite:///a",
                "b": {"URL": "sqlite:///b", "RESET": "rollback", "MAXCONNECTIONS": 9},
            },
        }
    )
    a, b = binds["a"], binds["b"]
    assert (a.mincached, a.maxconnections, a.maxusage, a.acquire_timeout) == (1, 7, 9, 2.0)
    assert (a.reset, b.reset, b.maxconnections) == ("session", "rollback", 9)
    assert (a.connect_args, a.setsession) == ({}, ())


def test_inherited_size_and_smaller_maximum() -> None:
    """An inherited size shrinks to the bind's smaller maximum."""
    binds = binds_of(
        {
            "POOLED_DB_MINCACHED": 5,
            "POOLED_DB_BINDS": {"a": {"URL": URL, "MAXCONNECTIONS": 2}},
        }
    )
    assert (binds["a"].mincached, binds["a"].maxconnections) == (2, 2)


def test_inherited_maximum() -> None:
    """An inherited maximum is never raised, unless the bind sets its own."""
    keys = {
        "POOLED_DB_MAXCONNECTIONS": 5,
        "POOLED_DB_BINDS": {"a": {"URL": URL, "MAXCACHED": 50}},
    }
    (problem,) = problems_of(keys)
    first, second = "POOLED_DB_BINDS['a'].MAXCACHED (50)", "POOLED_DB_MAXCONNECTIONS (5)"
    assert problem.startswith(f"{first} is more than {second}: ")
    assert binds_of(
        {**keys, "POOLED_DB_BINDS": {"a": {"URL": URL, "MAXCACHED": 50, "MAXCONNECTIONS": 50}}}
    )


def test_inherited_size_and_default() -> None:
    """A default gives way to an inherited size."""
    keys = {"POOLED_DB_MAXCACHED": 50, "POOLED_DB_BINDS": {"a": URL}}
    made = binds_of(keys)["a"]
    assert (made.maxcached, made.maxconnections) == (50, 50)


@pytest.mark.parametrize(
    ("key", "value"),
    [("CONNECT_ARGS", {"a": 1}), ("SETSESSION", ["SET a=1"]), ("TARGET", "primary")],
)
def test_key_without_top_level_database(key: str, value: Any) -> None:
    """With binds alone, a top-level key that belongs to one database is refused."""
    problems = problems_of({f"POOLED_DB_{key}": value, "POOLED_DB_BINDS": {"a": URL}})
    assert problems == (
        "POOLED_DB_URL is not set: give it a database URL, or set POOLED_DB_CREATOR",
    )


@pytest.mark.parametrize(
    ("replica", "word"), [("nowhere", "names no bind"), ("default", "the bind itself")]
)
def test_replica(replica: str, word: str) -> None:
    """REPLICA must name another bind that exists."""
    (problem,) = problems_of({"POOLED_DB_URL": URL, "POOLED_DB_REPLICA": replica})
    assert problem.startswith("POOLED_DB_REPLICA ")
    assert word in problem


def test_problem_of_bind() -> None:
    """A problem of a bind names the bind and the key."""
    (problem,) = problems_of({"POOLED_DB_BINDS": {"log": {"URL": URL, "MAXCONECTIONS": 5}}})
    assert problem == (
        "POOLED_DB_BINDS['log'].MAXCONECTIONS is not a known key: "
        "did you mean POOLED_DB_BINDS['log'].MAXCONNECTIONS?"
    )


def test_nested_binds() -> None:
    """BINDS inside a bind is refused."""
    (problem,) = problems_of({"POOLED_DB_BINDS": {"a": {"URL": URL, "BINDS": {"b": URL}}}})
    assert problem.startswith("POOLED_DB_BINDS['a'].BINDS is not a known key")


@pytest.mark.parametrize(
    ("limit", "keys", "mincached"),
    [
        (20, {}, {"a": 3, "b": 3}),
        (5, {}, {"a": 2, "b": 2}),
        (1, {}, {"a": 0, "b": 0}),
        (0, {}, {"a": 3, "b": 3}),
        (5, {"POOLED_DB_BINDS": {"a": {"URL": URL, "MINCACHED": 4}, "b": URL}}, {"a": 4, "b": 1}),
        (5, {"POOLED_DB_BINDS": {"a": {"URL": URL, "MINCACHED": None}, "b": URL}}, {"a": 2}),
        (4, {"POOLED_DB_MINCACHED": 2}, {"a": 2, "b": 2}),
    ],
)
def test_mincached_and_common_limit(
    limit: int, keys: dict[str, Any], mincached: dict[str, int]
) -> None:
    """Defaults of MINCACHED shrink to what BINDS_MAXCONNECTIONS leaves for all binds."""
    binds = binds_of(
        {"POOLED_DB_BINDS": {"a": URL, "b": URL}, "POOLED_DB_BINDS_MAXCONNECTIONS": limit} | keys
    )
    assert {name: binds[name].mincached for name in mincached} == mincached


def test_mincached_above_common_limit() -> None:
    """MINCACHED that was set is not lowered: it is refused."""
    (problem,) = problems_of(
        {
            "POOLED_DB_BINDS_MAXCONNECTIONS": 5,
            "POOLED_DB_MINCACHED": 2,
            "POOLED_DB_BINDS": {"a": URL, "b": {"URL": URL, "MINCACHED": 4}},
        }
    )
    assert problem == (
        "POOLED_DB_BINDS_MAXCONNECTIONS (5) is less than the MINCACHED of all binds together (6): "
        "raise the first or lower the others"
    )


def test_common_limit_is_the_apps() -> None:
    """BINDS_MAXCONNECTIONS is a key of the app: no bind has one, and it is a count."""
    (problem,) = problems_of({"POOLED_DB_BINDS": {"a": {"URL": URL, "BINDS_MAXCONNECTIONS": 1}}})
    assert "POOLED_DB_BINDS['a'].BINDS_MAXCONNECTIONS is not a known key" in problem
    (problem,) = problems_of({"POOLED_DB_BINDS_MAXCONNECTIONS": -1, "POOLED_DB_BINDS": {"a": URL}})
    assert problem.startswith("POOLED_DB_BINDS_MAXCONNECTIONS must be a whole number, 0 or more")
