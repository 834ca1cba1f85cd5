"""Whether a statement's text says that it writes: what a warning of lost work rests on."""

from __future__ import annotations

import pytest

from flask_pooled_db.drivers.writes import may_write

WRITES = [
    "INSERT INTO t VALUES (1)",
    "  \n/* who */ insert into t values (1)",
    "-- who\nINSERT INTO t VALUES (1)",
    "# who\nINSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (1) RETURNING id",
    "INSERT OR REPLACE INTO t VALUES (1)",
    "UPDATE t SET a = 1",
    'UPDATE "t" SET a = 1',
    "DELETE FROM t",
    "REPLACE INTO t VALUES (1)",
    "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE",
    "TRUNCATE t",
    "CALL p()",
    "call p",
    "LOAD DATA LOCAL INFILE 'f' INTO TABLE t",
    "COPY t FROM STDIN",
    "COPY t (a, b) FROM STDIN",
    "COPY t FROM '/tmp/to'",
    "CREATE TABLE t (a INT)",
    "create or replace view v as select 1",
    "DROP TABLE t",
    "ALTER TABLE t ADD b INT",
    "GRANT SELECT ON t TO u",
    "NOTIFY c",
    "DO $$ BEGIN INSERT INTO t VALUES (1); END $$",
    "DO LANGUAGE plpgsql $x$ BEGIN PERFORM f(); END $x$",
    "WITH n AS (SELECT 1) INSERT INTO t SELECT * FROM n",
    "WITH n AS (INSERT INTO t VALUES (1) RETURNING id) SELECT id FROM n",
    "WITH n AS (SELECT a FROM s FOR UPDATE) DELETE FROM t USING n",
    "EXPLAIN ANALYZE DELETE FROM t",
    "EXPLAIN (ANALYZE, BUFFERS) UPDATE t SET a = 1",
    "ANALYZE UPDATE t SET a = 1",
    "ANALYZE FORMAT=JSON DELETE FROM t",
    "SELECT 1; INSERT INTO t VALUES (1)",
    "BEGIN; UPDATE t SET a = 1",
    "SELECT a INTO made FROM t",
    "/*!40101 INSERT */ INTO t VALUES (1)",
]
READS = [
    "",
    "SELECT 1",
    "(SELECT 1) UNION (SELECT 2)",
    "SELECT * FROM t FOR UPDATE",
    "SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT * FROM t LOCK IN SHARE MODE",
    "SELECT 'insert into t', \"delete\", `update` FROM t",
    "SELECT replace(a, 'b', 'c'), insert(a, 1, 2, 'x') FROM t",
    "SELECT 'it''s; DELETE FROM t'",
    "SELECT 1 -- ; DELETE FROM t",
    "SELECT 1 /* ; DELETE FROM t */",
    "SELECT a INTO @x FROM t",
    "SELECT a INTO OUTFILE '/tmp/f' FROM t",
    "SELECT a INTO TEMP made FROM t",
    "SELECT $$; DELETE FROM t$$",
    "WITH n AS (SELECT 1) SELECT * FROM n",
    "WITH n AS (SELECT replace(a, 'b', 'c') FROM t) SELECT * FROM n FOR UPDATE",
    "WITH n AS (SELECT 1) SELECT * FROM n FOR NO KEY UPDATE",
    "SHOW TABLES",
    "DESCRIBE t",
    "DESC t",
    "EXPLAIN DELETE FROM t",
    "EXPLAIN ANALYZE SELECT 1",
    "ANALYZE SELECT 1",
    "VALUES (1)",
    "TABLE t",
    "SET @x = 1",
    "SET NAMES utf8mb4",
    "SET TRANSACTION READ ONLY",
    "USE shop",
    "PRAGMA table_info(t)",
    "PRAGMA foreign_keys = ON",
    "BEGIN",
    "START TRANSACTION",
    "SAVEPOINT a",
    "RELEASE SAVEPOINT a",
    "ROLLBACK TO a",
    "COMMIT",
    "DO SLEEP(0)",
    "DO 1",
    "KILL QUERY 1",
    "LOCK TABLES t READ",
    "CREATE TEMPORARY TABLE x (a INT)",
    "CREATE OR REPLACE TEMPORARY TABLE x (a INT)",
    "CREATE TEMP TABLE x (a INT)",
    "DROP TEMPORARY TABLE x",
    "DROP PREPARE p",
    "DEALLOCATE PREPARE p",
    "DECLARE c CURSOR FOR SELECT 1",
    "FETCH ALL FROM c",
    "LISTEN c",
    "COPY t TO STDOUT",
    'COPY "t" TO STDOUT',
    "COPY t (a, b) TO STDOUT",
    "COPY (SELECT 1) TO STDOUT",
    "ATTACH 'f' AS other",
    "/*!40101 SET NAMES utf8 */",
    None,
    7,
]


@pytest.mark.parametrize("text", WRITES)
def test_writes(text: object) -> None:
    """What writes is known by its text."""
    assert may_write(text)


@pytest.mark.parametrize("text", READS)
def test_reads(text: object) -> None:
    """What reads, or changes the session alone, is no reason for a warning."""
    assert not may_write(text)
