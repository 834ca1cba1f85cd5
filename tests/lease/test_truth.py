"""T10 and P9: what SQL text commits, undoes and changes by itself is known, said and undone.

Each row of the table is a statement by text, and what it does. It is run in the middle of a block:
what is committed, what the caller is told, and what the next lease finds must be as the row says.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pymysql
import pytest

from flask_pooled_db import (
    PooledDB,
    TransactionAborted,
    UsageError,
    db_connection_context,
)
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.apps import pooled_app

KEPT, COMMITS, UNDOES, ENDS = "kept", "commits", "undoes", "commits or undoes"


@dataclass(frozen=True)
class Row:
    """A statement, what becomes of the work before it, and whether the session is to be reset."""

    sql: str
    work: str = KEPT
    resets: bool = False

    def __str__(self) -> str:
        return self.sql[:60]


# https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/
DDL = [
    *("ALTER TABLE other ADD COLUMN x INT", "CREATE TABLE made (a INT)", "DROP TABLE other"),
    *("CREATE INDEX by_a ON other (a)", "RENAME TABLE other TO renamed", "TRUNCATE TABLE other"),
    *("CREATE VIEW seen AS SELECT * FROM other", "DROP VIEW IF EXISTS seen"),
    *("CREATE PROCEDURE p() SELECT 1", "DROP PROCEDURE IF EXISTS none"),
    *("CREATE FUNCTION g() RETURNS INT RETURN 1", "CREATE SEQUENCE s"),
    "CREATE TRIGGER tr BEFORE INSERT ON other FOR EACH ROW SET @x = 1",
    *("ANALYZE TABLE other", "CHECK TABLE other", "OPTIMIZE TABLE other", "REPAIR TABLE other"),
    "CREATE DATABASE IF NOT EXISTS another",
    *("  /* c */ create table MADE2 (a int)", "-- c\nDROP TABLE IF EXISTS none"),
    *("CREATE OR REPLACE TABLE other (b INT)", "ALTER TABLE other COMMENT 'x'"),
    "CREATE TABLE copied AS SELECT * FROM other",
    "DROP INDEX IF EXISTS none ON other",
]
ROWS = [
    *(Row(sql, COMMITS) for sql in DDL),
    # By text
    *(Row(sql, COMMITS) for sql in ("COMMIT", "commit work", "COMMIT AND NO CHAIN")),
    *(
        Row(sql, COMMITS)
        for sql in ("COMMIT AND CHAIN", "BEGIN", "START TRANSACTION", "BEGIN WORK")
    ),
    Row("START TRANSACTION READ WRITE", COMMITS),
    Row("START TRANSACTION WITH CONSISTENT SNAPSHOT", COMMITS),
    *(Row(sql, UNDOES) for sql in ("ROLLBACK", "rollback work", "ROLLBACK AND CHAIN")),
    Row("LOCK TABLES t WRITE, other READ", COMMITS, resets=True),
    Row("SET autocommit=1", COMMITS, resets=True),
    Row("SET SESSION autocommit = ON", COMMITS, resets=True),
    *(Row(sql) for sql in ("SAVEPOINT own", "SELECT 1", "SELECT * FROM t", "SHOW TABLES")),
    Row("INSERT INTO other VALUES (7)"),
    Row("DELETE FROM other"),
    Row("WITH x AS (SELECT 1) SELECT * FROM x"),
    # The session
    *(
        Row(sql, resets=True)
        for sql in (
            *("SET @x = 5", "SELECT @x := 5", "SELECT 5 INTO @x", "SET sql_mode = ''"),
            *("SET SESSION max_statement_time = 3", "SET @@max_statement_time = 3"),
            *(
                "SET collation_connection = utf8mb4_bin",
                "USE mysql",
                "SELECT GET_LOCK('{lock}', 0)",
                "DO GET_LOCK('{lock}', 0)",
            ),
            *(
                "SET SESSION TRANSACTION READ ONLY",
                "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            ),
            *("CREATE TEMPORARY TABLE tmp (a INT)", "CREATE TEMPORARY TABLE tmp SELECT 1 AS a"),
            *("PREPARE s FROM 'SELECT 1'", "SET @x = 1, sql_mode = ''", "DO @x := 5"),
            *("UPDATE other SET a = (@x := a)", "SET character_set_results = NULL"),
        )
    ),
    # Routines, prepared statements, several statements at once
    Row("CALL does_nothing()", resets=True),
    Row("CALL commits()", ENDS, resets=True),
    Row("CALL undoes()", ENDS, resets=True),
    Row("CALL commits_and_goes_on()", ENDS, resets=True),
    Row("CALL makes_a_table()", ENDS, resets=True),
    Row("CALL sets_a_variable()", resets=True),
    Row("CALL takes_a_lock()", resets=True),
    Row("EXECUTE IMMEDIATE 'COMMIT'", ENDS, resets=True),
    Row("EXECUTE IMMEDIATE 'SELECT 1'", resets=True),
    Row("SELECT sets_in_function()", resets=True),
    Row("BEGIN NOT ATOMIC COMMIT; END", ENDS, resets=True),
    Row("/*! COMMIT */", ENDS, resets=True),
]

PROCEDURES = {
    "does_nothing": "SELECT 1",
    "commits": "COMMIT",
    "undoes": "ROLLBACK",
    "commits_and_goes_on": "BEGIN COMMIT; INSERT INTO other VALUES (9); END",
    "undoes_and_goes_on": "BEGIN ROLLBACK; INSERT INTO other VALUES (9); END",
    "makes_a_table": "CREATE TABLE made_inside (a INT)",
    "sets_a_variable": "SET @x = 5",
    "takes_a_lock": "DO GET_LOCK(CONCAT('in ', DATABASE()), 0)",
}


@dataclass(frozen=True)
class Site:
    """A pool of one connection to a database with the tables `t` and `other`."""

    db: PooledDB
    server: MariaDBServer
    database: str

    def text(self, row: Row) -> str:
        return row.sql.replace("{lock}", self.database)

    def committed(self) -> list[int]:
        sql = f"SELECT id FROM `{self.database}`.t ORDER BY id"
        return [id_ for (id_,) in self.server.query(sql)]


@contextlib.contextmanager
def site_on(server: MariaDBServer, driver: str, **keys: Any) -> Iterator[Site]:
    database = server.create_database()
    server.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    server.execute(f"CREATE TABLE `{database}`.other (a INT) ENGINE=InnoDB")
    with pooled_app(server.url(driver, database), maxconnections=1, **keys) as (_, db):
        with db_connection_context() as conn:
            for name, body in PROCEDURES.items():
                run(conn, f"CREATE PROCEDURE {name}() {body}")
            run(
                conn,
                "CREATE FUNCTION sets_in_function() RETURNS INT BEGIN SET @x = 5; RETURN 1; END",
            )
        yield Site(db, server, database)
    server.execute(f"DROP DATABASE `{database}`")
    server.execute("DROP DATABASE IF EXISTS another")


@pytest.fixture
def site(mariadb: MariaDBServer, mariadb_driver: str) -> Iterator[Site]:
    with site_on(mariadb, mariadb_driver) as site:
        yield site


def run(conn: Any, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement and read all that it sends."""
    cur = conn.cursor()
    try:
        cur.execute(sql)
        found = list(cur.fetchall()) if cur.description else []
        while hasattr(cur, "nextset") and cur.nextset():
            if cur.description:
                cur.fetchall()
        return found
    finally:
        cur.close()


