"""What the `close()` of a borrowed connection loses is said; what it does not lose is not."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import mysql.connector
import psycopg.sql
import pytest

from flask_pooled_db import CommitOutcomeUnknown, TransactionAborted, get_db_connection
from flask_pooled_db.runtime import notices
from harness.postgres import postgres
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from harness.workloads import add, run
from tests.drivers.generic import MODULES, keys
from tests.support.apps import pooled_app
from tests.support.scenarios.base import MOVED
from tests.support.sites import warnings_in
from tests.support.stages import ON_FILES, UNTOUCHED, ServerStage, Stage

Work = Callable[[Any], object]

INSERT = "INSERT INTO accounts VALUES (9, 9)"
RETURNING = "INSERT INTO accounts VALUES (8, 8) RETURNING id"


def failing(sql: str) -> Work:
    """A statement that fails."""

    def work(conn: Any) -> None:
        with pytest.raises(conn.Error):
            conn.cursor().execute(sql)

    return work


def lost(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of lost work."""
    return [warning for warning in warnings_in(caplog) if "was rolled back" in warning]


def many(conn: Any) -> None:
    sql = "INSERT INTO accounts VALUES (%s, %s)"
    conn.cursor().executemany(sql, [(7, 1), (6, 1)])


def does(*steps: str | Work) -> Work:
    """What takes these steps: statements, `commit` and `rollback`, functions."""

    def work(conn: Any) -> None:
        for step in steps:
            if callable(step):
                step(conn)
            elif step in ("commit", "rollback"):
                getattr(conn, step)()
            else:
                run(conn, step)

    return work


ADD = "UPDATE accounts SET balance = balance - 10 WHERE id = 1"
READ = "SELECT * FROM accounts"
DDL = "CREATE OR REPLACE TABLE made (a INT)"

# What every driver can do.
WRITES: dict[str, Work] = {
    "insert": does(INSERT),
    "update": does(ADD),
    "then read": does(ADD, "SELECT 1"),
    "returning": does(RETURNING),
    "returning unread": lambda conn: conn.cursor().execute(RETURNING),
    "many": many,
    "after a commit": does(INSERT, "commit", "DELETE FROM accounts WHERE id = 9", "commit", ADD),
    "after a rollback": does(ADD, "rollback", ADD),
    "after an error": does(failing("NO SQL"), "rollback", ADD),
    "comment before": does("/* who */ UPDATE accounts SET balance = 1"),
    "in the cursor's block": lambda conn: conn.cursor().__enter__().execute(INSERT),
}
NO_WRITES: dict[str, Work] = {
    "nothing": does(),
    "a cursor": lambda conn: conn.cursor(),
    "select": does(READ),
    "unread": lambda conn: conn.cursor().execute(READ),
    "failed": does(failing("INSERT INTO nowhere VALUES (1)")),
    "committed": does(ADD, "commit"),
    "read after commit": does(ADD, "commit", READ),
    "rolled back": does(ADD, "rollback"),
    "read after rollback": does(ADD, "rollback", READ),
    "committed by text": does(ADD, "COMMIT"),
    "undone by text": does(ADD, "ROLLBACK"),
    "read after text": does(ADD, "COMMIT", READ),
}


