"""The configuration: what each key means, what contradicts what, and what is said about it."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pymysql
import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flask_pooled_db
from flask_pooled_db import ConfigError, PooledDB, UsageError, db_connection_context
from flask_pooled_db.config import PoolConfig, read_binds
from flask_pooled_db.config.pool import KEYS
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.pool import Pool
from tests.support.apps import pooled_app
from tests.support.pools import open_pool, wait_until

PACKAGE = Path(flask_pooled_db.__file__).parent
SECRET = "Kolibri7Geheim"
URL = "sqlite:///:memory:"

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
    "PING_AFTER": 5.0,
    "CONNECT_TIMEOUT": 5.0,
    "STATEMENT_TIMEOUT": 0.0,
    "RESET": "rollback",
    "LEAK_THRESHOLD": 0.0,
    "HOST_ORDER": "given",
    "TARGET": "any",
    "REPLICA": None,
    "REPLICA_FALLBACK": True,
}
COUNTS = ["MINCACHED", "MAXCACHED", "MAXSHARED", "MAXCONNECTIONS", "MAXUSAGE", "MAX_WAITING"]
SECONDS = [
    "ACQUIRE_TIMEOUT",
    "MAX_LIFETIME",
    "IDLE_TIMEOUT",
    "PING_AFTER",
    "CONNECT_TIMEOUT",
    "STATEMENT_TIMEOUT",
    "LEAK_THRESHOLD",
]
FLAGS = ["BLOCKING", "REPLICA_FALLBACK"]
WORDS = {
    "RESET": ("rollback", "session"),
    "HOST_ORDER": ("given", "random"),
    "TARGET": ("any", "primary"),
}


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
    binds = read_binds(keys, "sqlite:///default.sqlite", problems)
    assert not problems
    return binds


def raw_module() -> ModuleType:
    """A DB-API 2 module that nothing is known about."""
    module = ModuleType("rawdb")
    module.__dict__.update(
        {name: vars(sqlite3)[name] for name in ("Error", "OperationalError", "InterfaceError")},
        apilevel="2.0",
        threadsafety=1,
        paramstyle="qmark",
        connect=functools.partial(sqlite3.connect, check_same_thread=False),
    )
    return module


# Keys and defaults


def test_the_keys_are_those_of_the_documentation() -> None:
    """Each key is a field of the config, and there are no others."""
    assert set(KEYS) == set(DEFAULTS) == {field.name.upper() for field in fields(PoolConfig)}


@pytest.mark.parametrize("key", sorted(DEFAULTS.keys() - {"URL"}))
def test_each_default_is_the_documented_one(key: str) -> None:
    """A key that is not set has its documented default."""
    value = getattr(config(), key.lower())
    assert (value, type(value)) == (DEFAULTS[key], type(DEFAULTS[key]))


@pytest.mark.parametrize("key", sorted(DEFAULTS.keys() - {"URL"}))
def test_none_stands_for_not_set(key: str) -> None:
    """A key set to None has its default."""
    assert config(**{key: None}) == config()


def test_every_key_is_read_where_it_has_its_effect() -> None:
    """No key is checked and then forgotten: the package reads each field of a config."""
    read = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config"):
                read.add(node.attr)
    assert {field.name for field in fields(PoolConfig)} <= read


@contextlib.contextmanager
def warmed_pool(**keys: Any) -> Iterator[Pool]:
    """A pool on SQLite that has lent a connection once."""
    with open_pool(url=URL, **keys) as pool:
        pool.lease().close()
        yield pool


def of_connection(look: Callable[[Any], Any]) -> Callable[[Pool], Any]:
    """The same of a connection that the pool makes."""

    def look_at_one(pool: Pool) -> Any:
        with contextlib.closing(pool.steady_connection()) as con:
            return look(con)

    return look_at_one


EFFECTS: dict[str, tuple[Any, Callable[[Pool], Any], Any]] = {
    "MINCACHED": (2, lambda pool: pool._mincached, 2),
    "MAXCACHED": (4, lambda pool: pool._maxcached, 4),
    "MAXCONNECTIONS": (4, lambda pool: pool.stats().maxconnections, 4),
    "BLOCKING": (False, lambda pool: pool._blocking, False),
    "MAXUSAGE": (7, of_connection(lambda con: con._maxusage), 7),
    "SETSESSION": (["SELECT 1"], of_connection(lambda con: con._setsession_sql), None),
    "PING": (7, of_connection(lambda con: con.pings_on_query), True),
    "CONNECT_TIMEOUT": (2, lambda pool: pool.driver.connect_timeout, 2.0),
    "STATEMENT_TIMEOUT": (3, lambda pool: pool.usual_session.statement_timeout, 3.0),
    "CONNECT_ARGS": ({"timeout": 0.125}, lambda pool: pool.driver._arguments["timeout"], 0.125),
}


@pytest.mark.parametrize("key", sorted(EFFECTS))
def test_a_key_reaches_the_pool(key: str) -> None:
    """What is set is what the pool, its connections and its driver go by."""
    value, look, expected = EFFECTS[key]
    with warmed_pool(**{key.lower(): value}) as pool:
        seen = look(pool)
    assert seen == expected if expected is not None else list(seen) == value


def test_mincached_connections_are_opened_once_the_pool_is_in_use() -> None:
    """MINCACHED connections are kept open."""
    with warmed_pool(mincached=3) as pool:
        wait_until(lambda: pool.stats().idle == 3)


def test_acquire_timeout_is_how_long_a_caller_waits() -> None:
    """ACQUIRE_TIMEOUT of 0 doesn't wait."""
    with open_pool(url=URL, maxconnections=1, acquire_timeout=0.05) as pool:
        lease = pool.lease(timeout=5.0)
        with pytest.raises(flask_pooled_db.PoolTimeout) as caught:
            pool.lease()
        lease.close()
    assert caught.value.waited >= 0.05