def insert(conn: Any, number: int) -> None:
    run(conn, f"INSERT INTO t VALUES ({number})")


def state(conn: Any) -> dict[str, Any]:
    """What of a session a next lease could find."""
    names = (
        *("autocommit", "sql_mode", "max_statement_time", "tx_isolation", "tx_read_only"),
        *("character_set_results", "collation_connection"),
    )
    variables = ", ".join(f"@@{name}" for name in names)
    return {
        "variables": run(
            conn,
            f"SELECT {variables}, @x, DATABASE(), @@character_set_results, @@collation_connection",
        )[0],
        "temporary": run(conn, "SHOW CREATE TABLE tmp") if exists(conn, "tmp") else None,
    }


def exists(conn: Any, table: str) -> bool:
    try:
        run(conn, f"SELECT 1 FROM {table} LIMIT 0")
    except conn.Error:
        return False
    return True


def locks_of_others(site: Site) -> list[object]:
    """Which named locks somebody holds."""
    names = (site.database, f"in {site.database}")
    return [site.server.query("SELECT IS_USED_LOCK(%s)", name)[0][0] for name in names]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_t10_left_normally(site: Site, row: Row) -> None:
    """A block that goes on after the statement commits the rest, or says why it can't."""

    def work() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            run(conn, site.text(row))
            if "LOCK TABLES" not in row.sql and "USE" not in row.sql:
                insert(conn, 2)

    if row.work == ENDS:
        with pytest.raises(TransactionAborted) as caught:
            work()
        assert "committed or rolled back" in str(caught.value)
        assert __file__ in str(caught.value)
        assert 2 not in site.committed()
        return
    work()
    expected = {KEPT: [1, 2], COMMITS: [1, 2], UNDOES: [2]}[row.work]
    got = site.committed()
    assert got == (expected if 2 in got else [id_ for id_ in expected if id_ == 1])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_t10_left_by_exception(site: Site, row: Row) -> None:
    """If an exception leaves the block, all is rolled back but what the statement has committed."""
    with (
        contextlib.suppress(LookupError, TransactionAborted),
        db_connection_context() as conn,
    ):
        insert(conn, 1)
        run(conn, site.text(row))
        with contextlib.suppress(conn.Error):
            insert(conn, 2)
        raise LookupError
    if row.work in (KEPT, UNDOES):
        assert site.committed() == []
    elif row.work == COMMITS and "autocommit" not in row.sql:
        assert site.committed() == [1]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_t10_in_nested_block(site: Site, row: Row) -> None:
    """In a nested block that fails after the statement, nobody is told that nothing was committed
    when it was: the outer block goes on if all of the inner one was undone, and fails otherwise.
    """
    told: list[BaseException] = []

    def work() -> None:
        with db_connection_context() as outer:
            insert(outer, 1)
            try:
                with db_connection_context() as inner:
                    insert(inner, 2)
                    run(inner, site.text(row))
                    raise LookupError
            except (LookupError, TransactionAborted) as error:
                told.append(error)
            run(outer, "SELECT 1")

    if row.work == KEPT:
        work()
        assert isinstance(told[0], LookupError)
        assert site.committed() == [1]
        return
    with pytest.raises(TransactionAborted) as caught:
        work()
    text = str(caught.value)
    assert __file__ in text
    if row.work == COMMITS:
        assert site.committed() == [1, 2]
        assert "committed what came before it" in text
    elif row.work == UNDOES:
        assert site.committed() == []
        assert "rolled back what came before it" in text
    else:
        assert "committed or rolled back" in text


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_p9_next_lease(site: Site, row: Row, ends: bool) -> None:
    """The next lease finds a session as good as new, whatever the statement did to it."""
    with db_connection_context() as conn:
        before = state(conn)
    with (
        contextlib.suppress(LookupError, TransactionAborted),
        db_connection_context() as conn,
    ):
        run(conn, site.text(row))
        if not ends:
            raise LookupError
    assert locks_of_others(site) == [None, None]
    with db_connection_context() as conn:
        assert state(conn) == before
        insert(conn, 50)
    assert 50 in site.committed()


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE t (a INT)", "DROP TABLE none_such", "ALTER TABLE none ADD x INT"]
)
def test_t10_ddl_that_fails(site: Site, sql: str) -> None:
    """DDL that fails has committed what came before it, and the error says so."""

    def work() -> None:
        with db_connection_context() as outer:
            insert(outer, 1)
            with contextlib.suppress(outer.Error), db_connection_context() as inner:
                insert(inner, 2)
                run(inner, sql)
            run(outer, "SELECT 1")

    with pytest.raises(TransactionAborted, match="committed what came before it"):
        work()
    assert site.committed() == [1, 2]


