"""What is done with a connection to SQLite, sqlite3's own or a borrowed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SCHEMA = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, data BLOB);
    INSERT INTO t VALUES (0, 'z', x'00');
"""
INSERT = "INSERT INTO t (id) VALUES (1)"
WITH_INSERT = "WITH x AS (SELECT 2) INSERT INTO t (id) SELECT * FROM x"
BROKEN_SCRIPT = """
    CREATE TABLE u (a);
    INSERT INTO t (id) VALUES (7);
    INSERT INTO nowhere VALUES (1);
    CREATE TABLE v (a);
"""

Step = Callable[[Any], Any]


def execute(sql: str, *params: Any) -> Step:
    def step(conn: Any) -> Any:
        return conn.execute(sql, *params).fetchall()

    return step


def by_cursor(sql: str, *params: Any) -> Step:
    def step(conn: Any) -> Any:
        cur = conn.cursor()
        cur.execute(sql, *params)
        return cur.fetchall()

    return step


def many(sql: str, sets: Any) -> Step:
    return lambda conn: conn.executemany(sql, sets).rowcount


def script(text: str) -> Step:
    return lambda conn: conn.executescript(text) and None


def script_by_cursor(text: str) -> Step:
    return lambda conn: conn.cursor().executescript(text) and None


def half_read(sql: str) -> Step:
    return lambda conn: conn.execute(sql).fetchone()


def blob(conn: Any) -> None:
    with conn.blobopen("t", "data", 0) as opened:
        opened.write(b"!")


def commit(conn: Any) -> None:
    conn.commit()


def rollback(conn: Any) -> None:
    conn.rollback()


