"""What PROXY "transaction" refuses in a configuration."""

from __future__ import annotations

import sqlite3
from typing import Any

import pymysql
import pytest

from tests.config.configs import problems_of

URL = "postgresql+psycopg://app:secret@h/d"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"RESET": "session"}, "POOLED_DB_RESET can't be 'session' with POOLED_DB_PROXY"),
        ({"TARGET": "primary"}, "POOLED_DB_TARGET can't be 'primary' with POOLED_DB_PROXY"),
        ({"SETSESSION": ["SET a.b = 1"]}, "POOLED_DB_SETSESSION can't be set with"),
        ({"URL": "mysql+pymysql://h/d"}, "PROXY can't be 'transaction' with pymysql"),
        ({"URL": "sqlite:///f"}, "PROXY can't be 'transaction' with sqlite3"),
        ({"URL": None, "CREATOR": pymysql}, "PROXY can't be 'transaction' with pymysql"),
        ({"URL": None, "CREATOR": lambda: None}, "PROXY can't be 'transaction' with this CREATOR"),
        ({"URL": None, "CREATOR": sqlite3}, "PROXY can't be 'transaction' with sqlite3"),
        ({"URL": f"{URL}?options=-csearch_path%3Dx"}, "'options' can't be set: "),
        ({"CONNECT_ARGS": {"prepare_threshold": 3}}, "'prepare_threshold' can't be set: "),
        ({"CONNECT_ARGS": {"target_session_attrs": "primary"}}, "'target_session_attrs' can't"),
        ({"CONNECT_ARGS": {"conninfo": "options=-cx=y"}}, "'conninfo' has 'options', which can't"),
        ({"PROXY": "session"}, "POOLED_DB_PROXY must be 'transaction', not "),
    ],
)
def test_proxy_refusals(keys: dict[str, Any], words: str) -> None:
    """What can't hold behind such a proxy is one problem, which says why, and no password."""
    given = {"URL": URL, "PROXY": "transaction", **keys}
    (problem,) = problems_of({f"POOLED_DB_{k}": v for k, v in given.items() if v is not None})
    assert words in problem
    assert "secret" not in problem


def test_proxy_inherited() -> None:
    """A key that a bind has from the top level counts as its own."""
    binds = {"a": {"URL": URL, "PROXY": "transaction"}}
    (problem,) = problems_of({"POOLED_DB_RESET": "session", "POOLED_DB_BINDS": binds})
    assert problem.startswith("POOLED_DB_BINDS['a'].RESET can't be 'session'")


def test_proxy_tenants() -> None:
    """A tenant by schema can't have its server behind a proxy."""
    tenant = {"SERVER": "default", "SCHEMA": "one"}
    keys = {"POOLED_DB_URL": URL, "POOLED_DB_PROXY": "transaction"}
    (problem,) = problems_of({**keys, "POOLED_DB_BINDS": {"a": tenant}})
    assert "can't have tenants by schema: its PROXY is 'transaction'" in problem
