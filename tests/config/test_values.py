"""The values that each key accepts and refuses."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest

from tests.config.configs import URL, config, problems_of

COUNTS = ["MINCACHED", "MAXCACHED", "MAXSHARED", "MAXCONNECTIONS", "MAXUSAGE", "MAX_WAITING"]

SECONDS = [
    "ACQUIRE_TIMEOUT",
    "MAX_LIFETIME",
    "IDLE_TIMEOUT",
    "DRAIN_INTERVAL",
    "PING_AFTER",
    "CONNECT_TIMEOUT",
    "STATEMENT_TIMEOUT",
    "TRANSACTION_TIMEOUT",
    "LEAK_THRESHOLD",
    "SLOW_ACQUIRE",
]

FLAGS = ["BLOCKING", "REPLICA_FALLBACK"]

WORDS = {
    "RESET": ("changed", "rollback", "session"),
    "IMPLICIT_COMMIT": ("warn", "error"),
    "HOST_ORDER": ("given", "random"),
    "TARGET": ("any", "primary"),
}

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
    "ROWS": ["", "Dict", "dicts", 1, True, [], dict, tuple, list, namedtuple, len],  # noqa: PYI024
    "REPLICA": ["", 5, []],
    "BINDS": [5, "x", ["x"], {1: URL}, {"": URL}, {"a": 5}, {"a": None}, {"a": {1: 2}}],
}

WRONG["CONNECT_TIMEOUT"] = [*WRONG["CONNECT_TIMEOUT"], 0]
WRONG["BINDS"] = [*WRONG["BINDS"], {"default": URL}]


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_wrong_values(key: str, value: Any) -> None:
    """A wrong value is refused; the error names the key and what it accepts."""
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
        *(("ROWS", value) for value in ("tuple", "dict", "namedtuple", zip, lambda *columns: 1)),
        *(("CONNECT_ARGS", value) for value in ({}, {"timeout": 1})),
    ],
)
def test_right_values(key: str, value: Any) -> None:
    """A right value is stored unchanged."""
    expected = tuple(value) if key == "SETSESSION" else value
    assert getattr(config(**{key: value}), key.lower()) == expected