# Wrong values


WRONG: dict[str, list[Any]] = {
    **{key: ["3", 3.0, -1, True, [], 2**31, float("nan")] for key in COUNTS},
    **{
        key: ["3", -1, -0.5, False, [], float("nan"), float("inf"), 1e10, 10**400]
        for key in SECONDS
    },
    **{key: ["true", "", 0, 1, []] for key in FLAGS},
    **{key: ["", "Session", 1, [], ["rollback"]] for key in WORDS},
    "URL": [None, 5, b"sqlite://", "", "shop.db", []],
    "CREATOR": ["pymysql", 5, [], {}],
    "CONNECT_ARGS": ["a=1", [], 5, {1: 2}],
    "SETSESSION": [
        *("SET x=1", b"x", 5, {}, [""], [" "], [1], [None]),
        *(["SET autocommit=1"], ["SET x=1", "SET SESSION AutoCommit = ON"], ["set @@autocommit=0"]),
    ],
    "PING": [8, -1, True, 1.0, "", [], (), (1, 2, 3), (8, "SELECT 1"), (1, 2), (1, "")],
    "REPLICA": ["", 5, []],
    "BINDS": [5, "x", ["x"], {1: URL}, {"": URL}, {"a": 5}, {"a": None}, {"a": {1: 2}}],
}
WRONG["CONNECT_TIMEOUT"] = [*WRONG["CONNECT_TIMEOUT"], 0]
WRONG["BINDS"] = [*WRONG["BINDS"], {"default": URL}]


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_value_of_the_wrong_kind_is_refused(key: str, value: Any) -> None:
    """The error names the key and says what it takes."""
    database = {} if key in ("URL", "CREATOR", "BINDS") else {"POOLED_DB_URL": URL}
    problems = problems_of({**database, f"POOLED_DB_{key}": value})
    assert len(problems) == 1
    assert problems[0].startswith(f"POOLED_DB_{key} ")
    assert any(word in problems[0] for word in ("must", "does not have the form", "is None"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in COUNTS for value in (0, 1)),
        *((key, value) for key in SECONDS for value in (1, 0.5, 3.2e9)),
        *((key, 0) for key in SECONDS if key != "CONNECT_TIMEOUT"),
        *((key, value) for key in FLAGS for value in (True, False)),
        *((key, value) for key, values in WORDS.items() for value in values),
        *(("SETSESSION", value) for value in ([], (), ["SET a=1"], ("SET a=1", "SET b=2"))),
        *(("PING", value) for value in (0, 7, "SELECT 1", len, (3, "SELECT 1"), (0, len))),
        *(("CONNECT_ARGS", value) for value in ({}, {"timeout": 1})),
    ],
)
def test_a_value_of_the_right_kind_is_taken_as_it_is(key: str, value: Any) -> None:
    """What fits is what the config holds."""
    expected = tuple(value) if key == "SETSESSION" else value
    assert getattr(config(**{key: value}), key.lower()) == expected


