"""What statements leave in a PostgreSQL session, by their texts and in fact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from flask_pooled_db.drivers.sessionstate import left_in_session
from tests.support.pgsessions import left_in

SCHEMA = "sessionstate"
ATOMIC = "LANGUAGE sql BEGIN /* a */ ATOMIC"

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
    # After a definition, whose own body alone runs later
    "CREATE VIEW v AS SELECT 1; SET search_path = x",
    "CREATE OR REPLACE VIEW v AS SELECT 1; SELECT pg_advisory_lock(7)",
    "CREATE RECURSIVE VIEW v (a) AS SELECT 1; SELECT pg_advisory_lock(7)",
    "CREATE MATERIALIZED VIEW m AS SELECT 1; LISTEN news",
    "CREATE MATERIALIZED VIEW m AS SELECT pg_try_advisory_lock(7)",
    "CREATE FUNCTION f() RETURNS INT LANGUAGE sql AS 'select 1'; SET work_mem = '1MB'",
    "CREATE FUNCTION f() RETURNS INT LANGUAGE sql AS $$SELECT 1;$$; SET work_mem = '1MB'",
    "CREATE FUNCTION f() RETURNS TEXT RETURN 'a'; SELECT set_config('work_mem', '1MB', false)",
    f"CREATE PROCEDURE p() {ATOMIC} END; SELECT pg_advisory_lock(7)",
    f"CREATE PROCEDURE p() {ATOMIC} SELECT 1; END; SELECT pg_advisory_lock(7)",
    f"CREATE PROCEDURE p() {ATOMIC} SELECT 1 AS case; END; SELECT pg_advisory_lock(7)",
    f"CREATE PROCEDURE p() {ATOMIC} SELECT 1 case; END; SELECT pg_advisory_lock(7)",
    f"CREATE PROCEDURE p(begin atomic) {ATOMIC} END; SELECT pg_advisory_lock(7)",
    "CREATE VIEW v AS SELECT begin atomic FROM s; SELECT pg_advisory_lock(7)",
    "CREATE RULE r AS ON INSERT TO s DO ALSO SELECT 1; SELECT pg_advisory_lock(7)",
    "CREATE RULE r AS ON INSERT TO s DO (SELECT (1); SELECT 2); SELECT pg_advisory_lock(7)",
    "CREATE /* a */ VIEW v /* ; */ AS SELECT ';' -- ;\n; /* b */ SET /* c */ work_mem = '1MB'",
    "DO 'BEGIN END'; SET work_mem = '1MB'",
    # Where it is not expected
    "CREATE TABLE y AS SELECT pg_advisory_lock(7)::text",
    "EXPLAIN ANALYZE SELECT pg_advisory_lock(7)",
    "EXPLAIN (ANALYZE, COSTS off)CREATE TEMP TABLE q AS SELECT 1",
    "EXPLAIN ANALYZE VERBOSE CREATE TABLE pg_temp.q AS SELECT 1",
    "COPY (SELECT pg_advisory_lock(7)) TO '/dev/null'",
    'SELECT pg_catalog . "pg_advisory_lock" /* a */ (7)',
    """UPDATE "pg_settings" SET setting = '1MB' WHERE name = 'work_mem'""",
    """UPDATE "pg_catalog"."pg_settings" SET setting = '1MB' WHERE name = 'work_mem'""",
    "UPDATE postgres.pg_catalog.pg_settings SET setting = '1MB' WHERE name = 'work_mem'",
    "UPDATE ONLY(pg_settings) SET setting = '1MB' WHERE name = 'work_mem'",
    """SELECT set_config('work_mem', '1MB', "t") FROM (SELECT false AS t) AS x""",
    "PREPARE transaction AS SELECT 1",
    "CREATE TABLE postgres.pg_temp.q (a INT)",
    "CREATE OR REPLACE TEMP RECURSIVE VIEW q (a) AS SELECT 1",
    "CREATE VIEW pg_temp.q AS SELECT 1",
    "SET LOCAL search_path = pg_temp; CREATE TABLE q (a INT)",
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
    # What is in a definition runs later.
    "CREATE VIEW v AS SELECT set_config('work_mem', '1MB', false); SELECT 1",
    "CREATE RECURSIVE VIEW v (a) AS SELECT pg_advisory_lock(7)::text",
    "CREATE MATERIALIZED VIEW m AS SELECT pg_advisory_lock(7)::text WITH NO DATA",
    "CREATE FUNCTION f() RETURNS TEXT RETURN set_config('work_mem', '1MB', false)",
    "CREATE FUNCTION f() RETURNS TEXT LANGUAGE sql AS $a$ SET work_mem = 1; SELECT 'a'; --$$; $a$",
    "CREATE FUNCTION f() RETURNS INT LANGUAGE sql SET search_path = public, pg_temp RETURN 1",
    "CREATE FUNCTION f() RETURNS INT LANGUAGE sql SET work_mem = '1MB' AS 'select 1'; SELECT 1",
    f"""CREATE PROCEDURE p() {ATOMIC} SELECT CASE WHEN true THEN 1 END, 2 AS end;
    SELECT 3 "end"; SELECT pg_advisory_lock(7); END; SELECT 1""",
    "CREATE RULE r AS ON INSERT TO s DO (SELECT (1); SELECT pg_advisory_lock(7)); SELECT 1",
    "CREATE RULE r AS ON INSERT TO s DO ALSO SELECT pg_advisory_lock(7)",
    "CREATE POLICY p ON s USING (pg_try_advisory_lock(7))",
    # What looks as if it left something
    "CREATE TRIGGER r BEFORE INSERT ON s EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE TABLE y AS SELECT 1 AS execute, 2 AS prepare",
    "CREATE TEMP TABLE q ON COMMIT DROP AS SELECT 1 AS a; CREATE INDEX ON pg_temp.q (a)",
    "CREATE TEMP TABLE q (a INT) ON COMMIT DROP; CREATE TABLE y AS SELECT * FROM pg_temp.q",
    "CREATE VIEW v AS SELECT 'pg_temp' AS a",
    "WITH hold AS (SELECT 1) SELECT * FROM hold",
    "SELECT * FROM pg_proc WHERE proname IN ('pg_advisory_lock', 'set_config')",
    "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint), set_config(text, text, bool) TO PUBLIC",
    "SELECT 1 AS execute, 2 AS listen FROM s WHERE begin = 1 FOR UPDATE OF s",
    "EXPLAIN SELECT 1",
    "SET LOCAL search_path = public, pg_temp",
    """SET LOCAL "local.x" = '1'""",
    sql.SQL("SET LOCAL work_mem = {}").format(sql.Literal("1MB")),
]

REFUSED_ANYWAY = [
    "RESET ALL",
    "DISCARD ALL",
    "EXECUTE plan",
    "DEALLOCATE ALL",
    "UNLISTEN *",
    "LOAD 'auto_explain'",
    "SET local.x = '1'",
    "SET transaction . x = '1'",
    "EXPLAIN ANALYZE EXECUTE plan",
    "EXPLAIN (ANALYZE)EXECUTE plan",
    "CREATE TABLE y AS EXECUTE plan",
    "CREATE UNLOGGED TABLE IF NOT EXISTS y (a) WITH (fillfactor = 70) AS EXECUTE plan(1)",
    'EXPLAIN ANALYZE CREATE TABLE "as" AS /* a */ EXECUTE plan',
    "CREATE VIEW v AS SELECT 1; EXECUTE plan",
    "CREATE TABLE pg_temp_3.q (a INT)",
    'UPDATE U&"pg\\005fsettings" SET setting = 1',
    "CREATE VIEW v AS SELECT 1; SELECT $$ no end",
    "SELECT 1 /* a /* comment */ in another */",
    "SELECT set_config('work_mem', '1MB', %s)",
]


@pytest.fixture
def connection(shared_postgresql: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of the test's own, in a schema of its own."""
    url = shared_postgresql.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as side:
        side.execute(f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {SCHEMA}.s (begin INT)")
        side.execute(f"CREATE DOMAIN {SCHEMA}.atomic AS INT")
        with psycopg.connect(url, options=f"-c search_path={SCHEMA}") as connection:
            yield connection
        side.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


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
