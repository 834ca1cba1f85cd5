"""Whether `flask pooled-db stress` sees that a database is not empty: then it asks."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.server import MariaDBServer
from tests.flask.stressing import SHORT, make, stress


def counted(url: str, **settings: Any) -> int:
    """How many tables it says that there are."""
    site = make(url=url, **settings)
    try:
        result = stress(site, *SHORT)
    finally:
        site[1].close()
    if result.exit_code == 0:
        return 0
    found = re.search(r"has (\d+) tables?, and nobody can be asked here", result.stderr)
    assert found is not None, result.output
    return int(found[1])


@pytest.fixture
def role(empty_postgresql: str) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """The URL of an empty database for a role that may make tables in it, and its superuser."""
    with psycopg.connect(empty_postgresql.replace("+psycopg", ""), autocommit=True) as root:
        root.execute("CREATE ROLE stressed LOGIN")
        root.execute("GRANT CREATE, USAGE ON SCHEMA public TO stressed")
        yield re.sub("//[^@]*@", "//stressed@", empty_postgresql), root
        root.execute("DROP OWNED BY stressed")
        root.execute("DROP ROLE stressed")


OTHERS = {
    "another's": ["CREATE TABLE orders (id INT)"],
    "in another schema": ["CREATE SCHEMA books", "CREATE TABLE books.orders (id INT)"],
    "partitioned": ["CREATE TABLE orders (id INT) PARTITION BY RANGE (id)"],
    "view": ["CREATE VIEW orders AS SELECT 1 AS id"],
    "materialized view": ["CREATE MATERIALIZED VIEW orders AS SELECT 1 AS id"],
    "foreign": [
        "CREATE FOREIGN DATA WRAPPER elsewhere",
        "CREATE SERVER other FOREIGN DATA WRAPPER elsewhere",
        "CREATE FOREIGN TABLE orders (id INT) SERVER other",
    ],
}


@pytest.mark.parametrize("what", OTHERS)
def test_tables_of_others_on_postgresql(
    what: str, role: tuple[str, psycopg.Connection[Any]]
) -> None:
    """Tables count in all schemas, and those that the role may not use."""
    url, root = role
    for statement in OTHERS[what]:
        root.execute(statement.encode())
    assert counted(url) == 1


def test_no_tables_on_postgresql(role: tuple[str, psycopg.Connection[Any]]) -> None:
    """What is no table, or the system's own, or one session's, does not count."""
    url, root = role
    root.execute("CREATE SCHEMA books")
    root.execute("CREATE SEQUENCE books.numbers")
    root.execute("CREATE TYPE books.pair AS (a INT, b TEXT)")
    root.execute("CREATE TEMPORARY TABLE mine (id INT, words TEXT)")
    root.execute("CREATE TEMPORARY VIEW ours AS SELECT 1 AS id")
    assert counted(url) == 0


@pytest.mark.parametrize("privileges", ["CREATE, DROP", "ALL"])
def test_tables_of_others_on_mariadb(
    privileges: str, mariadb: MariaDBServer, database: str, account: str
) -> None:
    """Who may make tables in a database sees all that it has, used by whomever; views count."""
    mariadb.execute(f"REVOKE ALL ON `test_%`.* FROM '{account}'@'%'")
    mariadb.execute(f"GRANT {privileges} ON `{database}`.* TO '{account}'@'%'")
    mariadb.execute(f"CREATE TABLE {database}.orders (id INT)")
    mariadb.execute(f"CREATE VIEW {database}.ids AS SELECT id FROM {database}.orders")
    assert counted(mariadb.url("pymysql", database, user=account, password="")) == 2


@pytest.mark.parametrize(
    ("statement", "count"),
    [
        ("CREATE TABLE sqliteorders (id INT)", 1),
        ("CREATE VIEW orders AS SELECT 1 AS id", 1),
        ("CREATE TEMPORARY TABLE orders (id INT)", 0),
    ],
)
def test_tables_on_sqlite(statement: str, count: int, url: str, tmp_path: Path) -> None:
    """What SQLite has made for itself is no table: that alone begins with "sqlite_"."""
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as other:
        other.execute(statement)
        assert counted(url) == count


def test_own_tables_of_sqlite(url: str, tmp_path: Path) -> None:
    """Such as the one of AUTOINCREMENT, which stays."""
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as other:
        other.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT)")
        other.execute("DROP TABLE orders")
        assert other.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (1,)
    assert counted(url) == 0
