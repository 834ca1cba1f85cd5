"""T1, T4 and T5 for modules that the package does not know: what an error does to a transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mysql.connector
import psycopg
import psycopg2
import psycopg2.extensions
import pytest
from flask import Flask

from flask_pooled_db import (
    CommitOutcomeUnknown,
    PooledDB,
    TransactionAborted,
    db_connection_context,
    get_db_connection,
)
from harness.server import MariaDBServer
from tests.drivers.generic import MODULES, keys, value
from tests.support.apps import pooled_app
from tests.support.rawdb import rawdb

App = tuple[Flask, PooledDB]


class Blind:
    """A connection to SQLite that says nothing of its transaction."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        for name in ("commit", "rollback", "close", "cursor"):
            setattr(self, name, getattr(raw, name))


def blind() -> ModuleType:
    """A module whose connections say nothing of their transactions."""
    module = rawdb()
    connect = module.connect
    module.connect = lambda **arguments: Blind(connect(**arguments))  # type: ignore[attr-defined]
    return module


@pytest.fixture(scope="module")
def url(postgresql: str) -> str:
    """The URL of an empty database on PostgreSQL."""
    return postgresql


def made(**found: Any) -> Iterator[App]:
    with pooled_app(**found) as pair:
        with db_connection_context() as conn:
            run(conn, "DROP TABLE IF EXISTS t")
            run(conn, "CREATE TABLE t (id INT PRIMARY KEY)")
        yield pair