# What was set, what was not, and what contradicts what


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
def test_a_default_never_contradicts_what_was_set(
    keys: dict[str, int], mincached: int, maxcached: int, maxconnections: int
) -> None:
    """What is set stands; the other sizes are made to fit it."""
    made = config(**keys)
    sizes = (made.mincached, made.maxcached, made.maxconnections)
    assert sizes == (mincached, maxcached, maxconnections)


def test_maxshared_alone_leaves_room_for_the_shared_ones() -> None:
    """More connections to share than the default maximum raise it; a set one stays."""
    assert config(MAXSHARED=30).maxconnections == 30
    assert config(MAXSHARED=5, MAXCONNECTIONS=5).maxconnections == 5


def test_the_pool_does_not_exceed_a_small_maximum() -> None:
    """MAXCONNECTIONS=2 alone is a limit of 2."""
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
def test_sizes_that_contradict_each_other_are_refused(
    keys: dict[str, int], small: str, large: str
) -> None:
    """Two sizes that were both set and can't both hold: neither is changed behind one's back."""
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
def test_keys_that_exclude_each_other_are_refused(
    keys: dict[str, Any], words: tuple[str, ...]
) -> None:
    """The error names both keys and the way out."""
    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_mapping(keys)
    (problem,) = caught.value.problems
    assert all(word in problem for word in words)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("POOLED_DB_MAXCONECTIONS", ": did you mean POOLED_DB_MAXCONNECTIONS?"),
        ("POOLED_DB_MAX_CONNECTIONS", ": did you mean POOLED_DB_MAXCONNECTIONS?"),
        ("POOLED_DB_url", ": did you mean POOLED_DB_URL?"),
        ("POOLED_DB_BIND", ": did you mean POOLED_DB_BINDS?"),
        ("POOLED_DB_POOL_RECYCLE", ": remove it, or correct its spelling"),
        ("POOLED_DB_", ": remove it, or correct its spelling"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(key: str, hint: str) -> None:
    """A misspelt key is no key that is silently ignored."""
    assert problems_of({"POOLED_DB_URL": URL, key: 1}) == (f"{key} is not a known key{hint}",)


def test_keys_of_others_are_left_alone() -> None:
    """Keys without the prefix are none of this extension's business."""
    keys = {"SECRET_KEY": "x", "POOLED": 1, "pooled_db_url": 2, "XPOOLED_DB_URL": 3}
    app = Flask("app_under_test")
    app.config.update({"POOLED_DB_URL": URL, **keys})
    PooledDB(app).close()


def test_all_problems_are_told_at_once() -> None:
    """One error lists every problem, at the top and in the binds, the drivers' included."""
    problems = problems_of(
        {
            "POOLED_DB_URL": "mysql://h/d",
            "POOLED_DB_MINCACHED": "3",
            "POOLED_DB_MAXCACHED": 9,
            "POOLED_DB_MAXCONNECTIONS": 4,
            "POOLED_DB_PNIG": 1,
            "POOLED_DB_BINDS": {
                "a": "nonsense",
                "b": {"URL": URL, "RESET": "no"},
                "c": "oracle://h/d",
                "d": {"URL": "mysql://h/d", "CONNECT_ARGS": {"autocommit": True, "host": "x"}},
                "e": {},
            },
        }
    )
    told = "\n".join(problems)
    for beginning in (
        "POOLED_DB_MINCACHED must",
        "POOLED_DB_MAXCACHED (9) is more than POOLED_DB_MAXCONNECTIONS (4)",
        "POOLED_DB_PNIG is not a known key: did you mean POOLED_DB_PING?",
        "POOLED_DB_BINDS['a'].URL does not have the form",
        "POOLED_DB_BINDS['b'].RESET must be 'rollback' or 'session'",
        "POOLED_DB_BINDS['c']: the scheme oracle:// is not known",
        "POOLED_DB_BINDS['d']: the URL and CONNECT_ARGS differ on 'host'",
        "POOLED_DB_BINDS['e'].URL is not set",
    ):
        assert beginning in told
    assert str(ConfigError(problems)).startswith(f"{len(problems)} problems in the configuration:")


def test_one_problem_is_told_once() -> None:
    """A problem is not followed by others that it causes."""
    keys = {"POOLED_DB_BINDS": {"a": {"URL": URL, "MINCACHED": "x"}, "b": URL}}
    assert len(problems_of(keys)) == 1


def test_one_key_that_is_wrong_is_enough() -> None:
    """A config is not made of the keys that are right, whichever way it is made."""
    with pytest.raises(ConfigError):
        PoolConfig.from_mapping({"URL": URL, "MINCACHED": "3"})


def test_a_url_that_is_wrong_is_told_once() -> None:
    """A wrong URL is not also said to be missing."""
    for keys in ({"POOLED_DB_URL": "shop.db"}, {"POOLED_DB_BINDS": {"a": "shop.db"}}):
        (problem,) = problems_of(keys)
        assert "does not have the form" in problem


# Binds


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


# From the environment


def test_it_reads_well_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`app.config.from_prefixed_env()` gives every kind of value, in binds too."""
    environment = {
        "URL": "sqlite:///top",
        "MAXCONNECTIONS": "7",
        "BLOCKING": "false",
        "ACQUIRE_TIMEOUT": "2.5",
        "SETSESSION": json.dumps(["PRAGMA cache_size=7"]),
        "RESET": "session",
        "PING": "7",
        "CONNECT_ARGS__timeout": "1.5",
        "BINDS__log": "sqlite:///log",
        "BINDS__reports__URL": "sqlite:///reports",
        "BINDS__reports__MAXCONNECTIONS": "2",
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
    assert log.url is not None
    assert (log.url.database, log.maxconnections) == ("log", 7)
    assert (reports.maxconnections, reports.connect_args) == (2, {"timeout": 3})


# CREATOR and CONNECT_ARGS


def own_connect(database: str) -> sqlite3.Connection:
    """A function of the application's own that connects."""
    return sqlite3.connect(database, check_same_thread=False)


def with_dbapi(database: str) -> Any:
    """A function that says which module its connections are of."""
    return own_connect(database)


with_dbapi.dbapi = sqlite3  # type: ignore[attr-defined]

CREATORS: list[Any] = [
    sqlite3,
    sqlite3.connect,
    raw_module(),
    own_connect,
    with_dbapi,
    functools.partial(own_connect),
    functools.partial(sqlite3.connect, check_same_thread=False),
]


@pytest.mark.parametrize(
    "creator",
    CREATORS,
    ids=["module", "its connect", "unknown", "own", "with dbapi", "partial", "partial of connect"],
)
def test_a_creator_is_a_module_or_anything_that_connects(creator: Any, tmp_path: Path) -> None:
    """With each kind of creator, a scope commits, and rolls back when it is left by an error."""
    path = str(tmp_path / "shop.db")
    with pooled_app(creator=creator, connect_args={"database": path}):
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("CREATE TABLE t (a INTEGER)")
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("INSERT INTO t VALUES (1)")
        with (
            contextlib.suppress(LookupError),
            db_connection_context() as conn,
            conn.cursor() as cur,
        ):
            cur.execute("INSERT INTO t VALUES (2)")
            raise LookupError
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("SELECT a FROM t")
            assert cur.fetchall() == [(1,)]


def test_a_module_that_is_known_is_known_by_its_creator_too() -> None:
    """A driver given as a module, or as its `connect`, has the adapter that its URL has."""
    for creator in (pymysql, pymysql.connect):
        driver = make_driver(PoolConfig.from_mapping({"CREATOR": creator}))
        assert driver.name == "pymysql"


def test_a_partial_is_of_the_module_of_its_function() -> None:
    """The exception classes of a connection made by a partial are those of its module."""
    creator = functools.partial(pymysql.connect, host="127.0.0.1")
    driver = make_driver(PoolConfig.from_mapping({"CREATOR": creator}))
    assert driver.Error is pymysql.Error


def test_connect_args_reach_the_creator_as_they_are() -> None:
    """A function of the application's own gets its arguments and no others."""
    seen = []

    def connect(**arguments: Any) -> Any:
        seen.append(arguments)
        return sqlite3.connect(":memory:", check_same_thread=False)

    with open_pool(creator=connect, connect_args={"a": 1, "b": [2]}) as pool:
        pool.lease().close()
    assert seen == [{"a": 1, "b": [2]}]


def test_connect_args_complete_a_url() -> None:
    """CONNECT_ARGS are added to what the URL says; the same value twice is no contradiction."""
    made = PoolConfig.from_mapping(
        {
            "URL": "mysql://ann:pw@h/d?charset=utf8mb4",
            "CONNECT_ARGS": {"database": "d", "program_name": "shop"},
        }
    )
    arguments = make_driver(made)._arguments
    assert arguments == {
        "connect_timeout": 5.0,
        "host": "h",
        "user": "ann",
        "password": "pw",
        "database": "d",
        "charset": "utf8mb4",
        "program_name": "shop",
    }


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"URL": "mysql://h/d", "CONNECT_ARGS": {"database": "e"}}, "differ on 'database'"),
        ({"URL": "oracle://h/d"}, "the scheme oracle:// is not known"),
        ({"URL": "sqlite://host/file"}, "names no host"),
        ({"URL": "sqlite:///f?timeout=soon"}, "must be a number"),
        ({"URL": "sqlite:///f?isolation_level="}, "'isolation_level' can't be set"),
        ({"URL": "sqlite:///f", "CONNECT_ARGS": {"factory": 1}}, "'factory' can't be set"),
        ({"URL": "mysql://h/d?autocommit=true"}, "'autocommit' can't be set"),
        ({"URL": "mysql://h/d?defer_connect=1"}, "'defer_connect' can't be set"),
        ({"URL": "mysql://h/d?ssl_disabled=1&ssl_ca=f"}, "'ssl_disabled' contradicts"),
        ({"URL": "mariadb://h/d?reconnect=1"}, "'reconnect' can't be set"),
        ({"URL": "mariadb://h/d?pool_name=p"}, "'pool_name' can't be set"),
        ({"URL": "sqlite:///f", "TARGET": "primary"}, "TARGET can't be 'primary'"),
        ({"URL": "postgresql+psycopg://a,b/d", "TARGET": "primary"}, "TARGET can't be 'primary'"),
        ({"CREATOR": pymysql, "CONNECT_ARGS": {"autocommit": True}}, "'autocommit' can't be set"),
    ],
)
def test_a_database_that_can_not_be_had_is_refused(keys: dict[str, Any], word: str) -> None:
    """What the driver can't do, or must not be told, is a problem before anything connects."""
    (problem,) = problems_of({f"POOLED_DB_{name}": value for name, value in keys.items()})
    assert problem.startswith("POOLED_DB: ")
    assert word in problem


