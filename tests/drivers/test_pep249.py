"""The compliance suite for PEP 249, on each driver as it is and through a lease."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mariadb
import psycopg
import pymysql
import pytest
from sqlcipher3 import dbapi2 as sqlcipher3

from flask_pooled_db import get_db_connection
from harness.server import MariaDBServer
from tests.drivers.pep249 import OF_CONNECTION, OF_MODULE, Check, Subject
from tests.support import cipher
from tests.support.apps import pooled_app
from tests.support.stages import ON_FILES

MODULES: dict[str, ModuleType] = {
    "pymysql": pymysql,
    "mariadbconnector": mariadb,
    "psycopg": psycopg,
    "sqlite": sqlite3,
    "sqlcipher": sqlcipher3,
}

BARE, LEASE, SHAPED = "bare", "lease", "shaped"
EACH = (BARE, LEASE, SHAPED)
DIFFERENCES: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("pymysql", "refuses_fetch_without_result"): (EACH, "it answers that there are no rows"),
    ("pymysql", "takes_sizes"): (EACH, "it has setoutputsizes(), as an early draft had"),
    ("mariadbconnector", "has_exceptions"): (
        (BARE,),
        "its classes derive from Error, and not from DatabaseError",
    ),
    ("mariadbconnector", "describes_columns"): (EACH, "its description has more than seven items"),
    ("mariadbconnector", "iterates"): ((BARE,), "its cursor is not its own iterator"),
    ("mariadbconnector", "takes_sizes"): (EACH, "its setoutputsize() takes no column"),
    ("mariadbconnector", "tells_wrong_sql"): (
        EACH,
        "its ProgrammingError does not derive from DatabaseError",
    ),
    ("psycopg", "has_constructors"): ((BARE,), "its Binary only wraps the bytes, for its adapters"),
    ("psycopg", "tells_last_row_id"): (EACH, "PostgreSQL has no such number: use RETURNING"),
    ("sqlite", "has_type_objects"): ((BARE,), "SQLite's columns have no types"),
    ("sqlite", "describes_types"): (EACH, "SQLite's columns have no types"),
    ("sqlite", "refuses_fetch_before_execute"): (EACH, "it answers that there are no rows"),
    ("sqlite", "refuses_fetch_without_result"): (EACH, "it answers that there are no rows"),
}
"""What does not hold, by the driver and the check: how the driver is used then, and why. None of it
is the lease's own: what holds for the bare driver holds through a lease too.
"""
DIFFERENCES |= {
    ("sqlcipher", check): difference
    for (name, check), difference in DIFFERENCES.items()
    if name == "sqlite"
}


@pytest.fixture
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """A driver, bare or through a lease, also one whose rows are made into named tuples."""
    name, how = request.param
    new: Any
    table_type = ""
    if name == "psycopg":
        url = request.getfixturevalue("postgresql")
        plain = url.replace("+psycopg", "")
        new = lambda: psycopg.connect(plain)  # noqa: E731
    elif name == "sqlite":
        path = tmp_path / "file.db"
        url = f"sqlite:///{path}"
        new = lambda: sqlite3.connect(path)  # noqa: E731
    elif name == "sqlcipher":
        path = tmp_path / "file.db"
        url = cipher.url_of(path)
        new = lambda: cipher.connect(path)  # noqa: E731
    else:
        server: MariaDBServer = request.getfixturevalue("mariadb")
        database, table_type = server.create_database(), " ENGINE=InnoDB"
        url = server.url(name, database)
        connect: Any = getattr(MODULES[name], "connect")  # noqa: B009
        new = lambda: connect(**server.connect_args(database))  # noqa: E731
    placeholder = "?" if name in ON_FILES and how == BARE else "%s"
    with contextlib.ExitStack() as stack:
        if how != BARE:
            rows = "namedtuple" if how == SHAPED else "tuple"
            stack.enter_context(pooled_app(url, rows=rows))
            new = get_db_connection
        subject = Subject(MODULES[name], new, placeholder, table_type)
        stack.callback(close_all, subject)
        yield subject


def close_all(subject: Subject) -> None:
    for connection in subject.opened:
        with contextlib.suppress(Exception):
            connection.close()


def run(check: Check, subject: Subject, name: str, how: str) -> None:
    """Run a check; one that is listed as a difference must fail, or the list is out of date."""
    hows, _ = DIFFERENCES.get((name, check.__name__), ((), ""))
    if how not in hows:
        check(subject)
        return
    with pytest.raises((Exception, pytest.fail.Exception)):
        check(subject)


def test_pep249_differences() -> None:
    """Each difference is of a check there is, and none is made by the lease."""
    checks = {check.__name__ for check in (*OF_MODULE, *OF_CONNECTION)}
    for (name, check), (hows, why) in DIFFERENCES.items():
        assert name in MODULES
        assert check in checks
        assert BARE in hows
        assert why


@pytest.mark.parametrize("check", OF_MODULE, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MODULES)
def test_pep249_module(name: str, check: Check) -> None:
    """A driver's module is as the standard has it, or the difference is listed."""
    subject = Subject(MODULES[name], lambda: None, "")
    run(check, subject, name, BARE)


@pytest.mark.parametrize("check", OF_CONNECTION, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "subject",
    [pytest.param((name, how), id=f"{name}-{how}") for name in MODULES for how in EACH],
    indirect=True,
)
def test_pep249(subject: Subject, check: Check, request: pytest.FixtureRequest) -> None:
    """A driver's connections and cursors are as the standard has them, bare and through a lease,
    or the difference is listed.
    """
    name, how = request.node.callspec.params["subject"]
    run(check, subject, name, how)