@pytest.fixture(params=[*MODULES, "blind"])
def app(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[App]:
    """An app with an empty table `t`, on each module."""
    if request.param == "blind":
        yield from made(creator=blind(), connect_args={"database": str(tmp_path / "t.db")})
    else:
        yield from made(**keys(MODULES[request.param], url))


@pytest.fixture(params=MODULES)
def pg_app(request: pytest.FixtureRequest, url: str) -> Iterator[App]:
    """An app with an empty table `t` on PostgreSQL, on each module."""
    yield from made(**keys(MODULES[request.param], url))


def run(conn: Any, sql: str) -> None:
    conn.cursor().execute(sql)


def insert(conn: Any, number: int) -> None:
    run(conn, f"INSERT INTO t VALUES ({number})")


def insert_all(conn: Any, *numbers: int, how: str = "INSERT") -> None:
    """Insert rows, of which the last one fails."""
    for number in numbers:
        run(conn, f"{how} INTO t VALUES ({number})")


def insert_all_without_savepoint(*numbers: int) -> None:
    with db_connection_context(savepoint=False) as conn:
        insert_all(conn, *numbers)


def insert_twice(conn: Any, number: int) -> None:
    """Insert a row, and swallow the error of inserting it once more."""
    insert(conn, number)
    with pytest.raises(conn.DatabaseError, match=r"(?i)unique"):
        insert(conn, number)


def rows() -> list[int]:
    """What was committed."""
    with db_connection_context() as conn:
        cur = conn.cursor()
        cur.execute("SELECT id FROM t ORDER BY id")
        return [row[0] for row in cur.fetchall()]


def test_t4_swallowed_error(app: App) -> None:
    """A block that swallowed an error raises at its end, where PostgreSQL would turn COMMIT into
    ROLLBACK without a word; its connection is used again.
    """

    def swallow() -> None:
        with db_connection_context() as conn:
            insert_twice(conn, 1)

    with pytest.raises(TransactionAborted):
        swallow()
    assert rows() == []
    assert app[1].stats().discarded == 0


def test_t4_after_swallowed_error(app: App) -> None:
    """After a swallowed error every further statement is refused, up to a rollback()."""
    with db_connection_context() as conn:
        insert_twice(conn, 1)
        with pytest.raises(TransactionAborted):
            insert(conn, 2)
        with pytest.raises(TransactionAborted):
            conn.commit()
        conn.rollback()
        insert(conn, 3)
    assert rows() == [3]


def test_t4_get_db_connection(app: App) -> None:
    """So it is without a block."""
    conn = get_db_connection()
    insert_twice(conn, 1)
    with pytest.raises(TransactionAborted):
        conn.commit()
    conn.rollback()
    insert(conn, 2)
    conn.commit()
    conn.close()
    assert rows() == [2]


def test_nested_block_survives_error(app: App) -> None:
    """An error that leaves a nested block costs that block alone."""
    with db_connection_context() as conn:
        insert(conn, 1)
        with pytest.raises(conn.DatabaseError), db_connection_context() as inner:
            insert_all(inner, 2, 1)
        insert(conn, 3)
        with pytest.raises(conn.DatabaseError), db_connection_context() as inner:
            insert(inner, 1)
        insert(conn, 4)
    assert rows() == [1, 3, 4]
    assert app[1].stats().discarded == 0


def test_t4_error_swallowed_in_nested_block(app: App) -> None:
    """A nested block that swallowed an error raises at its end, and so does the outer one if it
    swallows that too; a block between them undoes it.
    """

    def swallow(conn: Any) -> None:
        insert(conn, 3)
        with db_connection_context() as inner:
            insert_twice(inner, 2)

    def swallow_twice() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            with pytest.raises(TransactionAborted):
                swallow(conn)

    with pytest.raises(TransactionAborted):
        swallow_twice()
    assert rows() == []
    with db_connection_context() as conn:
        insert(conn, 1)
        with pytest.raises(TransactionAborted), db_connection_context() as middle:
            swallow(middle)
        insert(conn, 4)
    assert rows() == [1, 4]


def test_t4_block_without_savepoint(app: App) -> None:
    """An error that leaves a block without a savepoint costs the whole transaction, whatever
    savepoints there are around it.
    """

    def fail() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            with pytest.raises(conn.DatabaseError), db_connection_context():
                insert_all_without_savepoint(2, 2)
            survived.append(1)
            with pytest.raises(TransactionAborted):
                insert(conn, 3)

    survived: list[int] = []
    with pytest.raises(TransactionAborted):
        fail()
    assert survived
    assert rows() == []


def test_t4_error_before_nested_block(app: App) -> None:
    """An error of the outer block is not undone by a later block's savepoint."""

    def fail() -> None:
        with db_connection_context() as conn:
            insert_twice(conn, 1)
            with pytest.raises(TransactionAborted), db_connection_context() as inner:
                insert(inner, 2)

    with pytest.raises(TransactionAborted):
        fail()
    assert rows() == []


def test_error_outside_transaction(pg_app: App) -> None:
    """An error without a transaction costs nothing."""
    with db_connection_context() as conn:
        insert(conn, 1)
        conn.commit()
        with pytest.raises(conn.Error):
            conn.cursor().fetchone()
    assert rows() == [1]


def test_t4_transaction_that_is_gone(tmp_path: Path) -> None:
    """Where the server has rolled back by itself, no savepoint brings the transaction back."""

    def fail() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            with pytest.raises(sqlite3.IntegrityError), db_connection_context() as inner:
                insert_all(inner, 2, 1, how="INSERT OR ROLLBACK")
            with pytest.raises(TransactionAborted):
                insert(conn, 3)
            survived.append(1)

    survived: list[int] = []
    for module in (blind(), rawdb()):
        arguments = {"database": str(tmp_path / "t.db")}
        for _ in made(creator=module, connect_args=arguments):
            with pytest.raises(TransactionAborted):
                fail()
            assert rows() == []
    assert len(survived) == 2


# What PostgreSQL's modules tell


DEFERRED = """CREATE TABLE IF NOT EXISTS parent (id INT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS child (id INT REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"""


@pytest.mark.parametrize("end", ["the block's end", "commit()", "COMMIT"])
def test_t5_refused_commit(pg_app: App, end: str) -> None:
    """A COMMIT that the server refuses has a known outcome: the driver's error, and nothing of the
    transaction. The connection is used again.
    """
    with db_connection_context() as conn:
        for statement in DEFERRED.split(";"):
            run(conn, statement)

    def fail() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            run(conn, "INSERT INTO child VALUES (1)")
            if end == "commit()":
                conn.commit()
            elif end == "COMMIT":
                with pytest.raises(conn.DatabaseError):
                    run(conn, "COMMIT")

    expected = TransactionAborted if end == "COMMIT" else pg_app[1].pool().driver.Error
    with pytest.raises(expected):
        fail()
    assert rows() == []
    assert pg_app[1].stats().discarded == 0


def test_t5_serialization_failure(pg_app: App) -> None:
    """run_transaction() starts over after a COMMIT that failed for another transaction."""
    tries = []

    def work(conn: Any) -> None:
        tries.append(1)
        run(conn, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        value(conn, "SELECT count(*) FROM t")
        insert(conn, 10 + len(tries))
        if len(tries) == 1:
            with db_connection_context(independent=True) as other:
                run(other, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                value(other, "SELECT count(*) FROM t")
                insert(other, 1)

    pg_app[1].run_transaction(work)
    assert rows() == [1, 12]


def test_t4_terminated_in_transaction(pg_app: App) -> None:
    """A connection that the server ended is lost, also where the module's status is out of date."""

    def fail() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            with pytest.raises(conn.Error):
                run(conn, "SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(TransactionAborted):
        fail()
    assert rows() == []
    assert pg_app[1].stats().discarded == 1


def convert(conn: Any) -> None:
    conn.cursor().execute("SELECT %s", (object(),))


def leave_key_out(conn: Any) -> None:
    conn.cursor().execute("SELECT %(a)s", {"b": 1})


def send_surrogate(conn: Any) -> None:
    conn.cursor().execute("SELECT %s", ("\udc80",))


def fetch_nothing(conn: Any) -> None:
    conn.cursor().fetchone()


def scroll_too_far(conn: Any) -> None:
    cursor = conn.cursor()
    cursor.execute("SELECT 1")
    cursor.scroll(9)


@pytest.mark.parametrize("is_first", [True, False], ids=["at first", "later"])
@pytest.mark.parametrize(
    "misuse", [convert, leave_key_out, send_surrogate, fetch_nothing, scroll_too_far]
)
@pytest.mark.parametrize("module", [psycopg, psycopg2], ids=lambda module: module.__name__)
def test_t4_refused_by_module(
    url: str, module: Any, misuse: Callable[[Any], None], is_first: bool
) -> None:
    """What a module refuses before it sends anything costs nothing, whatever it raises."""
    arguments = {**keys(psycopg2, url)["connect_args"]}
    arguments["dbname"] = arguments.pop("database")
    for _, db in made(creator=module, connect_args=arguments):
        with db_connection_context() as conn:
            if not is_first:
                insert(conn, 1)
            with pytest.raises((module.Error, LookupError, UnicodeError)):
                misuse(conn)
            insert(conn, 2)
        assert rows() == ([2] if is_first else [1, 2])
        assert db.stats().discarded == 0


class Traced(psycopg2.extensions.connection):  # type: ignore[misc]  # it has no types
    """A connection whose tracer fails after COMMIT."""

    def commit(self) -> None:
        super().commit()
        raise LookupError


def test_t5_exception_after_commit(url: str) -> None:
    """An exception that is not the module's says nothing of the outcome of COMMIT."""
    for _ in made(**keys(psycopg2, url)):
        found = keys(psycopg2, url)
        found["connect_args"]["connection_factory"] = Traced
        with pooled_app(**found):
            with pytest.raises(CommitOutcomeUnknown), db_connection_context() as conn:
                insert(conn, 1)
        assert rows() == [1]


def test_t6_interrupted_in_the_middle(url: str) -> None:
    """An exception in the middle of a statement costs the connection, also one that is not the
    module's.
    """

    def fail() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            with pytest.raises(ZeroDivisionError):
                conn.cursor().execute("SELECT pg_sleep(20)")

    def wait(raw: Any) -> None:
        if raw.poll() != psycopg2.extensions.POLL_OK:
            time.sleep(0.1)
            raise ZeroDivisionError

    for _, db in made(**keys(psycopg2, url)):
        with db_connection_context() as conn:
            conn.commit()
        psycopg2.extensions.set_wait_callback(wait)
        try:
            with pytest.raises((TransactionAborted, ZeroDivisionError)):
                fail()
        finally:
            psycopg2.extensions.set_wait_callback(None)
        assert rows() == []
        assert db.stats().discarded == 1


def test_t4_statement_timeout(url: str) -> None:
    """A statement that exceeded its limit dooms its transaction."""

    def fail() -> None:
        with db_connection_context(statement_timeout=0.1) as conn:
            insert(conn, 1)
            with pytest.raises(conn.OperationalError):
                run(conn, "SELECT pg_sleep(20)")

    for _ in made(**keys(psycopg2, url)):
        with pytest.raises(TransactionAborted):
            fail()
        assert rows() == []


def test_t4_error_of_share(url: str) -> None:
    """What dooms one lease of a shared connection dooms the others that take part."""
    for _ in made(**keys(psycopg2, url), maxshared=1):
        pass
    with pooled_app(**keys(psycopg2, url), maxshared=1):
        first, second = (get_db_connection(shareable=True) for _ in range(2))
        insert(second, 1)
        insert_twice(first, 2)
        with pytest.raises(TransactionAborted):
            second.commit()
        second.rollback()
        first.rollback()
        insert(second, 3)
        second.commit()
        first.close()
        second.close()
        assert rows() == [3]


# MySQL's modules


@pytest.fixture
def mysql_app(mariadb: MariaDBServer, database: str) -> Iterator[App]:
    """An app with an empty table `t` on MariaDB, through a module that is not known."""
    arguments = {**mariadb.connect_args(database), "use_pure": True}
    yield from made(creator=mysql.connector, connect_args=arguments)


def test_t4_mysql_undoes_statement(mysql_app: App) -> None:
    """With MySQL, an error in a statement costs that statement alone."""
    with db_connection_context() as conn:
        with pytest.raises(conn.ProgrammingError):
            run(conn, "SELECT * FROM nowhere")
        insert(conn, 1)
        with pytest.raises(conn.IntegrityError):
            insert(conn, 1)
        insert(conn, 2)
    assert rows() == [1, 2]


def test_t4_mysql_rolled_back_by_handler(mysql_app: App) -> None:
    """A routine's handler may roll back and raise any error: where the connection can tell, it is
    asked.
    """

    def fail() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            with pytest.raises(conn.IntegrityError):
                run(conn, "CALL take_back()")
            insert(conn, 2)

    with db_connection_context() as conn:
        run(
            conn,
            "CREATE PROCEDURE take_back() BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION "
            "BEGIN ROLLBACK; RESIGNAL; END; INSERT INTO t VALUES (3), (3); END",
        )
    with pytest.raises(TransactionAborted):
        fail()
    assert rows() == []
    with db_connection_context() as conn:
        with pytest.raises(conn.IntegrityError):
            run(conn, "CALL take_back()")
        insert(conn, 4)
    assert rows() == [4]


def leave_unread(conn: Any) -> Any:
    insert(conn, 1)
    cur = conn.cursor()
    cur.execute("SELECT 1")
    return cur


@pytest.mark.parametrize("end", [lambda conn: conn.commit(), lambda _: None])
def test_t5_commit_never_sent(mysql_app: App, end: Callable[[Any], None]) -> None:
    """A COMMIT that the module refused for unread rows has a known outcome: its error, and nothing
    of the transaction.
    """

    def fail() -> None:
        with db_connection_context() as conn:
            _cursor = leave_unread(conn)
            end(conn)

    with pytest.raises(mysql.connector.InternalError, match="Unread result") as caught:
        fail()
    assert not isinstance(caught.value, CommitOutcomeUnknown)
    assert rows() == []


def test_t4_statement_never_sent(mysql_app: App) -> None:
    """A statement that the module refused for unread rows costs nothing."""
    with db_connection_context() as conn:
        cur = leave_unread(conn)
        with pytest.raises(mysql.connector.InternalError):
            insert(conn, 2)
        cur.fetchall()
        insert(conn, 3)
    assert rows() == [1, 3]


PROCEDURES = {
    "undo": "ROLLBACK",
    "undo_and_go_on": "ROLLBACK; START TRANSACTION; INSERT INTO t VALUES (100)",
    "keep": "COMMIT",
}


@pytest.fixture
def procedures(mysql_app: App) -> None:
    """Procedures that end the transaction, beside the table `t`."""
    with db_connection_context() as conn:
        for name, body in PROCEDURES.items():
            run(conn, f"CREATE PROCEDURE p_{name}() BEGIN {body}; END")


@pytest.mark.usefixtures("procedures")
@pytest.mark.parametrize("name", PROCEDURES)
@pytest.mark.parametrize("goes_on", [True, False])
def test_t4_mysql_ended_by_procedure(name: str, goes_on: bool) -> None:
    """A procedure that ends the transaction and succeeds ends the block in an error."""

    def work() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            run(conn, f"CALL p_{name}()")
            if goes_on:
                insert(conn, 2)

    with pytest.raises(TransactionAborted, match="CALL"):
        work()
    assert rows() == ([1] if name == "keep" else [])


SEVERAL = "INSERT INTO t VALUES (1); SELECT 1; INSERT INTO t VALUES ({})"


def end_block(conn: Any) -> None:
    """Do nothing more."""


def go_on(conn: Any) -> None:
    insert(conn, 3)
    cur = conn.cursor()
    cur.execute("SELECT COUNT(*) FROM t")
    assert cur.fetchall() == [(3,)]


@pytest.mark.usefixtures("mysql_app")
@pytest.mark.parametrize(("then", "kept"), [(end_block, [1, 2]), (go_on, [1, 2, 3])])
def test_t1_mysql_results_nobody_read(then: Callable[[Any], None], kept: list[int]) -> None:
    """Results that nobody asked for are read before the next statement, and before COMMIT: what
    they end with is raised.
    """
    with db_connection_context() as conn:
        run(conn, SEVERAL.format(2))
        then(conn)
    assert rows() == kept

    def fail() -> None:
        with db_connection_context() as conn:
            run(conn, SEVERAL.format("1000), (1"))
            then(conn)

    with db_connection_context() as conn:
        run(conn, "DELETE FROM t")
    with pytest.raises(mysql.connector.IntegrityError):
        fail()
    assert rows() == []


@pytest.mark.usefixtures("mysql_app")
def test_t1_mysql_own_connection_after_commit() -> None:
    """What is written with the driver's own connection after `commit()` is committed too."""
    with db_connection_context() as conn:
        own = conn.dbapi_connection
        insert(conn, 1)
        conn.commit()
        run(own, "INSERT INTO t VALUES (2)")
    assert rows() == [1, 2]


@pytest.mark.usefixtures("mysql_app")
def test_t10_mysql_committed_before_error() -> None:
    """A procedure that commits and fails is not said to have committed nothing."""
    with db_connection_context() as conn:
        run(conn, "CREATE PROCEDURE p() BEGIN COMMIT; SIGNAL SQLSTATE '45000'; END")

    def fail() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            with pytest.raises(conn.Error):
                run(conn, "CALL p()")
            insert(conn, 2)

    with pytest.raises(TransactionAborted, match="may have committed"):
        fail()
    assert rows() == [1]
