"""SERVER and SCHEMA: what may stand beside them, and what they may name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.configs import SECRET, URL, binds_of, problems_of

SERVER_URL = "mysql+pymysql://app@db1/shop"
AMONG = {"server": {"URL": SERVER_URL}, "file": URL}


def told(settings: dict[str, Any], **others: Any) -> tuple[str, ...]:
    """What is wrong with a bind `red`, beside others."""
    return problems_of({"POOLED_DB_BINDS": {**AMONG, **others, "red": settings}})


def test_tenant_has_settings_of_its_server() -> None:
    """A tenant has the settings of its server, which may come after it, or be the default bind."""
    binds = binds_of(
        {
            "POOLED_DB_URL": SERVER_URL,
            "POOLED_DB_ROWS": "dict",
            "POOLED_DB_BINDS": {
                "red": {"SERVER": "late", "SCHEMA": "red"},
                "blue": {"SERVER": "default", "SCHEMA": "blue"},
                "late": {"URL": SERVER_URL, "MAXCONNECTIONS": 7, "STATEMENT_TIMEOUT": 3},
            },
        }
    )
    red, blue = binds["red"], binds["blue"]
    assert (red.server, red.schema, red.rows) == ("late", "red", "dict")
    assert (red.maxconnections, red.statement_timeout) == (7, 3.0)
    assert (blue.server, blue.schema, blue.maxconnections) == ("default", "blue", 20)


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "no schema": ({"SERVER": "server"}, "SERVER is set without"),
    "no server": ({"SCHEMA": "red"}, "SCHEMA is set without"),
    "unknown server": ({"SERVER": "nowhere", "SCHEMA": "red"}, "SERVER names no bind"),
    "itself": ({"SERVER": "red", "SCHEMA": "red"}, "SERVER names no bind"),
    "a URL": ({"SERVER": f"mysql://app:{SECRET}@db", "SCHEMA": "red"}, "SERVER must be the name"),
    "no name": ({"SERVER": "server", "SCHEMA": ""}, "SCHEMA must be the name of a schema"),
    "no text": ({"SERVER": "server", "SCHEMA": 7}, "SCHEMA must be the name of a schema"),
    "a NUL": ({"SERVER": "server", "SCHEMA": "a\0b"}, "SCHEMA must be the name of a schema"),
    "half a character": ({"SERVER": "server", "SCHEMA": "\ud800"}, "SCHEMA must be the name"),
    "a URL beside it": (
        {"SERVER": "server", "SCHEMA": "red", "URL": SERVER_URL},
        "URL can't be set beside",
    ),
    "a size beside it": (
        {"SERVER": "server", "SCHEMA": "red", "MAXCONNECTIONS": 5, "ROWS": "dict"},
        "MAXCONNECTIONS, POOLED_DB_BINDS['red'].ROWS can't be set beside",
    ),
    "a file": ({"SERVER": "file", "SCHEMA": "red"}, "SQLite has none"),
}


@pytest.mark.parametrize("what", PROBLEMS)
def test_settings_of_tenant(what: str) -> None:
    """What can't be honoured is refused, each in one sentence that names the key."""
    settings, words = PROBLEMS[what]
    (problem,) = told(settings)
    assert problem.startswith("POOLED_DB_BINDS['red']")
    assert words in problem
    assert SECRET not in problem


def test_tenant_of_tenant() -> None:
    """The server of a tenant is no tenant itself."""
    blue = {"SERVER": "server", "SCHEMA": "blue"}
    (problem,) = told({"SERVER": "blue", "SCHEMA": "red"}, blue=blue)
    assert "SERVER names no bind that has a database of its own" in problem


@pytest.mark.parametrize("key", ["SERVER", "SCHEMA"])
def test_default_bind_is_no_tenant(key: str) -> None:
    """The default bind is no tenant."""
    (problem,) = problems_of(
        {f"POOLED_DB_{key}": "server", "POOLED_DB_URL": SERVER_URL, "POOLED_DB_BINDS": AMONG}
    )
    assert problem.startswith(f"POOLED_DB_{key} makes a bind a tenant")


def test_server_that_resets_nothing() -> None:
    """With RESET "rollback" a USE of one tenant would reach the next: that is refused."""
    settings = {"SERVER": "loose", "SCHEMA": "red"}
    (problem,) = told(settings, loose={"URL": SERVER_URL, "RESET": "rollback"})
    assert problem.startswith("POOLED_DB_BINDS['red']: its SERVER has RESET 'rollback'")


def test_replica_of_server() -> None:
    """What a server needs, its replica needs too."""
    settings = {"SERVER": "primary", "SCHEMA": "red"}
    for replica, word in (
        ({"URL": SERVER_URL, "RESET": "rollback"}, "RESET 'rollback'"),
        (URL, "SQLite has none"),
    ):
        primary = {"URL": SERVER_URL, "REPLICA": "near"}
        (problem,) = told(settings, primary=primary, near=replica)
        assert problem.startswith("POOLED_DB_BINDS['red']: ")
        assert word in problem


def test_tenant_as_replica() -> None:
    """A tenant is no replica."""
    primary = {"URL": SERVER_URL, "REPLICA": "red"}
    (problem,) = told({"SERVER": "server", "SCHEMA": "red"}, primary=primary)
    assert problem.startswith("POOLED_DB_BINDS['primary'].REPLICA names a bind that has a SERVER")


def test_server_with_a_problem() -> None:
    """Of a tenant whose server has a problem nothing is told but that."""
    settings = {"SERVER": "broken", "SCHEMA": "red"}
    (problem,) = told(settings, broken={"URL": SERVER_URL, "MAXCONNECTIONS": -1})
    assert problem.startswith("POOLED_DB_BINDS['broken'].MAXCONNECTIONS")