@pytest.mark.parametrize("work", WRITES.values(), ids=WRITES)
def test_t10_lost_work_is_said(
    any_stage: Stage, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    """`close()` with uncommitted work warns, with the place where the connection was taken."""
    assert_said(any_stage, work, caplog)


def test_t10_lost_work_after_an_error(
    forgiving_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """So it does where an error before the work cost that statement alone."""
    assert_said(forgiving_stage, does(failing("NO SQL"), ADD), caplog)


def assert_said(stage: Stage, work: Work, caplog: pytest.LogCaptureFixture) -> None:
    before = stage.committed()
    conn = get_db_connection()
    work(conn)
    conn.close()
    (warning,) = warnings_in(caplog)
    assert "was rolled back: the connection taken at " + __file__ in warning
    assert "code outside a request" in warning
    assert stage.committed() == before


@pytest.mark.parametrize("work", NO_WRITES.values(), ids=NO_WRITES)
def test_t10_no_lost_work(any_stage: Stage, work: Work, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing is lost, there is no warning."""
    conn = get_db_connection()
    work(conn)
    conn.close()
    assert not lost(caplog)


SERVER_WRITES: dict[str, Work] = {
    "call": does("CALL put()"),
    "callproc": lambda conn: conn.cursor().callproc("put", ()),
    "after a temporary table": does("CREATE TEMPORARY TABLE x (a INT)", ADD),
    "after DDL": does(DDL, ADD),
    "chained": does(ADD, "COMMIT AND CHAIN", ADD),
}
SERVER_READS: dict[str, Work] = {
    "for update": does("SELECT * FROM accounts FOR UPDATE"),
    "show": does("SHOW TABLES"),
    "set": does("SET @x = 1"),
    "use": does("USE information_schema"),
    "names": does("SET NAMES utf8mb4"),
    "begin": does("BEGIN"),
    "start": does("START TRANSACTION", READ),
    "DDL": does(DDL),
    "read after DDL": does(DDL, READ),
    "committed by DDL": does(ADD, DDL, READ),
    "failed DDL": does(ADD, failing("CREATE TABLE accounts (a INT)"), READ),
    "chained": does(ADD, "COMMIT AND CHAIN", READ),
    "autocommit by text": does("SET autocommit=1", ADD),
    "a procedure that commits": does("CALL put_and_commit()"),
    "temporary table": does("CREATE TEMPORARY TABLE x (a INT)"),
    "select_db": lambda conn: conn.select_db(run(conn, "SELECT DATABASE()")[0][0]),
    "savepoint": does("SAVEPOINT a", READ),
    "error of a routine": does(failing("SIGNAL SQLSTATE '45000'")),
}


@pytest.fixture
def routines(stage: ServerStage) -> ServerStage:
    """A stage with procedures."""
    name = f"`{stage.database}`"
    body = f"UPDATE {name}.accounts SET balance = balance + 1"
    stage.server.execute(f"CREATE PROCEDURE {name}.put() {body}")
    stage.server.execute(f"CREATE PROCEDURE {name}.put_and_commit() BEGIN {body}; COMMIT; END")
    return stage


@pytest.mark.parametrize("work", SERVER_WRITES.values(), ids=SERVER_WRITES)
def test_t10_lost_work_on_mariadb(
    routines: ServerStage, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    """What a procedure wrote, and what came after text that committed, is lost work, too."""
    conn = get_db_connection()
    work(conn)
    conn.close()
    assert len(lost(caplog)) == 1


@pytest.mark.parametrize(
    "statements",
    [
        ("BEGIN", ADD, "COMMIT"),
        (ADD, "COMMIT"),
        (ADD, "ROLLBACK"),
        (ADD, "START TRANSACTION", ADD, "COMMIT"),
    ],
)
def test_t10_transactions_by_text(
    any_stage: Stage, statements: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever borrows a connection may begin and end transactions by text: no word is said."""
    if any_stage.driver in ON_FILES:
        statements = tuple(sql.replace("START TRANSACTION", "SAVEPOINT a") for sql in statements)
    conn = get_db_connection()
    does(*statements)(conn)
    conn.close()
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("work", SERVER_READS.values(), ids=SERVER_READS)
def test_t10_no_lost_work_on_mariadb(
    routines: ServerStage, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader that locks or sets something has lost nothing, and DDL commits what it does."""
    conn = get_db_connection()
    work(conn)
    conn.close()
    assert not lost(caplog)


SQLITE_READS = ["PRAGMA table_info(accounts)", "PRAGMA foreign_keys", "BEGIN", "ANALYZE", "VACUUM"]


@pytest.mark.parametrize("sql", SQLITE_READS)
def test_t10_no_lost_work_on_sqlite(
    sqlite_stage: Stage, sql: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Statements of SQLite's that return nothing and write no row cause no warning."""
    conn = get_db_connection()
    run(conn, sql)
    conn.close()
    assert warnings_in(caplog) == []


def test_t10_lost_blob(sqlite_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """What is written to a blob in a transaction is lost work; reading one is not."""
    with get_db_connection() as conn:
        conn.execute("CREATE TABLE b (x BLOB)")
        conn.execute("INSERT INTO b VALUES (zeroblob(3))")
    for is_written in (False, True):
        conn = get_db_connection()
        conn.execute("BEGIN")
        with conn.blobopen("b", "x", 1, readonly=not is_written) as blob:
            if is_written:
                blob.write(b"abc")
            else:
                assert blob.read() == bytes(3)
        conn.close()
        assert len(warnings_in(caplog)) == is_written


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a PostgreSQL server of this module's own."""
    with postgres() as url:
        yield url


def put_in_block(conn: Any) -> None:
    with conn.transaction():
        conn.execute("INSERT INTO t VALUES (1)")


def copy_in(conn: Any) -> None:
    with conn.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write_row((1,))


def read_named(conn: Any) -> None:
    with conn.cursor("named") as cur:
        cur.execute("SELECT 1")
        cur.fetchall()


def copy_out(conn: Any) -> None:
    with conn.cursor().copy("COPY t TO STDOUT") as copy:
        assert list(copy) == []


PG_WRITES: dict[str, Work] = {
    "insert": does("INSERT INTO t VALUES (1)"),
    "returning": does("INSERT INTO t VALUES (1) RETURNING id"),
    "with": does("WITH n AS (INSERT INTO t VALUES (1) RETURNING id) TABLE n"),
    "DDL": does("CREATE TABLE made (id INT)"),
    "call": does("CALL put()"),
    "do": does("DO $$ BEGIN INSERT INTO t VALUES (1); END $$"),
    "notify": does("NOTIFY c"),
}
PG_READS: dict[str, Work] = {
    "for update": does("SELECT * FROM t FOR UPDATE"),
    "set": does("SET search_path TO public"),
    "show": does("SHOW search_path"),
    "temporary": does("CREATE TEMP TABLE x (a INT)"),
    "failed": does(failing("INSERT INTO nowhere VALUES (1)")),
    "committed by text": does("INSERT INTO t VALUES (1)", "COMMIT"),
}
PSYCOPG_WRITES: dict[str, Work] = {
    "composed": lambda conn: conn.execute(psycopg.sql.SQL("INSERT INTO t VALUES (1)")),
    "bytes": lambda conn: conn.execute(b"INSERT INTO t VALUES (1)"),
    "stream": lambda conn: list(conn.cursor().stream("INSERT INTO t VALUES (1) RETURNING id")),
    "many": lambda conn: conn.cursor().executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)]),
    "transaction": put_in_block,
    "copy": copy_in,
}
PSYCOPG_READS: dict[str, Work] = {
    "composed": lambda conn: conn.execute(psycopg.sql.SQL("SELECT 1")).fetchall(),
    "composed set": lambda conn: conn.execute(psycopg.sql.SQL("SET search_path TO public")),
    "copy": copy_out,
    "stream": lambda conn: list(conn.cursor().stream("SELECT 1")),
    "named": read_named,
}


@contextlib.contextmanager
def borrowed(url: str, module: str) -> Iterator[Any]:
    """A connection to PostgreSQL, closed at the end, and an empty table `t`."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as own:
        own.execute("DROP TABLE IF EXISTS t, made")
        own.execute("CREATE TABLE t (id INT)")
        own.execute("CREATE OR REPLACE PROCEDURE put() LANGUAGE SQL AS 'INSERT INTO t VALUES (1)'")
    found = {"url": url} if module == "psycopg" else keys(MODULES[module], url)
    with pooled_app(maxconnections=1, **found):
        conn = get_db_connection()
        yield conn
        conn.close()


@pytest.mark.parametrize("module", ["psycopg", *MODULES])
@pytest.mark.parametrize("work", PG_WRITES.values(), ids=PG_WRITES)
def test_t10_lost_work_on_postgresql(
    url: str, module: str, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL's drivers: lost work is said, DDL included, which is part of the transaction."""
    with borrowed(url, module) as conn:
        work(conn)
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("module", ["psycopg", *MODULES])
@pytest.mark.parametrize("work", PG_READS.values(), ids=PG_READS)
def test_t10_no_lost_work_on_postgresql(
    url: str, module: str, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL's drivers: who only reads is not warned."""
    with borrowed(url, module) as conn:
        work(conn)
    assert not lost(caplog)


@pytest.mark.parametrize("work", PSYCOPG_WRITES.values(), ids=PSYCOPG_WRITES)
def test_t10_lost_work_of_psycopg(url: str, work: Work, caplog: pytest.LogCaptureFixture) -> None:
    """psycopg's own ways to write are known."""
    with borrowed(url, "psycopg") as conn:
        work(conn)
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("work", PSYCOPG_READS.values(), ids=PSYCOPG_READS)
def test_t10_no_lost_work_of_psycopg(
    url: str, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    """psycopg's own ways to read cause no warning."""
    with borrowed(url, "psycopg") as conn:
        work(conn)
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("kind", ["psycopg2 from", "psycopg2 to", "pg8000"])
def test_t10_lost_copy_of_others(url: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """COPY into the database by the other drivers is lost work, and COPY out of it is not."""
    module, _, direction = kind.partition(" ")
    with borrowed(url, module) as conn:
        if direction == "to":
            conn.cursor().copy_to(io.StringIO(), "t")
        elif direction:
            conn.cursor().copy_from(io.StringIO("1\n"), "t")
        else:
            conn.cursor().execute("COPY t FROM STDIN", stream=io.BytesIO(b"1\n"))
    assert len(warnings_in(caplog)) == (direction != "to")


# An error on the way


def test_t10_close_after_an_error(any_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Who closes the connection because of an error wants it to be rolled back."""

    def work() -> None:
        conn = get_db_connection()
        try:
            add(conn, 1, -10)
            raise LookupError
        finally:
            conn.close()

    with pytest.raises(LookupError):
        work()
    with contextlib.suppress(LookupError), get_db_connection() as conn:
        add(conn, 1, -10)
        raise LookupError
    assert warnings_in(caplog) == []
    assert any_stage.committed() == UNTOUCHED


def test_t10_close_in_error_handler(sqlite_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The work of an error handler is lost work, though an exception is being handled."""
    try:
        raise LookupError
    except LookupError:
        conn = get_db_connection()
        add(conn, 1, -10)
        conn.close()
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("writes_before", [False, True])
def test_t10_write_in_error_handler(
    any_stage: Stage, writes_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """So it is on a connection that was taken before the exception, whatever was written then."""
    conn = get_db_connection()
    if writes_before:
        add(conn, 1, -10)
    try:
        raise LookupError
    except LookupError:
        add(conn, 2, 10)
        conn.close()
    assert len(warnings_in(caplog)) == 1


DEADLOCK = "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'"


@pytest.mark.parametrize("how", ["deadlock", "lost connection"])
def test_t10_lost_work_after_swallowed_error(
    stage: ServerStage, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Work is lost work also if an error that nobody looked at has undone it."""
    conn = get_db_connection()
    add(conn, 1, -10)
    if how == "lost connection":
        stage.kill(conn)
    with contextlib.suppress(conn.Error):
        run(conn, DEADLOCK if how == "deadlock" else "SELECT 1")
    conn.close()
    assert len(warnings_in(caplog)) == 1
    assert stage.committed() == UNTOUCHED


@pytest.mark.parametrize("module", ["psycopg", *MODULES])
def test_t10_lost_work_after_swallowed_error_on_postgresql(
    url: str, module: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On PostgreSQL any error has."""
    with borrowed(url, module) as conn:
        run(conn, "INSERT INTO t VALUES (1)")
        with contextlib.suppress(Exception):
            run(conn, "SELECT * FROM none_such")
    assert len(warnings_in(caplog)) == 1


def test_t10_failed_commit_is_told(stage: ServerStage, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing more is said of work whose COMMIT has failed: its caller had an error."""
    conn = get_db_connection()
    add(conn, 1, -10)
    stage.kill(conn)
    with contextlib.suppress(conn.Error, TransactionAborted):
        conn.commit()
    conn.close()
    assert [text for text in warnings_in(caplog) if "was rolled back: the" in text] == []


def test_t10_lost_work_closed_by_another(
    sqlite_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread that took the connection is named, not the one that closes it."""
    taken: list[Any] = []
    may_end = threading.Event()

    def work() -> None:
        with sqlite_stage.app.app_context():
            conn = get_db_connection()
            add(conn, 1, -10)
            taken.append(conn)
            assert may_end.wait(PATIENCE)

    thread = threading.Thread(target=work, name="taker")
    thread.start()
    wait_until(lambda: taken)
    taken.pop().close()
    may_end.set()
    thread.join()
    (warning,) = warnings_in(caplog)
    assert "by thread 'taker'" in warning


def test_t10_lost_work_once_a_place(sqlite_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A place is named once, and its line is bounded whatever it does."""
    for _ in range(5):
        conn = get_db_connection()
        add(conn, 1, -10)
        conn.close()
    assert len(warnings_in(caplog)) == 1
    assert notices.PAUSE == 60


def test_t10_lost_work_of_thread(sqlite_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A thread is named."""

    def work() -> None:
        with sqlite_stage.app.app_context():
            conn = get_db_connection()
            add(conn, 1, -10)
            conn.close()

    thread = threading.Thread(target=work, name="nightly")
    thread.start()
    thread.join()
    (warning,) = warnings_in(caplog)
    assert "by thread 'nightly'" in warning


# The end of a block


def test_t5_block_outcome_unknown(stage: ServerStage) -> None:
    """`with get_db_connection()` raises `CommitOutcomeUnknown` if the answer to COMMIT is lost."""

    def work() -> None:
        with get_db_connection() as conn:
            add(conn, 1, -10)
            stage.proxy.hold_replies_to(b"COMMIT")

    with pytest.raises(CommitOutcomeUnknown):
        work()


def test_t4_block_lost(stage: ServerStage) -> None:
    """`with get_db_connection()` whose transaction was lost ends in an error, also if the first one
    was swallowed.
    """

    def work() -> None:
        with get_db_connection() as conn:
            add(conn, 1, -10)
            stage.kill(conn)
            with contextlib.suppress(conn.Error):
                add(conn, 2, 10)

    with pytest.raises(TransactionAborted):
        work()
    assert stage.committed() == UNTOUCHED


def test_t1_block_of_dbutils(any_stage: Stage) -> None:
    """`with pool.connection()` commits, as every block does."""
    with any_stage.db.pool().connection() as conn:
        add(conn, 1, -10)
        add(conn, 2, 10)
    assert any_stage.committed() == MOVED


def test_t10_lost_work_on_mysql_connector(
    mariadb: MariaDBServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A module that the package does not know is warned of by its statements' texts."""
    database = mariadb.create_database()
    mariadb.execute(f"CREATE TABLE `{database}`.accounts (id INT, balance INT)")
    arguments = mariadb.connect_args(database)
    with pooled_app(creator=mysql.connector, connect_args=arguments):
        for sql in ("SELECT * FROM accounts", "CREATE TABLE made (a INT)", INSERT):
            conn = get_db_connection()
            run(conn, sql)
            conn.close()
            assert len(warnings_in(caplog)) == (sql == INSERT)


def test_p13_driver_that_can_not_tell(sqlite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails when it is asked for the transaction fails no statement and no return."""

    def fail(*_: object) -> bool:
        raise LookupError

    kept: list[Any] = []
    driver = sqlite_stage.db.pool().driver
    with monkeypatch.context() as patch:
        conn = get_db_connection()
        kept.append(conn)
        add(conn, 1, -10)
        patch.setattr(driver, "in_transaction", fail)
        add(conn, 1, -10)
        conn.close()
    assert sqlite_stage.db.stats().in_use == 0
    assert sqlite_stage.committed() == UNTOUCHED
