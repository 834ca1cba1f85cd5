"""The default database, and the binds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, db_connection_context
from tests.config.configs import URL, binds_of, problems_of


def test_without_a_database_the_default_is_a_file_of_the_app(tmp_path: Path) -> None:
    """An app that sets nothing works, on an SQLite file in its instance folder."""
    app = Flask("app_under_test", instance_path=str(tmp_path / "instance"))
    db = PooledDB(app)
    with app.app_context():
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (a)")
        db.close()
    assert (tmp_path / "instance" / "app_under_test.sqlite").exists()


def test_an_empty_binds_changes_nothing(tmp_path: Path) -> None:
    """BINDS without a bind in it is as good as none."""
    app = Flask("app_under_test", instance_path=str(tmp_path / "instance"))
    app.config["POOLED_DB_BINDS"] = {}
    db = PooledDB(app)
    with app.app_context():
        with db_connection_context() as conn:
            conn.execute("SELECT 1")
        db.close()


def test_a_bind_is_a_url_or_a_mapping() -> None:
    """Both forms of a bind make a pool, beside that of the top level."""
    binds = binds_of(
        {
            "POOLED_DB_URL": "sqlite:///top",
            "POOLED_DB_BINDS": {"a": "sqlite:///a", "b": {"URL": "sqlite:///b", "MINCACHED": 0}},
        }
    )
    names = {name: made.url and made.url.database for name, made in binds.items()}
    assert names == {"default": "top", "a": "a", "b": "b"}
    assert (binds["a"].mincached, binds["b"].mincached) == (3, 0)


def test_with_binds_alone_there_is_no_default() -> None:
    """Binds without a top-level database make no database that was never asked for."""
    assert set(binds_of({"POOLED_DB_BINDS": {"a": URL}})) == {"a"}


def test_a_bind_inherits_sizes_and_times_and_no_database() -> None:
    """What is set at the top is a bind's default, except for what belongs to one database."""
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


def test_an_inherited_size_gives_way_to_a_smaller_maximum() -> None:
    """A bind with a smaller maximum than the top level's keeps fewer connections open."""
    binds = binds_of(
        {
            "POOLED_DB_MINCACHED": 5,
            "POOLED_DB_BINDS": {"a": {"URL": URL, "MAXCONNECTIONS": 2}},
        }
    )
    assert (binds["a"].mincached, binds["a"].maxconnections) == (2, 2)


def test_an_inherited_maximum_is_never_raised() -> None:
    """A limit that was set at the top level is a limit for a bind, unless the bind sets its own."""
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


def test_an_inherited_size_counts_as_set() -> None:
    """A default that nobody set gives way to what the top level says, in a bind too."""
    keys = {"POOLED_DB_MAXCACHED": 50, "POOLED_DB_BINDS": {"a": URL}}
    made = binds_of(keys)["a"]
    assert (made.maxcached, made.maxconnections) == (50, 50)


@pytest.mark.parametrize(
    ("key", "value"),
    [("CONNECT_ARGS", {"a": 1}), ("SETSESSION", ["SET a=1"]), ("TARGET", "primary")],
)
def test_a_top_level_key_without_its_database_is_refused(key: str, value: Any) -> None:
    """With binds alone, a key that belongs to the top-level database would have no effect."""
    problems = problems_of({f"POOLED_DB_{key}": value, "POOLED_DB_BINDS": {"a": URL}})
    assert problems == (
        "POOLED_DB_URL is not set: give it a database URL, or set POOLED_DB_CREATOR",
    )


@pytest.mark.parametrize(
    ("replica", "word"), [("nowhere", "names no bind"), ("default", "the bind itself")]
)
def test_a_replica_is_another_bind(replica: str, word: str) -> None:
    """REPLICA names a bind that there is."""
    (problem,) = problems_of({"POOLED_DB_URL": URL, "POOLED_DB_REPLICA": replica})
    assert problem.startswith("POOLED_DB_REPLICA ")
    assert word in problem


def test_a_problem_of_a_bind_is_told_with_its_place() -> None:
    """The error names the bind and the key in it."""
    (problem,) = problems_of({"POOLED_DB_BINDS": {"log": {"URL": URL, "MAXCONECTIONS": 5}}})
    assert problem == (
        "POOLED_DB_BINDS['log'].MAXCONECTIONS is not a known key: "
        "did you mean POOLED_DB_BINDS['log'].MAXCONNECTIONS?"
    )


def test_binds_do_not_nest() -> None:
    """BINDS is no key of a bind."""
    (problem,) = problems_of({"POOLED_DB_BINDS": {"a": {"URL": URL, "BINDS": {"b": URL}}}})
    assert problem.startswith("POOLED_DB_BINDS['a'].BINDS is not a known key")