def test_a_driver_that_is_not_installed_is_named_with_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "mariadb", None)
    (problem,) = problems_of({"POOLED_DB_URL": "mariadb://h/d"})
    assert "pip install 'flask-pooled-db[mariadb]'" in problem


def test_an_app_with_a_wrong_configuration_can_be_given_another_one() -> None:
    """A refused `init_app` leaves nothing behind."""
    app = Flask("app_under_test")
    app.config["POOLED_DB_URL"] = "nonsense"
    db = PooledDB()
    with pytest.raises(ConfigError):
        db.init_app(app)
    assert not app.teardown_appcontext_funcs
    app.config["POOLED_DB_URL"] = URL
    db.init_app(app)
    with pytest.raises(UsageError, match="already"):
        db.init_app(app)
    db.close()


# A3


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
    {"a": {"URL": f"mysql://ann:{SECRET}@h/d", "REPLICA": f"mysql://ann:{SECRET}@h/d"}},
    {"a": {"URL": f"mysql://ann:{SECRET}@h/d", "CONNECT_ARGS": {"password": f"{SECRET}2"}}},
    Leaky(),
    [Leaky()],
]


@pytest.mark.parametrize("key", [*sorted(KEYS), "BINDS", "NO_KEY"])
def test_a3_no_value_is_in_the_error(key: str) -> None:
    """Wherever a password stands by mistake, the error says what is wrong without showing it."""
    for secret in SECRETS:
        for other in ({}, {"POOLED_DB_URL": URL}, {"POOLED_DB_URL": f"mysql://ann:{SECRET}@h/d"}):
            app = Flask("app_under_test", instance_path="/nonexistent/instance")
            app.config.update({**other, f"POOLED_DB_{key}": secret})
            try:
                PooledDB(app).close()
            except ConfigError as error:
                told = f"{error}{error!r}{error.problems}"
                assert SECRET not in told, f"{key}={secret!r} is told as {told}"


