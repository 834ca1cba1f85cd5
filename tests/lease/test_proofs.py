"""T4: what an error proves. What was not sent costs nothing; what may have ended the transaction
ends the block.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import TransactionAborted
from harness.server import MariaDBServer
from harness.workloads import add, connection_id, run
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import ON_SHARED_SERVER, UNTOUCHED, ServerStage, on_server

SURROGATE = "a\ud800b"
INSERT = "INSERT INTO accounts VALUES (%s, %s)"


@pytest.fixture(params=ON_SHARED_SERVER)
def proof_stage(request: pytest.FixtureRequest, mariadb: MariaDBServer) -> Iterator[ServerStage]:
    """Each driver in turn."""
    with on_server("ours", mariadb, request.param) as stage:
        yield stage


class Unwilling:
    """A parameter that is no text."""

    def __str__(self) -> str:
        raise LookupError("the app's own")


class Unencodable:
    """A parameter whose text, and what it is represented by, can't be encoded."""

    def __str__(self) -> str:
        return SURROGATE

    __repr__ = __str__


def parameters() -> Iterator[tuple[int, int]]:
    yield (8, 0)
    raise LookupError("the app's own")


MISUSES: dict[str, Callable[[Any, Any], Any]] = {
    "fetchall without a result": lambda connection, cursor: (
        cursor.execute("DO 0"),
        cursor.fetchall(),
        cursor.execute("NO SQL") if cursor.rowcount else None,
    ),
    "short row": lambda _, cursor: cursor.executemany(INSERT, [(8, 0), (9,)]),
    "long row": lambda _, cursor: cursor.executemany(INSERT, [(8, 0), (9, 0, 0)]),
    "no row": lambda _, cursor: cursor.executemany(INSERT, [8, 9]),
    "rows that fail": lambda _, cursor: cursor.executemany(INSERT, parameters()),
    "missing key": lambda _, cursor: cursor.execute("SELECT %(a)s", {"b": 1}),
    "missing key of many": lambda _, cursor: cursor.executemany(
        "INSERT INTO accounts VALUES (%(a)s, 0)", [{"a": 8}, {"b": 9}]
    ),
    "too few": lambda _, cursor: cursor.execute("SELECT %s, %s", (1,)),
    "too many": lambda _, cursor: cursor.execute("SELECT %s", (1, 2)),
    "no parameters": lambda _, cursor: cursor.execute("SELECT %s", 5.0),
    "surrogate": lambda _, cursor: cursor.execute("SELECT %s", (SURROGATE,)),
    "surrogate of a key": lambda _, cursor: cursor.execute("SELECT %(a)s", {"a": SURROGATE}),
    "surrogate in the statement": lambda _, cursor: cursor.execute(f"SELECT '{SURROGATE}'"),
    "surrogate in many": lambda _, cursor: cursor.executemany(INSERT, [(8, 0), (SURROGATE, 0)]),
    "surrogate in a procedure": lambda _, cursor: cursor.callproc("nothing", (SURROGATE,)),
    "surrogate in a name": lambda _, cursor: cursor.callproc(SURROGATE),
    "path that is no UTF-8": lambda _, cursor: cursor.executemany(
        INSERT, [(Path(os.fsdecode(b"caf\xe9")), 0)]
    ),
    "object in many": lambda _, cursor: cursor.executemany(INSERT, [(8, 0), (Unencodable(), 0)]),
    "object in a list": lambda _, cursor: cursor.executemany(INSERT, [([Unencodable()], 0)]),
    "object of a key": lambda _, cursor: cursor.execute("SELECT %(a)s", {"a": Unencodable()}),
    "object": lambda _, cursor: cursor.execute("SELECT %s", (Unencodable(),)),
    "object in a procedure": lambda _, cursor: cursor.callproc("nothing", (Unencodable(),)),
    "unwilling in many": lambda _, cursor: cursor.executemany(INSERT, [(Unwilling(), 0)]),
    "dict": lambda _, cursor: cursor.execute("SELECT %s", ({"a": 1},)),
    "unwilling": lambda _, cursor: cursor.execute("SELECT %s + 0 * 'x'", (Unwilling(),)),
    "infinite": lambda _, cursor: cursor.execute("SELECT %s", (Decimal("sNaN"),)),
    "no statement": lambda _, cursor: cursor.execute(None),
    "number": lambda _, cursor: cursor.execute(123),
    "no argument": lambda _, cursor: cursor.execute(),
    "escape": lambda connection, _: connection.escape({"a": 1}),
    "escape_string": lambda connection, _: connection.escape_string({"a": 1}),
    "select_db": lambda connection, _: connection.select_db(SURROGATE),
    "kill": lambda connection, _: connection.kill("x"),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
@pytest.mark.parametrize("comes_first", [True, False])
def test_t4_nothing_was_sent(
    proof_stage: ServerStage, misuse: Callable[[Any, Any], Any], comes_first: bool
) -> None:
    """What fails before anything is sent costs nothing: the block goes on, the connection stays."""
    stage = proof_stage
    with stage.db.connection_context() as connection:
        number = connection_id(connection)
    with stage.db.connection_context() as connection:
        if not comes_first:
            add(connection, 1, -10)
        cursor = connection.cursor()
        with contextlib.suppress(Exception):
            misuse(connection, cursor)
        cursor.execute("SELECT 42")
        assert list(cursor.fetchall()) == [(42,)]
        if comes_first:
            add(connection, 1, -10)
        run(connection, "DELETE FROM accounts WHERE id IN (8, 9)")
        add(connection, 2, 10)
    assert stage.committed() == MOVED
    with stage.db.connection_context() as connection:
        if "select_db" not in str(misuse.__code__.co_names):  # it changes the session
            assert connection_id(connection) == number


def test_t4_failing_converter(mariadb: MariaDBServer) -> None:
    """A converter that fails while rows are read leaves the rest unread, so that the connection is
    given up, whatever the class of its error.
    """
    import pymysql
    from pymysql.constants import FIELD_TYPE

    def fail(value: object) -> None:
        raise pymysql.DataError("the app's own")

    conversions = {**pymysql.converters.conversions, FIELD_TYPE.LONGLONG: fail}
    arguments = {"conv": conversions}
    with on_server("ours", mariadb, "pymysql", CONNECT_ARGS=arguments) as stage:
        with must_raise(TransactionAborted):
            with stage.db.connection_context() as connection:
                add(connection, 1, -10)
                with pytest.raises(pymysql.DataError):
                    run(connection, "SELECT balance FROM accounts")
        assert stage.committed() == UNTOUCHED


# What ends the transaction


SIGNAL = "BEGIN NOT ATOMIC SIGNAL SQLSTATE '{}' SET MYSQL_ERRNO = {}; END"


@pytest.mark.mariadb_only
@pytest.mark.parametrize(("number", "state"), [(1206, "HY000"), (1213, "40001"), (1153, "08S01")])
def test_t4_numbers_that_end_transaction(proof_stage: ServerStage, number: int, state: str) -> None:
    """A full lock table, a deadlock and a packet that is too large end the transaction."""
    stage = proof_stage
    with must_raise(TransactionAborted):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with pytest.raises(connection.Error):
                run(connection, SIGNAL.format(state, number))
            add(connection, 2, 10)
    assert stage.committed() == UNTOUCHED


@pytest.mark.parametrize("megabytes", [18, 40])
def test_t4_packet_too_large(proof_stage: ServerStage, megabytes: int) -> None:
    """A statement that is larger than the server takes costs the connection."""
    stage = proof_stage
    with must_raise(TransactionAborted):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with pytest.raises(connection.Error):
                connection.cursor().execute("DO %s", ("x" * megabytes * 1_000_000,))
            add(connection, 2, 10)
    assert stage.committed() == UNTOUCHED


ROUTINES = {
    "undoes": "ROLLBACK; RESIGNAL",
    "undoes_and_logs": "ROLLBACK; INSERT INTO accounts VALUES (50, 0); RESIGNAL",
    "keeps_and_logs": "COMMIT; INSERT INTO accounts VALUES (50, 0); RESIGNAL",
}
FAILING = "PROCEDURE {}() BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN {}; END; {}; END"
DUPLICATE = "INSERT INTO accounts VALUES (3, 0)"
WAYS: dict[str, Callable[[Any, str], Any]] = {
    "call": lambda cursor, name: cursor.execute(f"CALL {name}()"),
    "comment": lambda cursor, name: cursor.execute(f"/* here */ CALL {name}()"),
    "callproc": lambda cursor, name: cursor.callproc(name),
    "immediate": lambda cursor, name: cursor.execute(f"EXECUTE IMMEDIATE 'CALL {name}()'"),
    "set statement": lambda cursor, name: cursor.execute(
        f"SET STATEMENT max_statement_time = 9 FOR CALL {name}()"
    ),
    "compound": lambda cursor, name: cursor.execute(f"BEGIN NOT ATOMIC CALL {name}(); END"),
    "later": lambda cursor, name: [cursor.execute(f"CALL later_{name}()"), cursor.nextset()],
}


@pytest.fixture
def routines(proof_stage: ServerStage) -> ServerStage:
    """The same with procedures whose handlers end the transaction, and one that just fails."""
    server = proof_stage.server
    server.execute(f"USE `{proof_stage.database}`")
    for name, handler in ROUTINES.items():
        server.execute(f"CREATE {FAILING.format(name, handler, DUPLICATE)}")
        server.execute(f"CREATE PROCEDURE later_{name}() BEGIN SELECT 1; CALL {name}(); END")
    server.execute(f"CREATE PROCEDURE refuse() BEGIN {DUPLICATE}; END")
    return proof_stage


@pytest.mark.mariadb_only
@pytest.mark.parametrize("name", ["undoes", "undoes_and_logs"])
@pytest.mark.parametrize("way", WAYS)
def test_t4_routine_rolls_back(routines: ServerStage, name: str, way: str) -> None:
    """A procedure that fails after it has rolled back ends the block, whatever its error's number,
    and also if it has begun another transaction.
    """
    stage = routines
    with must_raise(TransactionAborted):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with pytest.raises(connection.Error):
                WAYS[way](connection.cursor(), name)
            add(connection, 2, 10)
    assert stage.committed() == UNTOUCHED


@pytest.mark.parametrize("name", ROUTINES)
def test_t4_routine_in_nested_block(routines: ServerStage, name: str) -> None:
    """In a nested block the savepoint tells that the transaction is gone."""
    stage = routines
    with must_raise(TransactionAborted):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with must_raise(Exception):
                with stage.db.connection_context() as inner:
                    inner.cursor().callproc(name)
            add(connection, 2, 10)
    found = stage.committed()
    assert found[2] == UNTOUCHED[2]
    assert 50 not in found


def test_t4_routine_swallowed_in_nested_block(routines: ServerStage) -> None:
    """The same if the nested block swallows the error."""
    stage = routines
    with must_raise(TransactionAborted):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with must_raise(connection.Error):
                with stage.db.connection_context() as inner:
                    add(inner, 2, 10)
                    with pytest.raises(inner.Error):
                        inner.cursor().callproc("undoes_and_logs")
    assert stage.committed() == UNTOUCHED


def test_t4_routine_just_fails(routines: ServerStage) -> None:
    """A procedure that fails as the first statement, or in a nested block, costs nothing else."""
    stage = routines
    with stage.db.connection_context() as connection:
        with pytest.raises(connection.IntegrityError):
            connection.cursor().callproc("refuse")
        add(connection, 1, -10)
        with pytest.raises(connection.IntegrityError):
            with stage.db.connection_context() as inner:
                inner.cursor().callproc("refuse")
        add(connection, 2, 10)
    assert stage.committed() == MOVED


@pytest.mark.parametrize(
    "first", ["DO 0", "CALL refuse()", "UPDATE accounts SET balance = 90 WHERE id = 1"]
)
def test_t4_routine_just_fails_later(routines: ServerStage, first: str) -> None:
    """A procedure that just fails costs nothing that came before it, be it work or not."""
    stage = routines
    with stage.db.connection_context() as connection:
        with contextlib.suppress(connection.Error):
            run(connection, first)
        for _ in range(2):
            with pytest.raises(connection.IntegrityError):
                run(connection, "CALL refuse()")
        run(connection, "UPDATE accounts SET balance = 90 WHERE id = 1")
        add(connection, 2, 10)
    assert stage.committed() == MOVED


def test_t4_no_question_after_plain_error(proof_stage: ServerStage) -> None:
    """An error of a plain statement costs no further round trip."""
    stage = proof_stage
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        cursor = connection.cursor()
        before = stage.proxy.round_trips
        with pytest.raises(connection.IntegrityError):
            cursor.execute(DUPLICATE)
        assert stage.proxy.round_trips - before <= 1
        add(connection, 2, 10)
    assert stage.committed() == MOVED


# What would end the process


CRASHES = {
    "fetchall": "cursor.fetchall()",
    "fetchmany": "cursor.fetchmany(2)",
    "fetchone": "cursor.fetchone()",
    "iteration": "list(cursor)",
    "rowcount": "cursor.rowcount",
    "scroll": "cursor.scroll(0, 'absolute')",
    "metadata": "cursor.metadata",
    "description": "cursor.description",
    "nextset": "cursor.nextset()",
}
PROGRAM = """
import sys
from flask import Flask
from flask_pooled_db import PooledDB
app = Flask("app")
app.config["POOLED_DB_URL"] = sys.argv[1]
db = PooledDB(app)
with app.app_context(), db.connection_context() as connection:
    cursor = connection.cursor()
    for good, bad in GOOD_AND_BAD:
        for _ in range(2):
            cursor.execute(*good)
            try:
                cursor.execute(*bad)
            except connection.Error:
                pass
            else:
                raise SystemExit("no error")
            try:
                print(READ)
            except connection.Error as error:
                print(type(error).__name__)
    cursor.execute("SELECT 1")
    assert cursor.fetchall() == [(1,)] and cursor.rowcount == 1
    cursor.close()
    try:
        print(READ)
    except Exception as error:
        print(type(error).__name__)
db.close()
"""
GOOD_AND_BAD = [
    (("SELECT 1",), ("NO SQL",)),
    (("SELECT 1",), ("SELECT ?, ?", (1,))),
    (("SELECT ? UNION SELECT ?", (b"a", b"b")), ("NO SQL ?", (b"a",))),
    (("SELECT ? UNION SELECT ?", (1, 2)), ("NO SQL",)),
]


@pytest.mark.parametrize("read", CRASHES.values(), ids=CRASHES)
def test_t4_reading_after_failure(mariadb: MariaDBServer, read: str) -> None:
    """To read from a cursor of the connector after a failed statement does not end the process."""
    url = mariadb.url("mariadbconnector", mariadb.create_database())
    program = f"GOOD_AND_BAD = {GOOD_AND_BAD!r}\n{PROGRAM.replace('READ', read)}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    value = {"rowcount": "-1", "metadata": "None", "description": "None", "nextset": "None"}
    expected = value.get(read.removeprefix("cursor.").removesuffix("()"), "ProgrammingError")
    assert set(done.stdout.splitlines()[:-1]) <= {expected, "False"}