PROGRAMS: dict[str, list[Step]] = {
    "nothing": [],
    "insert": [execute(INSERT)],
    "insert, commit": [execute(INSERT), commit],
    "insert, rollback": [execute(INSERT), rollback],
    "update": [execute("UPDATE t SET name = 'a'")],
    "delete": [execute("  \n\t\f DELETE FROM t")],
    "replace": [execute("rEpLaCe INTO t (id) VALUES (0)")],
    "insert returning": [execute(f"{INSERT} RETURNING id")],
    "many": [many("INSERT INTO t (id) VALUES (?)", [(1,), (2,)])],
    "many of none": [many("INSERT INTO t (id) VALUES (?)", [])],
    "comment, insert": [execute(f"/* a */ -- b\n {INSERT}")],
    "slash, insert": [execute(f"/*/ a */{INSERT}")],
    "semicolon, insert": [execute(f";{INSERT}")],
    "mark, insert": [execute(f"\ufeff{INSERT}")],
    "with insert": [execute(WITH_INSERT)],
    "with insert returning": [execute(f"{WITH_INSERT} RETURNING id")],
    "with insert returning, half read": [half_read(f"{WITH_INSERT} RETURNING id")],
    "with update": [execute("WITH x AS (SELECT 2) UPDATE t SET name = 'a'")],
    "with delete": [execute("WITH x AS (SELECT 2) DELETE FROM t")],
    "explain insert": [execute(f"EXPLAIN QUERY PLAN {INSERT}")],
    "select": [execute("SELECT id FROM t")],
    "create": [execute("CREATE TABLE u (a)")],
    "create by cursor": [by_cursor("CREATE TABLE u (a)")],
    "create, insert": [execute("CREATE TABLE u (a)"), execute("INSERT INTO u VALUES (1)")],
    "insert, create": [execute(INSERT), execute("CREATE TABLE u (a)")],
    "insert, create, commit": [execute(INSERT), execute("CREATE TABLE u (a)"), commit],
    "insert, create, rollback": [execute(INSERT), execute("CREATE TABLE u (a)"), rollback],
    "create, rollback": [execute("CREATE TABLE u (a)"), rollback],
    "create as select": [execute("CREATE TABLE u AS SELECT * FROM t")],
    "create twice": [execute("CREATE TABLE u (a)"), execute("CREATE TABLE u (a)")],
    "create index": [execute("CREATE INDEX i ON t (name)")],
    "create view": [execute("CREATE VIEW w AS SELECT 1")],
    "create trigger": [
        execute("CREATE TRIGGER tr AFTER UPDATE ON t BEGIN DELETE FROM t; END"),
        execute("WITH x AS (SELECT 2) UPDATE t SET name = 'a'"),
    ],
    "create virtual table": [execute("CREATE VIRTUAL TABLE f USING fts5(a)")],
    "drop": [execute("DROP TABLE t")],
    "drop, insert": [execute("DROP TABLE t"), execute(INSERT)],
    "alter": [execute("ALTER TABLE t ADD COLUMN more")],
    "analyze": [execute("ANALYZE")],
    "reindex": [execute("REINDEX")],
    "vacuum": [execute("VACUUM")],
    "user_version": [execute("PRAGMA user_version=7")],
    "user_version in a transaction": [execute(INSERT), execute("PRAGMA user_version=7")],
    "foreign_keys": [execute("PRAGMA foreign_keys=OFF"), execute(INSERT)],
    "begin": [execute("BEGIN"), execute("CREATE TABLE u (a)")],
    "begin, commit": [execute("BEGIN"), execute("CREATE TABLE u (a)"), execute("COMMIT")],
    "begin, method": [execute("BEGIN IMMEDIATE"), execute("CREATE TABLE u (a)"), commit],
    "begin, rollback": [execute("BEGIN"), execute("CREATE TABLE u (a)"), execute("ROLLBACK")],
    "insert, text commit": [execute(INSERT), execute("COMMIT"), execute("DELETE FROM t")],
    "commit without": [execute("COMMIT"), execute("CREATE TABLE u (a)")],
    "savepoint": [execute("SAVEPOINT a"), execute(INSERT), execute("RELEASE a")],
    "savepoint alone": [execute("SAVEPOINT a"), execute(INSERT)],
    "savepoint, back": [
        *(execute("SAVEPOINT a"), execute(INSERT), execute("ROLLBACK TO a"), execute("RELEASE a")),
        execute("CREATE TABLE u (a)"),
    ],
    "attach": [execute("ATTACH ':memory:' AS m"), execute("CREATE TABLE m.u (a)"), execute(INSERT)],
    "temp": [execute("CREATE TEMP TABLE u (a)"), execute("INSERT INTO u VALUES (1)")],
    "blob": [blob],
    "blob in a transaction": [execute(INSERT), blob],
    "blob, insert": [blob, execute(INSERT)],
    "error": [execute("CREATE TABLE t (a)"), execute("CREATE TABLE u (a)")],
    "failed insert": [execute("INSERT INTO t (id) VALUES (0)"), execute("CREATE TABLE u (a)")],
    "failed with insert": [
        execute("WITH x AS (SELECT 5 UNION SELECT 0) INSERT OR FAIL INTO t (id) SELECT * FROM x"),
        execute("CREATE TABLE u (a)"),
    ],
    "script that can't commit": [
        script("CREATE TABLE c (id REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)"),
        execute("INSERT INTO c VALUES (99)"),
        script("CREATE TABLE u (a)"),
        execute("INSERT INTO t (id) VALUES (99)"),
        script("CREATE TABLE v (a)"),
    ],
    "script": [script("CREATE TABLE u (a); INSERT INTO u VALUES (1)")],
    "script by cursor": [script_by_cursor("CREATE TABLE u (a); INSERT INTO u VALUES (1);")],
    "empty script": [execute(INSERT), script("")],
    "script of a comment": [execute(INSERT), script("-- nothing;\n")],
    "script of reads": [execute(INSERT), script("SELECT 1; SELECT * FROM t")],
    "insert, script": [execute(INSERT), script("CREATE TABLE u (a)")],
    "insert, script by cursor": [execute(INSERT), script_by_cursor("CREATE TABLE u (a)")],
    "script, insert": [script("CREATE TABLE u (a)"), execute(INSERT)],
    "script, rollback": [script("CREATE TABLE u (a)"), rollback],
    "insert, script, rollback": [execute(INSERT), script("CREATE TABLE u (a)"), rollback],
    "script with begin": [script("CREATE TABLE u (a); BEGIN; INSERT INTO u VALUES (1)")],
    "script with begin, commit": [script("BEGIN; CREATE TABLE u (a);"), commit],
    "script with begin, rollback": [script("BEGIN; CREATE TABLE u (a);"), rollback],
    "script with a transaction": [script("BEGIN; CREATE TABLE u (a); COMMIT; BEGIN; DROP TABLE u")],
    "script that rolls back": [
        execute(INSERT),
        script("BEGIN; CREATE TABLE u (a); ROLLBACK; CREATE TABLE v (a)"),
    ],
    "script with commit": [execute(INSERT), script("COMMIT")],
    "script with begin, script": [
        script("BEGIN; CREATE TABLE u (a)"),
        script("CREATE TABLE v (a)"),
    ],
    "script with a trigger": [
        script(
            "CREATE TRIGGER r AFTER DELETE ON t BEGIN SELECT 1; END; DELETE FROM t; DROP TABLE t"
        )
    ],
    "script with a savepoint": [script("SAVEPOINT a; CREATE TABLE u (a); RELEASE a")],
    "broken script": [script(BROKEN_SCRIPT)],
    "broken script by cursor": [script_by_cursor(BROKEN_SCRIPT)],
    "insert, broken script": [execute(INSERT), script(BROKEN_SCRIPT), execute("DROP TABLE u")],
    "broken script, rollback": [script(BROKEN_SCRIPT), rollback],
    "broken script with begin": [script(f"BEGIN; {BROKEN_SCRIPT}")],
    "broken script with begin, commit": [script(f"BEGIN; {BROKEN_SCRIPT}"), commit],
    "script without sense": [execute(INSERT), script("CREATE TABLE u (a); sense")],
    "script without end": [script("CREATE TABLE u (a); SELECT '")],
    "script with pragmas": [
        script("PRAGMA foreign_keys=OFF; PRAGMA user_version=5; DROP TABLE t;")
    ],
}