def test_a3_the_repr_of_a_config_shows_no_value_that_may_hold_a_password() -> None:
    """A config can be logged."""
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
def test_any_mapping_gives_a_config_or_one_config_error(keys: dict[Any, Any]) -> None:
    """No configuration makes anything else happen, and a config that is made holds together."""
    try:
        made = PoolConfig.from_mapping(keys)
    except ConfigError:
        return
    chain = (made.mincached, made.maxcached, made.maxconnections)
    limits = [limit for limit in chain if limit]
    assert limits == sorted(limits)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, ANYTHING, max_size=5))
def test_any_app_config_gives_pools_or_problems(keys: dict[Any, Any]) -> None:
    """The same for a whole app's configuration, binds included."""
    prefixed = {f"POOLED_DB_{k}" if isinstance(k, str) else k: v for k, v in keys.items()}
    problems: list[str] = []
    binds = read_binds(prefixed, "sqlite:///default.sqlite", problems)
    assert problems or binds
    assert all(isinstance(problem, str) for problem in problems)


SCHEME = st.sampled_from(["mysql", "mariadb", "sqlite", "postgresql+psycopg", "oracle"])
ARGUMENT = st.sampled_from(["timeout", "autocommit", "ssl", "port", "database", "x"])


@given(SCHEME, st.dictionaries(ARGUMENT, st.text(alphabet="0123tru.e-n", max_size=6), max_size=3))
def test_any_query_gives_a_driver_or_one_config_error(scheme: str, query: dict[str, str]) -> None:
    """What stands in a URL's query is an argument of the driver's, or a problem."""
    text = "&".join(f"{name}={value}" for name, value in query.items())
    with contextlib.suppress(ConfigError):
        make_driver(PoolConfig.from_mapping({"URL": f"{scheme}:///d?{text}"}))
