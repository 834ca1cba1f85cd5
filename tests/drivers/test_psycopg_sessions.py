"""PostgreSQL through psycopg: readonly blocks, isolation levels, and what a reset leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flask_pooled_db import PooledDB, UsageError, db_connection_context
from harness.postgres import PostgreSQLServer
from harness.workloads import connection_id, run
from tests.support.apps import pooled_app

WRITE = "INSERT INTO t VALUES (1)"


@pytest.fixture
def db(postgresql_server: PostgreSQLServer) -> Iterator[PooledDB]:
    """A pool of one connection to a database with a table."""
    name = postgresql_server.create_database()
    with pooled_app(postgresql_server.url(database=name), maxconnections=1) as (_, db):
        with db_connection_context() as conn:
            run(conn, "CREATE TABLE t (id INT PRIMARY KEY)")
        yield db
        assert db.stats().in_use == 0


def ids() -> list[int]:
    with db_connection_context() as conn:
        return [id_ for (id_,) in run(conn, "SELECT id FROM t ORDER BY id")]


# readonly


def test_readonly_in_the_driver(db: PooledDB) -> None:
    """A readonly block has no transaction, and its writes fail on the server; the next block writes
    on the same connection.
    """
    with db_connection_context(readonly=True) as conn:
        before = connection_id(conn)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            run(conn, WRITE)
        assert run(conn, "SHOW transaction_isolation") == [("read committed",)]
        assert not db.pool().driver.in_transaction(conn.usable().raw)
    with db_connection_context() as conn:
        assert connection_id(conn) == before
        run(conn, WRITE)
    assert ids() == [1]
    assert db.stats().discarded == 0


def test_readonly_with_own_default(postgresql_server: PostgreSQLServer) -> None:
    """Where the connect arguments ask for transactions that only read, they do after a readonly
    block as well.
    """
    url = postgresql_server.url(options="-cdefault_transaction_read_only=on")
    with pooled_app(url, maxconnections=1):
        for readonly in (False, True, False):
            with db_connection_context(readonly=readonly) as conn:
                assert run(conn, "SHOW transaction_read_only") == [("on",)]


def test_snapshot_in_a_readonly_block(db: PooledDB, postgresql_server: PostgreSQLServer) -> None:
    """psycopg's own block in a readonly one is a transaction that reads: named cursors work in it,
    and nothing is left open after it.
    """
    with db_connection_context() as conn:
        run(conn, "INSERT INTO t SELECT generate_series(1, 3)")
    with db_connection_context(readonly=True) as conn:
        with conn.transaction():
            with conn.cursor("named") as cur:
                cur.execute("SELECT id FROM t ORDER BY id")
                assert cur.fetchall() == [(1,), (2,), (3,)]
        assert not db.pool().driver.in_transaction(conn.usable().raw)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), conn.transaction():
            run(conn, WRITE)
        assert run(conn, "SELECT count(*) FROM t") == [(3,)]
    assert db.stats().discarded == 0


def test_readonly_block_with_a_pipeline(db: PooledDB) -> None:
    """A pipeline may be the first thing in a readonly block."""
    with db_connection_context(readonly=True) as conn, conn.pipeline():
        one, other = conn.execute("SELECT 1"), conn.execute("SHOW transaction_read_only")
        assert (one.fetchone(), other.fetchone()) == ((1,), ("on",))
    with db_connection_context() as conn, conn.pipeline():
        conn.execute(WRITE)
    assert ids() == [1]


def test_fetch_is_one_round_trip(db: PooledDB) -> None:
    """`fetch_all()` and its kin read in no transaction."""
    assert db.fetch_value("SHOW transaction_read_only") == "on"
    db.execute(WRITE)
    assert db.fetch_value("SELECT id FROM t") == 1


# isolation_level


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_isolation_level(db: PooledDB, level: str) -> None:
    """Each transaction of a block has the level it asks for; the next block has the usual one."""
    show = "SHOW transaction_isolation"
    with db_connection_context(isolation_level=level) as conn:
        assert run(conn, show) == [(level.lower(),)]
        conn.commit()
        assert run(conn, show) == [(level.lower(),)]
        conn.rollback()
        with db_connection_context() as inner:
            run(inner, WRITE)
            assert run(inner, show) == [(level.lower(),)]
    with db_connection_context() as conn:
        assert run(conn, show) == [("read committed",)]
    assert ids() == [1]
    assert db.stats().discarded == 0


def test_isolation_level_of_a_tenant(postgresql_server: PostgreSQLServer) -> None:
    """A tenant's transaction, which begins with its schema, has the level too, and a readonly block
    of its has none.
    """
    schema = postgresql_server.create_database()
    binds = {"one": {"SERVER": "all", "SCHEMA": schema}, "all": {"URL": postgresql_server.url()}}
    with pooled_app(binds=binds, url="sqlite://"):
        with db_connection_context("one", isolation_level="SERIALIZABLE") as conn:
            assert run(conn, "SHOW transaction_isolation") == [("serializable",)]
            run(conn, "CREATE TABLE t (id INT)")
        with db_connection_context("one", readonly=True) as conn:
            assert run(conn, "SELECT count(*) FROM t") == [(0,)]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                run(conn, WRITE)
        with db_connection_context("one") as conn:
            run(conn, WRITE)
        with db_connection_context("one", readonly=True) as conn:
            assert run(conn, "SELECT id FROM t") == [(1,)]


# RESET


def test_p9_prepared_statements(db: PooledDB) -> None:
    """After a reset psycopg runs no statement that the server has forgotten."""
    for number in range(3):
        with db_connection_context() as conn:
            for _ in range(8):
                assert conn.execute("SELECT %s::int", (number,)).fetchone() == (number,)
            assert run(conn, "SELECT count(*) FROM pg_prepared_statements") == [(1,)]
            run(conn, "SET work_mem = '5MB'")
        with db_connection_context() as conn:
            assert run(conn, "SELECT count(*) FROM pg_prepared_statements") == [(0,)]
            assert run(conn, "SHOW work_mem") != [("5MB",)]
    assert db.stats().discarded == 0
    assert db.stats().connects == 1


def test_p9_settings_of_the_pool(postgresql_server: PostgreSQLServer) -> None:
    """After a reset a connection has what its connect asked for, and what the pool has set."""
    look = (
        "SELECT current_setting('work_mem'), current_setting('application_name'),"
        " current_setting('client_encoding'), current_setting('DateStyle'),"
        " current_setting('idle_in_transaction_session_timeout')"
    )
    url = postgresql_server.url(options="-cwork_mem=3MB", client_encoding="LATIN1")
    settings: dict[str, Any] = {
        "setsession": ["SET DateStyle = 'German'"],
        "transaction_timeout": 77,
        "maxconnections": 1,
    }
    with pooled_app(url, **settings) as (_, db):
        with db_connection_context() as conn:
            (before,) = run(conn, look)
            for name, value in {
                "work_mem": "9MB",
                "DateStyle": "ISO",
                "client_encoding": "UTF8",
            }.items():
                run(conn, f"SET {name} = '{value}'")
            run(conn, "SET idle_in_transaction_session_timeout = 0")
        with db_connection_context() as conn:
            assert run(conn, look) == [before]
            assert run(conn, "SELECT 'ä'") == [("ä",)]
        assert before[0] == "3MB"
        assert before[3:] == ("German, DMY", "77s")
        assert db.stats().discarded == 0


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE pg_settings SET setting = '9000' WHERE name = 'work_mem'",
        "UPDATE pg_catalog.pg_settings SET setting = '9000' WHERE name = 'work_mem'",
        """UPDATE "pg_settings" SET setting = '9000' WHERE name = 'work_mem'""",
        """UPDATE ONLY(pg_catalog."pg_settings") SET setting = '9000' WHERE name = 'work_mem'""",
        "SELECT set_config('work_mem', '9000', false)",
        "DO $$ BEGIN PERFORM set_config('work_mem', '9000', false); END $$",
    ],
)
def test_p9_other_ways_to_set(db: PooledDB, sql: str) -> None:
    """Whatever way a text takes to change the session, the next lease does not find it."""
    look = "SHOW work_mem"
    with db_connection_context() as conn:
        usual = run(conn, look)
    with db_connection_context() as conn:
        run(conn, sql)
    with db_connection_context() as conn:
        assert run(conn, look) == usual
    assert db.stats().discarded == 0


def test_p9_readonly_block_that_changed(db: PooledDB) -> None:
    """The reset of a connection that a readonly block has changed leaves one that writes."""
    with db_connection_context(readonly=True) as conn:
        run(conn, "SET default_transaction_read_only = off")
        run(conn, "SET work_mem = '5MB'")
    with db_connection_context() as conn:
        run(conn, WRITE)
    with db_connection_context(readonly=True) as conn, contextlib.suppress(psycopg.Error):
        run(conn, "INSERT INTO t VALUES (2)")
    assert ids() == [1]
    assert db.stats().discarded == 0


def test_statement_that_was_prepared_for_another_table(
    db: PooledDB, postgresql_server: PostgreSQLServer
) -> None:
    """A statement that was prepared before its table changed fails once on a connection, and not
    for good.
    """
    sql = "SELECT * FROM t"
    with db_connection_context(readonly=True) as conn:
        for _ in range(8):
            run(conn, sql)
        ((schema,),) = run(conn, "SELECT current_schema()")
    postgresql_server.execute(f"ALTER TABLE {schema}.t ADD COLUMN name TEXT")
    with db_connection_context(readonly=True) as conn:
        with contextlib.suppress(psycopg.errors.FeatureNotSupported):
            run(conn, sql)
        assert run(conn, sql) == []


# Notifications


@pytest.mark.parametrize("sql", ["LISTEN news", " listen news;", "SELECT 1; LISTEN news"])
def test_listen_is_refused(db: PooledDB, sql: str) -> None:
    """LISTEN is refused, with what to do instead. The block goes on; NOTIFY and UNLISTEN work."""
    with db_connection_context() as conn:
        run(conn, WRITE)
        with pytest.raises(UsageError, match="a connection of your own"):
            run(conn, sql)
        run(conn, "NOTIFY news, 'hello'")
        run(conn, "UNLISTEN news")
        run(conn, "SELECT pg_notify('news', 'again')")
    assert ids() == [1]
    assert db.stats().discarded == 0


def test_notify_is_heard(db: PooledDB, postgresql_server: PostgreSQLServer) -> None:
    """What a block notifies is heard when it has committed."""
    url = postgresql_server.url().replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as own:
        own.execute("LISTEN news")
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            run(conn, "NOTIFY news, 'undone'")
            raise LookupError
        with db_connection_context() as conn:
            run(conn, "NOTIFY news, 'done'")
        heard = [found.payload for found in own.notifies(timeout=10, stop_after=1)]
    assert heard == ["done"]