def test_t10_wrong_ddl(site: Site) -> None:
    """DDL that the server can't read has committed nothing."""
    with db_connection_context() as outer:
        insert(outer, 1)
        with contextlib.suppress(outer.Error), db_connection_context() as inner:
            insert(inner, 2)
            run(inner, "CREATE TABLE (")
        insert(outer, 3)
    assert site.committed() == [1, 3]


def test_t10_ddl_alone(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """DDL as the first work of a block is fine, and nothing is logged."""
    with caplog.at_level(logging.WARNING), db_connection_context() as conn:
        run(conn, "CREATE TABLE fine (a INT)")
        run(conn, "ALTER TABLE fine ADD COLUMN b INT")
    assert "by itself" not in caplog.text


def test_t10_logged_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A statement that commits by itself is logged with its place, once for each place."""
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            with db_connection_context() as conn:
                insert(conn, number)
                conn.cursor().execute("COMMIT")
    wait_until(lambda: "COMMIT at" in caplog.text)
    assert caplog.text.count("COMMIT at") == 1
    assert __file__ in caplog.text


@pytest.mark.parametrize("sql", ["COMMIT", "CREATE TABLE made (a INT)"])
def test_t10_implicit_commit_as_error(
    mariadb: MariaDBServer, mariadb_driver: str, sql: str
) -> None:
    """With IMPLICIT_COMMIT="error" such a block ends in an error, and what came after is undone."""

    def work() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            run(conn, sql)
            insert(conn, 2)

    with site_on(mariadb, mariadb_driver, implicit_commit="error") as site:
        with pytest.raises(UsageError, match="IMPLICIT_COMMIT"):
            work()
        assert site.committed() == [1]
        with db_connection_context() as conn:
            run(conn, "DROP TABLE IF EXISTS made")


def test_t10_run_transaction(site: Site) -> None:
    """`run_transaction()` does not repeat what is committed."""
    tries: list[int] = []

    def work(conn: Any) -> None:
        tries.append(1)
        insert(conn, len(tries))
        run(conn, "COMMIT")
        insert(conn, 10 + len(tries))
        site.server.kill_connection(run(conn, "SELECT CONNECTION_ID()")[0][0])
        run(conn, "SELECT 1")

    with pytest.raises(site.db.pool().driver.Error):
        site.db.run_transaction(work)
    assert len(tries) == 1
    assert site.committed() == [1]


@pytest.mark.parametrize("begins", ["START TRANSACTION READ WRITE", "BEGIN"])
def test_t10_readonly_loses_no_write(site: Site, begins: str) -> None:
    """A readonly block in which a transaction is open at its end fails, and says what is undone."""

    def work() -> None:
        with db_connection_context(readonly=True) as conn:
            run(conn, begins)
            with contextlib.suppress(conn.Error):
                insert(conn, 1)

    with pytest.raises(UsageError, match="rolled back"):
        work()
    assert site.committed() == []
    with db_connection_context() as conn:
        insert(conn, 2)
    assert site.committed() == [2]


@pytest.mark.parametrize("routine", ["commits_and_goes_on", "undoes_and_goes_on"])
def test_t10_readonly_failed_routine(site: Site, routine: str) -> None:
    """A routine that failed in a transaction which text had opened in a readonly block ends that
    block in an error, whatever follows: nobody knows what became of the rows before it.
    """

    def work() -> None:
        with db_connection_context(readonly=True) as conn:
            run(conn, "START TRANSACTION READ WRITE")
            run(conn, "START TRANSACTION READ WRITE")  # which commits nothing yet
            insert(conn, 1)
            with contextlib.suppress(conn.Error):  # after it all is read-only again
                run(conn, f"CALL {routine}()")
            run(conn, "SELECT 1")

    with pytest.raises(TransactionAborted, match="may have committed or rolled back"):
        work()
    assert site.committed() == ([1] if routine.startswith("commits") else [])


@pytest.mark.parametrize("follows", [False, True])
def test_t10_readonly_failed_ddl(
    site: Site, follows: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """DDL that failed in a transaction which text had opened in a readonly block has committed what
    came before it all the same: it is logged, and named by what aborts the block later.
    """

    def work() -> None:
        with db_connection_context(readonly=True) as conn:
            run(conn, "START TRANSACTION READ WRITE")
            insert(conn, 1)
            with contextlib.suppress(conn.Error):  # after its commit all is read-only again
                run(conn, "ALTER TABLE t ADD COLUMN x INT")
            if follows:
                run(conn, "START TRANSACTION READ WRITE")
                insert(conn, 2)
                run(conn, "CALL undoes()")

    text = r"ALTER TABLE at .* committed what came before it"
    aborted = pytest.raises(TransactionAborted, match=f"{text}, and CALL undoes")
    with aborted if follows else contextlib.nullcontext():
        work()
    wait_until(lambda: re.search(f"{text} by itself", caplog.text))
    assert site.committed() == [1]


def test_t10_select_commits_nothing(site: Site, mariadb: MariaDBServer) -> None:
    """A block that only read what is in no table sends no COMMIT."""
    from harness.proxy import Proxy

    with Proxy(mariadb.host, mariadb.port) as proxy:
        driver = site.db.pool().driver
        kind = "pymysql" if driver.name == "pymysql" else "mariadbconnector"
        with pooled_app(mariadb.url(kind, site.database, port=proxy.port)) as (_, _db):
            with db_connection_context() as conn:
                run(conn, "SELECT 1")
            proxy.reset_counts()
            with db_connection_context() as conn:
                run(conn, "SELECT 1")
            assert [command.payload for command in proxy.commands] == [b"SELECT 1"]


def test_p9_changed_costs_nothing_unchanged(site: Site, mariadb: MariaDBServer) -> None:
    """With RESET="changed", a session that was not changed is not reset."""
    with db_connection_context() as conn:
        first = run(conn, "SELECT CONNECTION_ID()")
    for _, sql in itertools.product(range(2), ("SELECT 1", "INSERT INTO other VALUES (1)")):
        with db_connection_context() as conn:
            run(conn, sql)
    with db_connection_context() as conn:
        assert run(conn, "SELECT CONNECTION_ID()") == first


# What fails on its way, or cannot be proved


@contextlib.contextmanager
def reader_of_other(site: Site) -> Iterator[None]:
    """Another session in a transaction that has read `other`: DDL on it waits."""
    connection = pymysql.connect(**site.server.connect_args(site.database))
    connection.cursor().execute("SELECT * FROM other")
    try:
        yield
    finally:
        connection.close()


def lock_wait(conn: Any, site: Site) -> None:
    run(conn, "SET lock_wait_timeout=1")
    with reader_of_other(site):
        run(conn, "TRUNCATE TABLE other")


def failed_plugin(conn: Any, site: Site) -> None:
    run(conn, "ALTER TABLE other ADD x INT AFTER none")


def killed(conn: Any, site: Site) -> None:
    """DDL that loses its connection while it waits."""
    me = run(conn, "SELECT CONNECTION_ID()")[0][0]
    with reader_of_other(site):
        thread = threading.Thread(target=kill_when_it_waits, args=(site, me))
        thread.start()
        try:
            run(conn, "ALTER TABLE other ADD x INT")
        finally:
            thread.join()


def kill_when_it_waits(site: Site, connection: int) -> None:
    state = "SELECT 1 FROM information_schema.processlist WHERE id = %s AND state LIKE 'Waiting%%'"
    wait_until(lambda: site.server.query(state, connection), "DDL that waits")
    site.server.kill_connection(connection)


@pytest.mark.parametrize("fail", [lock_wait, failed_plugin, killed])
def test_t10_failed_on_its_way(site: Site, fail: Callable[[Any, Site], None]) -> None:
    """A statement that commits by itself and then fails, in whatever way, is not forgotten: the
    errors do not say that nothing is committed, and nothing is repeated.
    """
    tries: list[int] = []

    def work(conn: Any) -> None:
        tries.append(1)
        insert(conn, len(tries))
        fail(conn, site)

    with pytest.raises(site.db.pool().driver.Error):
        site.db.run_transaction(work)
    assert site.committed() == [1]

    def swallow() -> None:
        with db_connection_context() as conn:
            insert(conn, 5)
            with contextlib.suppress(conn.Error):
                fail(conn, site)
            insert(conn, 6)
            insert(conn, 6)

    with pytest.raises((TransactionAborted, site.db.pool().driver.Error)) as caught:
        swallow()
    assert site.committed() == [1, 5]
    if isinstance(caught.value, TransactionAborted):
        assert "nothing of it was" not in str(caught.value)


def test_t10_routine_is_not_repeated(site: Site) -> None:
    """`run_transaction()` does not repeat a routine that may have committed a part itself."""
    site.server.execute(
        f"CREATE PROCEDURE `{site.database}`.puts(i INT)"
        f" BEGIN START TRANSACTION; INSERT INTO `{site.database}`.t VALUES (i); COMMIT; END"
    )
    tries: list[int] = []

    def work(conn: Any) -> None:
        tries.append(1)
        run(conn, f"CALL puts({len(tries)})")
        run(conn, "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO=1213, MESSAGE_TEXT='a deadlock'")

    with pytest.raises(site.db.pool().driver.Error):
        site.db.run_transaction(work)
    assert site.committed() == [1]


def test_t10_routine_that_is_proved(site: Site) -> None:
    """One that is known to have ended nothing is repeated with the rest."""
    tries: list[int] = []

    def work(conn: Any) -> None:
        tries.append(1)
        insert(conn, len(tries))
        run(conn, "CALL sets_a_variable()")
        insert(conn, 10 + len(tries))
        if len(tries) == 1:
            run(conn, "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO=1213, MESSAGE_TEXT='a deadlock'")

    site.db.run_transaction(work)
    assert site.committed() == [2, 12]


@pytest.mark.parametrize(
    "sql",
    [
        *("CREATE TABLE IF NOT EXISTS made (a INT)", "COMMIT", "BEGIN", "ROLLBACK"),
        *("CALL commits()", "CALL does_nothing()", "CALL commits_and_goes_on()"),
    ],
)
@pytest.mark.parametrize("outer_reads", [False, True])
def test_t10_nested_block_begins_with_it(site: Site, sql: str, outer_reads: bool) -> None:
    """As the first work of a nested block with nothing around it, such a statement is fine."""
    with db_connection_context() as outer:
        if outer_reads:
            run(outer, "SELECT 1")
        with db_connection_context() as inner:
            run(inner, sql)
            insert(inner, 1)
        insert(outer, 2)
    assert site.committed() == [1, 2]
    with db_connection_context() as conn:
        run(conn, "DROP TABLE IF EXISTS made")


def test_t10_completion_type(site: Site) -> None:
    """COMMIT by text is one also where `completion_type` has it begin the next transaction."""

    def work() -> None:
        with db_connection_context() as conn:
            run(conn, "SET completion_type=1")
            insert(conn, 1)
            run(conn, "COMMIT")
            with contextlib.suppress(conn.Error):
                insert(conn, 2)
                site.server.kill_connection(run(conn, "SELECT CONNECTION_ID()")[0][0])
                run(conn, "SELECT 1")

    with pytest.raises(TransactionAborted, match="committed what came before it"):
        work()
    assert site.committed() == [1]
