"""What statements leave in a PostgreSQL session, by their texts and in fact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from flask_pooled_db.drivers.sessionstate import left_in_session
from tests.support.pgsessions import left_in

LEAVE: list[Any] = [
    "SET work_mem = '1MB'",
    "set session work_mem to '1MB'",
    "SET /* LOCAL */ work_mem = '1MB'",
    "-- SET LOCAL\nSET work_mem = '1MB'",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET ROLE pg_monitor",
    "SELECT 1; SET work_mem = '1MB'",
    "SELECT set_config('work_mem', '1MB', false)",
    "SELECT pg_catalog.set_config('work_mem', concat('1', 'MB'), (true AND false))",
    """SELECT "set_config" ('work_mem', '1MB', 'f')""",
    "WITH a AS (SELECT set_config('work_mem', '1MB', false)) SELECT * FROM a",
    "SELECT set_config('work_mem', '1MB', true), set_config('work_mem', '1MB', false)",
    "UPDATE pg_settings SET setting = '1MB' WHERE name = 'work_mem'",
    "LISTEN news",
    "PREPARE plan AS SELECT 1",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "CREATE TEMP TABLE q (a INT)",
    "CREATE LOCAL TEMPORARY TABLE IF NOT EXISTS q (a INT) ON COMMIT DELETE ROWS",
    "CREATE TEMP TABLE q (a TEXT DEFAULT 'on commit drop')",
    "CREATE TEMP TABLE q (a INT) ON COMMIT DROP; CREATE TEMP TABLE r (a INT)",
    "CREATE TEMP SEQUENCE q",
    "CREATE OR REPLACE TEMP VIEW q AS SELECT 1",
    "CREATE TABLE pg_temp.q (a INT)",
    "SELECT 1 AS a INTO TEMP q",
    "SELECT 1 AS a INTO TABLE pg_temp.q",
    'SELECT 1 AS a INTO "pg_temp".q',
    'CREATE TABLE "pg_temp".q (a INT)',
    "SELECT pg_advisory_lock(7)",
    "SELECT pg_try_advisory_lock_shared(1, 2)",
    b"SET work_mem = '1MB'",
    sql.SQL("SET {} = '1MB'").format(sql.Identifier("work_mem")),
]

END: list[Any] = [
    "SET LOCAL work_mem = '1MB'",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET CONSTRAINTS ALL DEFERRED",
    "SELECT set_config('work_mem', '1MB', true)",
    "SELECT set_config('work_mem', concat('1', 'MB'), TRUE)",
    "SELECT 'SET work_mem = 1', 'set_config', 'pg_temp', 'with hold'",
    "SELECT 1 -- pg_advisory_lock(7)",
    "SELECT $$; SET work_mem = '1MB'$$",
    "CREATE TEMP TABLE q (a INT) ON COMMIT DROP",
    "CREATE TEMPORARY TABLE q ON COMMIT DROP AS SELECT 1",
    "CREATE TABLE pg_temp.q (a INT) ON COMMIT DROP",
    "SELECT pg_advisory_xact_lock(7)",
    "SELECT pg_try_advisory_xact_lock(7)",
    "NOTIFY news",
    "DECLARE c CURSOR FOR SELECT 1",
    "SAVEPOINT s",
    """CREATE OR REPLACE FUNCTION sets() RETURNS TEXT LANGUAGE sql
    BEGIN ATOMIC SELECT set_config('work_mem', '1MB', false); END""",
    sql.SQL("SET LOCAL work_mem = {}").format(sql.Literal("1MB")),
]

REFUSED_ANYWAY = [
    "RESET ALL",
    "DISCARD ALL",
    "EXECUTE plan",
    "DEALLOCATE ALL",
    "UNLISTEN *",
    "LOAD 'auto_explain'",
    "SELECT 1 /* a /* comment */ in another */",
    "SELECT set_config('work_mem', '1MB', %s)",
]


@pytest.fixture
def connection(shared_postgresql: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of the test's own."""
    with psycopg.connect(shared_postgresql.replace("+psycopg", "")) as connection:
        yield connection


@pytest.mark.parametrize("statement", LEAVE, ids=str)
def test_p9_what_stays(connection: psycopg.Connection[Any], statement: Any) -> None:
    """What a statement leaves in its session is known from its text."""
    before = left_in(connection)
    connection.execute(statement)
    connection.commit()
    assert left_in(connection) != before
    assert left_in_session(statement) is not None


@pytest.mark.parametrize("statement", END, ids=str)
def test_p9_what_ends(connection: psycopg.Connection[Any], statement: Any) -> None:
    """A statement whose work ends with its transaction, or is meant for all, is none of those."""
    before = left_in(connection)
    connection.execute(statement)
    connection.commit()
    assert left_in(connection) == before
    assert left_in_session(statement) is None


@pytest.mark.parametrize("statement", REFUSED_ANYWAY)
def test_p9_what_may_stay(statement: str) -> None:
    """What is about the session, or can't be told for certain, counts as staying."""
    assert left_in_session(statement) is not None
