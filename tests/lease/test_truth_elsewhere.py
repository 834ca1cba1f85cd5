"""T10 and P9 on SQLite, on PostgreSQL, and with modules that the package does not know.

Where a server can't be asked, the statements' texts decide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mysql.connector
import psycopg
import pytest

from flask_pooled_db import PooledDB, TransactionAborted, db_connection_context
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.drivers.generic import MODULES, keys
from tests.support.apps import pooled_app

KEPT, COMMITS, UNDOES, REFUSED = "kept", "commits", "undoes", "refused"


@dataclass(frozen=True)
class Site:
    """A pool of one connection to a database with the table `t`."""

    db: PooledDB
    committed: Callable[[], list[int]]


@pytest.fixture(scope="module")
def url(postgresql: str) -> str:
    """The URL of an empty database on PostgreSQL."""
    return postgresql


@contextlib.contextmanager
def site_on(select: Callable[[str], list[Any]], **config: Any) -> Iterator[Site]:
    with pooled_app(maxconnections=1, **config) as (_, db):
        with db_connection_context() as conn:
            run(conn, "DROP TABLE IF EXISTS t")
            run(conn, "CREATE TABLE t (id INT PRIMARY KEY)")
        yield Site(db, lambda: [id_ for (id_,) in select("SELECT id FROM t ORDER BY id")])


@contextlib.contextmanager
def on_postgresql(url: str, module: str) -> Iterator[Site]:
    def select(sql: str) -> list[Any]:
        with psycopg.connect(url.replace("+psycopg", "")) as raw:
            return raw.execute(sql).fetchall()

    config = {"url": url} if module == "psycopg" else keys(MODULES[module], url)
    with site_on(select, **config) as site:
        yield site


@contextlib.contextmanager
def on_sqlite(path: Path) -> Iterator[Site]:
    import sqlite3

    def select(sql: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(path)) as raw:
            return raw.execute(sql).fetchall()

    with site_on(select, url=f"sqlite:///{path}") as site:
        yield site


def run(conn: Any, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(conn.cursor()) as cur:
        cur.execute(sql)
        return list(cur.fetchall()) if cur.description else []


def insert(conn: Any, number: int) -> None:
    run(conn, f"INSERT INTO t VALUES ({number})")


POSTGRESQL = {
    "COMMIT": COMMITS,
    "/* c */ commit work": COMMITS,
    "END": COMMITS,
    "END TRANSACTION": COMMITS,
    "COMMIT AND CHAIN": COMMITS,
    "END AND CHAIN": COMMITS,
    "ROLLBACK": UNDOES,
    "ABORT": UNDOES,
    "ROLLBACK AND CHAIN": UNDOES,
    "ABORT AND CHAIN": UNDOES,
    "BEGIN": KEPT,  # a warning of the server's
    "START TRANSACTION": KEPT,
    "SAVEPOINT own": KEPT,
    "CREATE TABLE IF NOT EXISTS made (a INT)": KEPT,
    "DO $$ BEGIN PERFORM 1; END $$": KEPT,
}
SQLITE = {
    "COMMIT": COMMITS,
    "commit transaction": COMMITS,
    "END": COMMITS,
    "ROLLBACK": UNDOES,
    "ROLLBACK TRANSACTION": UNDOES,
    "SAVEPOINT own": KEPT,
    "CREATE TABLE IF NOT EXISTS made (a INT)": KEPT,
    "BEGIN": REFUSED,  # in a transaction
    "BEGIN IMMEDIATE": REFUSED,
}


@contextlib.contextmanager
def on(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if kind == "sqlite":
        with on_sqlite(tmp_path / "t.sqlite") as site:
            yield site
    else:
        with on_postgresql(request.getfixturevalue("url"), kind) as site:
            yield site


CASES = [
    *(("sqlite", sql, work) for sql, work in SQLITE.items()),
    *(("psycopg", sql, work) for sql, work in POSTGRESQL.items()),
    *((kind, sql, work) for kind in MODULES for sql, work in POSTGRESQL.items()),
]


@pytest.fixture
def site(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with on(kind, request, tmp_path) as site:
        yield site


@pytest.mark.parametrize(("kind", "sql", "work"), CASES)
def test_t10_left_normally(site: Site, sql: str, work: str) -> None:
    """A block that goes on after the statement commits the rest."""
    with db_connection_context() as conn:
        insert(conn, 1)
        if work is not REFUSED:
            run(conn, sql)
        else:
            with pytest.raises(conn.Error):
                run(conn, sql)
        insert(conn, 2)
    assert site.committed() == ([2] if work == UNDOES else [1, 2])


@pytest.mark.parametrize(("kind", "sql", "work"), CASES)
def test_t10_left_by_exception(site: Site, sql: str, work: str) -> None:
    """If an exception leaves the block, all is rolled back but what the statement committed."""
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        insert(conn, 1)
        with contextlib.suppress(conn.Error):
            run(conn, sql)
        insert(conn, 2)
        raise LookupError
    assert site.committed() == ([1] if work == COMMITS else [])


@pytest.mark.parametrize(("kind", "sql", "work"), CASES)
def test_t10_in_nested_block(site: Site, sql: str, work: str) -> None:
    """In a nested block that fails after the statement, the outer block goes on if all of the inner
    one was undone, and fails otherwise, with an error that says what happened.
    """

    def work_nested() -> None:
        with db_connection_context() as outer:
            insert(outer, 1)
            with contextlib.suppress(LookupError, TransactionAborted, outer.Error):
                with db_connection_context() as inner:
                    insert(inner, 2)
                    run(inner, sql)
                    raise LookupError
            insert(outer, 3)

    if work in (KEPT, REFUSED):
        work_nested()
        assert site.committed() == [1, 3]
        return
    with pytest.raises(TransactionAborted) as caught:
        work_nested()
    assert site.committed() == ([1, 2] if work == COMMITS else [])
    told = "committed" if work == COMMITS else "rolled back"
    assert f"{told} what came before it" in str(caught.value)
    assert "nothing of it was" not in str(caught.value)


# A setting of this kind stays known to the session, but empty.
GIVEN_USER = "SELECT coalesce(current_setting('app.user', true), '')"

# Statements that change a session, and what shows it. `{table}` is of the test's own.
SESSION = {
    "SET search_path = pg_catalog": "SHOW search_path",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": "SHOW default_transaction_read_only",
    "SELECT set_config('app.user', 'me', false)": GIVEN_USER,
    "CREATE TEMPORARY TABLE tmp (a INT)": "SELECT to_regclass('pg_temp.tmp')",
    "SELECT 1 AS a INTO TEMPORARY tmp": "SELECT to_regclass('pg_temp.tmp')",
    "SELECT pg_advisory_lock(7)": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
    "SELECT pg_try_advisory_lock_shared(7)": (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    ),
    "DO $$ BEGIN EXECUTE 'LISTEN mail'; END $$": "SELECT count(*) FROM pg_listening_channels()",
    "PREPARE own AS SELECT 1": "SELECT count(*) FROM pg_prepared_statements WHERE from_sql",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1": "SELECT count(*) FROM pg_cursors WHERE is_holdable",
    "SET ROLE pg_read_all_data": "SELECT current_user",
    "DO $$ BEGIN PERFORM set_config('app.user', 'me', false); END $$": (GIVEN_USER),
}
SQLITE_SESSION = {
    "PRAGMA cache_size = 77": "PRAGMA cache_size",
    "PRAGMA foreign_keys = OFF": "PRAGMA foreign_keys",
    "CREATE TEMP TABLE tmp (a)": "SELECT count(*) FROM sqlite_temp_master",
    "ATTACH ':memory:' AS more": "PRAGMA database_list",
    "PRAGMA query_only = ON": "PRAGMA query_only",
}
CHANGES = [
    *(("sqlite", sql, look) for sql, look in SQLITE_SESSION.items()),
    *((kind, sql, look) for kind in ("psycopg", *MODULES) for sql, look in SESSION.items()),
]


@pytest.mark.parametrize("by_error", [False, True])
@pytest.mark.parametrize(("kind", "sql", "look"), CHANGES)
def test_p9_next_lease(site: Site, sql: str, look: str, by_error: bool) -> None:
    """Nothing that a statement changed reaches the next lease, and no lock outlives its block."""
    with db_connection_context() as conn:
        fresh = run(conn, look)
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        if sql.startswith(("ATTACH", "PRAGMA foreign")):
            conn.commit()
        run(conn, sql)
        if by_error:
            raise LookupError

    def is_fresh() -> bool:
        with db_connection_context() as conn:
            return run(conn, look) == fresh

    if "lock" in sql:  # PostgreSQL takes its time to end a session
        wait_until(is_fresh, "the end of a lock")
    assert is_fresh()
    with db_connection_context() as conn:
        insert(conn, 50)
    assert site.committed() == [50]


@pytest.mark.parametrize("kind", ["sqlite", "psycopg", *MODULES])
def test_p9_unchanged_costs_nothing(site: Site) -> None:
    """Statements that certainly change nothing keep the connection."""
    for sql in (
        "SELECT * FROM t",
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET id = 2",
        "DELETE FROM t",
        "WITH x AS (SELECT 1) SELECT * FROM x",
    ):
        with db_connection_context() as conn:
            run(conn, sql)
    assert site.db.stats().discarded == 0


@pytest.fixture
def mysql_site(mariadb: MariaDBServer) -> Iterator[Site]:
    """A site on a module that tells neither its transactions nor its session."""
    database = mariadb.create_database()

    def select(sql: str) -> list[Any]:
        return mariadb.query(sql.replace("FROM t", f"FROM `{database}`.t"))

    arguments = mariadb.connect_args(database)
    with site_on(select, creator=mysql.connector, connect_args=arguments) as site:
        yield site


@pytest.mark.parametrize(
    ("sql", "committed"),
    [
        ("COMMIT", [1, 2]),
        ("BEGIN", [1, 2]),
        ("CREATE TABLE made (a INT)", [1, 2]),
        ("CREATE TABLE t (a INT)", [1, 2]),  # which fails
        ("ROLLBACK", []),
    ],
)
def test_t10_module_that_tells_nothing(mysql_site: Site, sql: str, committed: list[int]) -> None:
    """Where nobody knows what a statement did, errors say that it may have committed; what its text
    says for certain, they say too.
    """

    def work() -> None:
        with db_connection_context() as outer:
            insert(outer, 1)
            with contextlib.suppress(LookupError, outer.Error), db_connection_context() as inner:
                insert(inner, 2)
                run(inner, sql)
                raise LookupError
            insert(outer, 3)

    with pytest.raises(
        TransactionAborted, match=r"committed (or rolled back )?what came before it"
    ):
        work()
    assert mysql_site.committed() == committed


@pytest.mark.parametrize(
    ("sql", "look"),
    [
        ("SET @x = 5", "SELECT @x"),
        ("SELECT @x := 5", "SELECT @x"),
        ("SET SESSION sql_mode = ''", "SELECT @@sql_mode"),
        ("CREATE TEMPORARY TABLE tmp SELECT 1 AS a", "SHOW TABLES LIKE 'tmp'"),
        ("USE information_schema", "SELECT DATABASE()"),
        ("SELECT GET_LOCK(DATABASE(), 0)", "SELECT IS_USED_LOCK(DATABASE())"),
        ("LOCK TABLES t WRITE", "SELECT 1"),
        ("BEGIN NOT ATOMIC SET @x = 5; END", "SELECT @x"),
    ],
)
def test_p9_module_that_tells_nothing(mysql_site: Site, sql: str, look: str) -> None:
    """Where nobody knows what a statement changed, its text decides."""
    with db_connection_context() as conn:
        fresh = run(conn, look)
    with db_connection_context() as conn:
        run(conn, sql)
    with db_connection_context() as conn:
        assert run(conn, look) == fresh
        insert(conn, 50)
    assert mysql_site.committed() == [50]
